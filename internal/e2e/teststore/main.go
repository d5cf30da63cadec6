// Command teststore is a store plugin in a process of its own for the end-to-end
// tests: a disk in a file, which commits a misdeed, if it is told one, at each
// write that begins at 1 MiB or behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"blockengine/sdk/block"
	"blockengine/sdk/process"
	"blockengine/sdk/store"
)

// version is set by the linker.
var version = "1.0.0"

func main() { process.Serve(process.Options{Store: plugin{}}) }

type plugin struct{}

func (plugin) Manifest() store.Manifest {
	return store.Manifest{Name: "teststore", Version: version, FenceOnExit: true, // a write is over when its system call is
		Options: []store.Option{
			{Name: "path", Type: store.Path, Help: "the file; none: memory"},
			{Name: "size", Type: store.Size, Help: "of a disk in memory"},
			{Name: "watch", Type: store.Bool, Help: "look at the file's size all the time"},
			{Name: "misdeed", Type: store.String, Help: "what to do wrong"},
		}}
}

func (plugin) Open(_ context.Context, o store.Options) (store.Device, error) {
	d := &disk{misdeed: misdeeds[o.Strings["misdeed"]]}
	if name := o.Strings["misdeed"]; name != "" && d.misdeed == nil {
		return nil, fmt.Errorf("there is no misdeed %q", name)
	}
	path := o.Strings["path"]
	if path == "" {
		path = fmt.Sprintf("/dev/shm/%s", o.Volume)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d.f = f
	if n := o.Sizes["size"]; n > 0 {
		if err := f.Truncate(int64(n)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.info = block.Info{Size: uint64(st.Size()), BlockSize: 512, PreferredBlock: 4096,
		Caps: block.CapFlush | block.CapFlushCoversAll, Identity: o.Volume}
	d.size.Store(d.info.Size)
	if o.Bools["watch"] {
		return watchful{d}, nil
	}
	return d, nil
}

type disk struct {
	f       *os.File
	info    block.Info
	size    atomic.Uint64 // bytes, by now
	misdeed func(*channel)
}

func (d *disk) Close() error { return d.f.Close() }

func (d *disk) Info() block.Info {
	info := d.info
	info.Size = d.size.Load()
	return info
}

func (d *disk) Channel(done store.Completer) (store.Channel, error) { return &channel{d, done}, nil }

type channel struct {
	*disk
	done store.Completer
}

func (c *channel) Close() {}

const from = 1 << 20 // bytes; where writes are answered by misdeeds

func (c *channel) Submit(batch []*block.Request) {
	for _, r := range batch {
		if r.Op == block.OpWrite && r.Offset >= from && c.misdeed != nil {
			c.misdeed(c)
		}
		r.Status = c.serve(r)
		c.done.Complete(r)
	}
}

func (c *channel) serve(r *block.Request) block.Status {
	at := int64(r.Offset)
	for _, part := range r.Data {
		var err error
		if r.Op == block.OpRead {
			_, err = c.f.ReadAt(part, at)
		} else {
			_, err = c.f.WriteAt(part, at)
		}
		if err != nil {
			return statusOf(err)
		}
		at += int64(len(part))
	}
	switch r.Op {
	case block.OpRead:
		r.Filled = r.Length
	case block.OpFlush:
		if err := c.f.Sync(); err != nil {
			return statusOf(err)
		}
	}
	return block.OK
}

func statusOf(err error) block.Status {
	var no syscall.Errno
	if errors.As(err, &no) {
		return block.Status(no)
	}
	return block.EIO
}
