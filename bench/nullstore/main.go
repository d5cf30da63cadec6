// Command nullstore is a store plugin that forgets what is written and reads as
// zeroes, as the engine's builtin null does: what it costs is the way to another
// process and back.
package main

import (
	"context"
	"errors"

	"blockengine/sdk/block"
	"blockengine/sdk/process"
	"blockengine/sdk/store"
)

func main() { process.Serve(process.Options{Store: plugin{}}) }

type plugin struct{}

func (plugin) Manifest() store.Manifest {
	return store.Manifest{Name: "nullstore", Version: "1.0.0", FenceOnExit: true,
		Options: []store.Option{{Name: "size", Type: store.Size, Required: true, Help: "bytes of the disk"}}}
}

const blockSize = 512

func (plugin) Open(_ context.Context, o store.Options) (store.Device, error) {
	size := o.Sizes["size"]
	if size == 0 || size%blockSize != 0 {
		return nil, errors.New("size is not a multiple of 512 above 0")
	}
	return device(size), nil
}

type device uint64

func (d device) Info() block.Info {
	return block.Info{Size: uint64(d), BlockSize: blockSize, PreferredBlock: 4096, Identity: "null"}
}

func (device) Channel(done store.Completer) (store.Channel, error) { return channel{done}, nil }
func (device) Close() error                                        { return nil }

type channel struct{ done store.Completer }

func (c channel) Submit(batch []*block.Request) {
	for _, r := range batch {
		if r.Op == block.OpRead {
			for _, b := range r.Data {
				clear(b)
			}
			r.Filled = r.Length
		}
		r.Status = block.OK
		c.done.Complete(r)
	}
}

func (channel) Close() {}
