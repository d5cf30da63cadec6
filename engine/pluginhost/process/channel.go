package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	calls "blockengine/sdk/process/control"
	"blockengine/sdk/process/ring"
)

// open makes a region, has the process serve it, and gives it to what make
// makes. d is the device that it is a channel of, nil for an instance. When it
// has come back well the member releases the region and d; else the caller still
// has d.
func (p *proc) open(ctx context.Context, d *device, l ring.Layout, make func(*region, hooks) member) error {
	r, err := newRegion(p.host.opt.Name, l)
	if err != nil {
		return err
	}
	n := p.host.number()
	if err := p.openChannel(ctx, n, d, r); err != nil {
		r.close()
		return err
	}
	k := hooks{hang: p.host.opt.Hang, broke: p.kill, release: func(done func(bool)) { go p.closeChannel(n, d, done) }}
	m := make(r, k)
	p.mu.Lock()
	over := p.end
	if over == nil {
		p.members[n] = m
	}
	p.mu.Unlock()
	if over != nil {
		m.died(over) // it finds out as it would have a moment later
	}
	return nil
}

// openChannel has the process serve r. When it fails the process does not.
func (p *proc) openChannel(ctx context.Context, n uint64, d *device, r *region) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m := calls.OpenChannel{Channel: n, Layout: r.Layout, Poll: int64(p.host.opt.Poll)}
	if d != nil {
		m.Device = d.number
	}
	if err := p.pass(n, r.files()); err != nil {
		return p.orEnd(err)
	}
	err := p.calls.OpenChannel(ctx, &m)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // it may have come to pass, or still does
		p.undo(n)
	}
	return p.orEnd(err)
}

// undo closes a channel that may have been opened.
func (p *proc) undo(n uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := p.calls.CloseChannel(ctx, &calls.CloseChannel{Channel: n}); err != nil {
		p.kill(p.hung("does not close a channel"))
	}
}

// closeChannel has the process give up channel n of d, which may be nil, and
// calls done when nothing of it can be carried out any more. It waits.
func (p *proc) closeChannel(n uint64, d *device, done func(finished bool)) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := p.calls.CloseChannel(ctx, &calls.CloseChannel{Channel: n})
	if err == nil && d != nil {
		err = p.leaveDevice(d)
	}
	if err != nil {
		p.kill(p.hung(fmt.Sprintf("does not finish what is outstanding: %v", plain(err))))
		<-p.gone
	}
	p.mu.Lock()
	delete(p.members, n) // which may be nil by now
	p.mu.Unlock()
	done(err == nil)
	p.host.release()
}

// orEnd gives why the process has ended if that is what a call has failed of.
func (p *proc) orEnd(err error) error {
	if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled {
		return plain(err)
	}
	select {
	case <-p.run.proc.Done():
	case <-time.After(pipeRest): // the connection may end a moment before the process
		return plain(err)
	}
	<-p.gone
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// plain gives the words of a call's error without gRPC's.
func plain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer in time")
	case codes.Canceled:
		return context.Canceled
	}
	return errors.New(shown(s.Message(), maxTextLength))
}
