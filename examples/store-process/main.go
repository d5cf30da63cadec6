// Command store-process is the smallest store plugin in a process of its own, a
// disk in memory:
//
//	go build -o ram ./examples/store-process
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/process"
	"blockengine/sdk/store"
)

func main() { process.Serve(process.Options{Store: ram{}}) }

type ram struct{}

func (ram) Manifest() store.Manifest {
	return store.Manifest{Name: "ram", Version: "1.0.0", FenceOnExit: true, // its memory goes with the process
		Options: []store.Option{{Name: "size", Type: store.Size, Required: true, Help: "size of the disk"}}}
}

func (ram) Open(_ context.Context, o store.Options) (store.Device, error) {
	size := o.Sizes["size"]
	if size == 0 || size%512 != 0 || size > 1<<40 {
		return nil, errors.New("size: give a multiple of 512 bytes, up to 1TiB")
	}
	// A disk that has lost what was written is another disk, and the engine has to
	// know: it stops the volume and does not serve zeroes.
	id := fmt.Sprintf("ram-%s-%d", o.Volume, time.Now().UnixNano())
	return &disk{make([]byte, size), block.Info{Size: size, BlockSize: 512, PreferredBlock: 4096, Identity: id}}, nil
}

type disk struct {
	data []byte
	info block.Info
}

func (d *disk) Info() block.Info { return d.info }
func (d *disk) Close() error     { return nil }

func (d *disk) Channel(done store.Completer) (store.Channel, error) { return &channel{d, done}, nil }

type channel struct {
	*disk
	done store.Completer
}

func (c *channel) Close() {}

// Submit gets valid requests only: inside the disk, in whole blocks, and of the
// kinds that Info promises, which here are reads, writes and flushes.
func (c *channel) Submit(batch []*block.Request) {
	for _, r := range batch {
		at := c.data[r.Offset:]
		for _, part := range r.Data {
			if r.Op == block.OpRead {
				copy(part, at)
			} else {
				copy(at, part)
			}
			at = at[len(part):]
		}
		if r.Op == block.OpRead {
			r.Filled = r.Length
		}
		r.Status = block.OK
		c.done.Complete(r)
	}
}
