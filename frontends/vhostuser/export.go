package vhostuser

import (
	"fmt"
	"sync/atomic"

	"blockengine/engine/volume"
	"blockengine/frontends/virtioblk"
)

// maxQueues is how many a message can name.
const maxQueues = 256

// Export is a volume as a virtual machine's disk.
type Export struct {
	Name     string
	Volume   *volume.Volume // its disk has been seen
	ReadOnly bool
	Queues   int    // 1 to 256; 0: one
	Serial   string // that the guest sees, up to 20 bytes
}

// export is an Export in use.
type export struct {
	Export
	s *Server

	connected   atomic.Bool
	connections atomic.Uint64
	failures    atomic.Uint64
	runs        atomic.Int64 // queues
}

func newExport(s *Server, e Export) (*export, error) {
	if e.Queues == 0 {
		e.Queues = 1
	}
	x := &export{Export: e, s: s}
	switch {
	case e.Volume == nil:
		return nil, fmt.Errorf("vhost-user export %q: it has no volume", e.Name)
	case e.Queues < 0 || e.Queues > maxQueues:
		return nil, fmt.Errorf("vhost-user export %q: %d queues: give 1 to %d", e.Name, e.Queues, maxQueues)
	}
	if _, seen := e.Volume.Info(); !seen {
		return nil, fmt.Errorf("vhost-user export %q: %w", e.Name, volume.ErrNotOpen)
	}
	if _, err := virtioblk.NewDevice(x.deviceOptions()); err != nil {
		return nil, fmt.Errorf("vhost-user export %q: %w", e.Name, err)
	}
	return x, nil
}

func (x *export) deviceOptions() virtioblk.Options {
	return virtioblk.Options{Queues: x.Queues, ReadOnly: x.ReadOnly, Serial: x.Serial}
}
