package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	calls "blockengine/sdk/process/control"
)

// A disk may change while it is open. Its process says that it has, or an operator
// orders a look. Either way the process is then asked what the disk is like, by
// one at a time, so that an older answer never comes after a newer one.

const (
	newsEvery     = 100 * time.Millisecond // least time between two questions because of what a process says
	rescanTimeout = 30 * time.Second       // for a plugin to look at what is behind its disk
)

// asks tells whether the plugin's SDK knows the calls.
func (p *proc) asks() bool { return p.host.said.Version&0xffff >= calls.DeviceInfoMinor }

// follow asks to be told of changes of d until that is closed or the process has
// ended. What it is told is asked for at a bounded rate.
func (p *proc) follow(d *device) {
	seen, said := uint64(0), ""
	for {
		c, err := p.calls.WatchDevice(d.life, &calls.WatchDevice{Device: d.number, Seen: seen})
		if err != nil || c.Never {
			if err != nil && d.life.Err() == nil && !p.isOver() {
				p.host.log.Warn("the plugin cannot tell whether a disk changes", "volume", d.volume, "err", plain(err))
			}
			return
		}
		seen = c.Changes
		err = p.renew(d.life, d, false)
		if err != nil && d.life.Err() == nil && err.Error() != said { // the same once more is no news
			said = err.Error()
			p.host.log.Error("what the plugin says of a changed disk is of no use, and left aside", "volume", d.volume, "err", err)
		}
		select {
		case <-d.life.Done():
			return
		case <-time.After(newsEvery):
		}
	}
}

// renew asks what d is like now, and tells its links. With rescan the plugin looks
// first. It waits.
func (p *proc) renew(ctx context.Context, d *device, rescan bool) error {
	if !p.asks() {
		return errors.New("its SDK is too old to be asked about a disk that is open: build it with the SDK of this engine's release")
	}
	limit := callTimeout
	if rescan {
		limit = rescanTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case d.asking <- struct{}{}:
		defer func() { <-d.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m, err := p.calls.DeviceInfo(ctx, &calls.DeviceInfo{Device: d.number, Rescan: rescan})
	if err != nil {
		return p.orEnd(err)
	}
	info := m.Block()
	if err := checkInfo(&info); err != nil {
		return err
	}
	p.changed(d, info)
	return nil
}

// changed tells the links of d what it is like. All of them know before the first
// acts on it: see link.Info.
func (p *proc) changed(d *device, info block.Info) {
	p.mu.Lock()
	if d.info == info {
		p.mu.Unlock()
		return
	}
	d.info = info
	var told []*link
	for _, m := range p.members {
		if l, ok := m.(*link); ok && l.disk == d {
			l.note(info)
			told = append(told, l)
		}
	}
	p.mu.Unlock()
	for _, l := range told {
		l.tell()
	}
}

// joined makes a link, which is among the members by now, one of d's. What has
// changed since it was made it has missed.
func (p *proc) joined(l *link, d *device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.note(d.info)
	l.rescan = func(ctx context.Context) error {
		if err := p.renew(ctx, d, true); err != nil {
			return fmt.Errorf("plugin %q: %w", p.host.opt.Name, err)
		}
		return nil
	}
}

// Info implements guest.Link. Whatever an owner of another link to the disk has
// been told before, this one says, too.
func (l *link) Info() block.Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

// note takes in what the disk is like. A slot's buffer has the size that it has.
func (l *link) note(info block.Info) {
	info.MaxTransfer = l.transfer
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = info
}

// tell has the owner look at Info. One that has not started the link will anyway.
func (l *link) tell() {
	l.mu.Lock()
	on := l.on
	l.mu.Unlock()
	if on != nil {
		on.Post(reactor.MailFunc(l.deliverNews))
	}
}

func (l *link) deliverNews() {
	if !l.over {
		l.owner.Changed(l.Info())
	}
}

// Rescan implements guest.Rescanner.
func (l *link) Rescan(ctx context.Context) error { return l.rescan(ctx) }
