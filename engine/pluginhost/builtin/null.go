package builtin

import (
	"context"
	"fmt"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// Null gives the plugin "null": a disk of the wanted size that reads as
// zeroes and forgets what is written. What a run against it costs is the
// engine's own cost.
func Null() store.Plugin { return nullPlugin{} }

type nullPlugin struct{}

// Manifest implements store.Plugin.
func (nullPlugin) Manifest() store.Manifest {
	return store.Manifest{
		Name:    "null",
		Version: "1",
		Options: []store.Option{
			{Name: "size", Type: store.Size, Required: true, Help: "size of the disk"},
		},
	}
}

// Open implements store.Plugin.
func (nullPlugin) Open(_ context.Context, o store.Options) (store.Device, error) {
	size, err := checkSize("null", o)
	if err != nil {
		return nil, err
	}
	return &nullDevice{info: block.Info{
		Size:           size,
		BlockSize:      1,
		PreferredBlock: 4096,
		Caps:           capsFor(inlineCaps, o.ReadOnly),
		Identity:       fmt.Sprintf("null:%d", size),
	}}, nil
}

// nullDevice has no state, so its channels share it freely.
type nullDevice struct {
	info block.Info
}

// Info implements store.Device.
func (d *nullDevice) Info() block.Info { return d.info }

// Channel implements store.Device.
func (d *nullDevice) Channel(done store.Completer) (store.Channel, error) {
	return &inlineChannel{dev: d, done: done}, nil
}

// Close implements store.Device.
func (d *nullDevice) Close() error { return nil }

func (d *nullDevice) serve(r *block.Request) block.Status {
	if r.Op.Modifies() && d.info.Has(block.CapReadOnly) {
		return block.EROFS
	}
	switch r.Op {
	case block.OpRead:
		clearSegments(r)
		r.Filled = r.Length
	case block.OpBlockStatus:
		if !appendExtent(r, len(r.Extents), r.Length, block.Hole|block.Zero) {
			return block.EINVAL
		}
	case block.OpWrite, block.OpFlush, block.OpDiscard, block.OpWriteZeroes, block.OpCache:
	default:
		return block.EINVAL
	}
	return block.OK
}
