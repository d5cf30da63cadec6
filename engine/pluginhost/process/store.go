package process

import (
	"context"
	"fmt"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/block"
	calls "blockengine/sdk/process/control"
)

// linkDepth is how many requests a link has outstanding at most.
const linkDepth = 128

// Store gives the plugin as a store, nil if it is none.
func (l *Loaded) Store() guest.Store {
	if l.host.said.Kind != calls.Store {
		return nil
	}
	return storePlugin{l.host}
}

// storePlugin is a guest.Store.
type storePlugin struct{ *host }

// FenceOnExit implements guest.Store.
func (s storePlugin) FenceOnExit() bool { return s.said.FenceOnExit }

// NewLink implements guest.Store.
func (s storePlugin) NewLink(ctx context.Context, o guest.LinkOptions) (guest.Link, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	p, err := s.process(ctx)
	if err != nil {
		s.release()
		return nil, err
	}
	l, err := p.newLink(ctx, o)
	if err != nil {
		s.release()
		return nil, fmt.Errorf("plugin %q: %w", s.opt.Name, err)
	}
	return l, nil
}

func (p *proc) newLink(ctx context.Context, o guest.LinkOptions) (*link, error) {
	d, err := p.joinDevice(ctx, o)
	if err != nil {
		return nil, err
	}
	info := p.infoOf(d)
	layout, err := layoutFor(&info, linkDepth)
	if err == nil {
		var l *link
		err = p.open(ctx, d, layout, func(r *region, k hooks) member {
			l = newLink(r, info, k)
			l.disk = d
			if p.host.lends() {
				l.lending.lender, l.lending.totals = p.lender, &p.host.payloads
			}
			return l
		})
		if err == nil {
			p.joined(l, d)
			return l, nil
		}
	}
	p.dropDevice(d)
	return nil, err
}

// device is a volume's disk in a process. It is open while it has links.
type device struct {
	key    string
	number uint64
	volume string
	life   context.Context // ends when the disk is closed
	end    context.CancelFunc
	asking chan struct{} // holds one: who asks what the disk is like
	links  int           // proc.mu guards it
	opened chan struct{} // closed when what follows is there
	closed chan struct{} // closed when the process has closed it, or has ended
	info   block.Info    // after opened; proc.mu guards it
	err    error
}

func newDevice(key string, number uint64, volume string) *device {
	d := &device{key: key, number: number, volume: volume, asking: make(chan struct{}, 1),
		opened: make(chan struct{}), closed: make(chan struct{})}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

func (p *proc) infoOf(d *device) block.Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	return d.info
}

// joinDevice opens a volume's disk, or joins the links that it has. It waits.
func (p *proc) joinDevice(ctx context.Context, o guest.LinkOptions) (*device, error) {
	key := fmt.Sprintf("%s\x00%t\x00%s", o.Volume, o.ReadOnly, o.Options)
	number := p.host.number()
	for {
		p.mu.Lock()
		d := p.devices[key]
		opens := d == nil
		if opens {
			d = newDevice(key, number, o.Volume)
			p.devices[key] = d
		}
		leaving := !opens && d.links == 0
		if !leaving {
			d.links++
		}
		p.mu.Unlock()
		if opens {
			p.openDevice(ctx, d, o)
		}
		wait := d.opened
		if leaving {
			wait = d.closed
		}
		select {
		case <-wait:
		case <-ctx.Done():
			if !leaving {
				p.dropDevice(d)
			}
			return nil, context.Cause(ctx)
		}
		if leaving {
			continue // it is opened anew
		}
		if d.err != nil {
			p.dropDevice(d)
			return nil, d.err
		}
		return d, nil
	}
}

// openDevice has the process open a disk.
func (p *proc) openDevice(ctx context.Context, d *device, o guest.LinkOptions) {
	defer close(d.opened)
	info, err := p.calls.OpenDevice(ctx, &calls.OpenDevice{Device: d.number, Volume: o.Volume, ReadOnly: o.ReadOnly, Options: o.Options})
	if err != nil {
		d.err = fmt.Errorf("volume %q cannot be opened: %w", o.Volume, p.orEnd(err))
		return
	}
	d.info = info.Block()
	if err := checkInfo(&d.info); err != nil {
		d.err = fmt.Errorf("volume %q: %w", o.Volume, err)
		return
	}
	if p.asks() {
		go p.follow(d)
	}
}

// leaveDevice counts a link less; with the last one the process closes the disk.
// It waits for that. An error means that the process has to be killed.
func (p *proc) leaveDevice(d *device) error {
	p.mu.Lock()
	d.links--
	last := d.links == 0
	p.mu.Unlock()
	if !last {
		return nil
	}
	d.end()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := p.calls.CloseDevice(ctx, &calls.CloseDevice{Device: d.number})
	p.mu.Lock()
	delete(p.devices, d.key)
	p.mu.Unlock()
	close(d.closed)
	if err != nil && ctx.Err() == nil && !p.isOver() {
		p.host.log.Warn("the plugin closed a disk with an error", "err", plain(err))
		return nil
	}
	return err
}

// dropDevice is leaveDevice for whoever could not make a link.
func (p *proc) dropDevice(d *device) {
	if err := p.leaveDevice(d); err != nil {
		p.kill(p.hung(fmt.Sprintf("does not close a disk: %v", plain(err))))
	}
}

// isOver tells whether the process has ended.
func (p *proc) isOver() bool {
	select {
	case <-p.run.proc.Done():
		return true
	default:
		return false
	}
}
