package process

import (
	"context"
	"fmt"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
	calls "blockengine/sdk/process/control"
	"blockengine/sdk/process/ring"
)

// Protocol gives the plugin as a protocol plugin, nil if it is none.
func (l *Loaded) Protocol() guest.Module {
	if l.host.said.Kind != calls.Protocol {
		return nil
	}
	return module{l.host}
}

// module is a protocol plugin: a guest.Module.
type module struct{ *host }

// Manifest implements guest.Module and guest.Store.
func (h *host) Manifest() manifest.Manifest { return h.manifest }

// Hash implements guest.Module and guest.Store.
func (h *host) Hash() string { return h.program.hash }

// Runtime implements guest.Module and guest.Store.
func (h *host) Runtime() string { return "process" }

// NewInstance implements guest.Module. What it gives is a guest.Apart.
func (m module) NewInstance(ctx context.Context) (guest.Instance, error) {
	layout, err := ring.MachineLayout(abi.InSize, abi.OutSize)
	if err != nil {
		return nil, err
	}
	if err := m.acquire(); err != nil {
		return nil, err
	}
	p, err := m.process(ctx)
	if err != nil {
		m.release()
		return nil, err
	}
	var i *instance
	err = p.open(ctx, nil, layout, func(r *region, k hooks) member {
		i = newInstance(r, k)
		return i
	})
	if err != nil {
		m.release()
		return nil, fmt.Errorf("plugin %s: new instance: %w", m.opt.Path, err)
	}
	return i, nil
}
