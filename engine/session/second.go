package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/sdk/abi"
)

// Connections of a generation beside those that serve: on trial, or to take
// over from them.

// sideLimit bounds the wait for such a connection, which has limits of its own
// that say more: to connect, and to log in.
const sideLimit = 2*connectTimeout + time.Second

// openNext makes a connection of g beside the one that serves; done is told
// when it has logged in and shows the same disk, or why not.
func (c *channel) openNext(g *Generation, done func(error)) {
	if c.next != nil || c.closing || c.stopped {
		done(errors.New("the volume ends, or another version is being tried"))
		return
	}
	cn := newConn(c, g)
	cn.kind = abi.SessionSecond
	cn.side = func(l *loss) { done(l.err()) }
	c.next = cn
	cn.dial()
}

// err says why a connection beside the one that serves could not be had.
func (l *loss) err() error {
	switch {
	case l == nil:
		return nil
	case l.disk != nil:
		return l.disk
	case l.fault():
		return &faulty{fmt.Errorf("the new version cannot log in: %s", l.text)}
	}
	return fmt.Errorf("a second session cannot be had: %s", l.text)
}

// closeNext takes leave of what openNext has made.
func (c *channel) closeNext(done func()) { c.next.leave(done) }

// mayOpen tells whether the server admits more connections beside those that
// there are, without ending one of them.
func (s *Session) mayOpen(more int) error {
	_, conns := s.seen()
	if s.gen.Load().store != nil {
		return errors.New("a store's disk is open in one process at a time")
	}
	open, reinstates := 0, false
	s.onEach(func(c *channel) {
		if c.isOnline() {
			open++
			reinstates = reinstates || c.conn.fence == abi.FenceReinstate
		}
	})
	switch {
	case open == 0:
		return errors.New("the volume is not online")
	case reinstates:
		return errors.New("a second session would end the first one")
	case int(conns) < open+more:
		return fmt.Errorf("the server admits %d connections, and %d are open", conns, open)
	}
	return nil
}

// Verify has g log in on a connection of its own, compares the disk with the
// volume's, and takes leave. Nothing else changes. The error is ErrNotVerified
// if that is not possible here. It is not called during a takeover.
func (s *Session) Verify(ctx context.Context, g *Generation) error {
	if err := s.mayOpen(1); err != nil {
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	c := s.channels[s.opt.Home.Index()].Load()
	result := make(chan error, 1)
	ctx, cancel := context.WithTimeout(ctx, sideLimit)
	defer cancel()
	g.parity = s.gen.Load().parity ^ 1
	c.r.Do(func() {
		c.openNext(g, func(err error) { result <- err })
	})
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	gone := make(chan struct{})
	c.r.Do(func() { c.closeNext(func() { close(gone) }) })
	select {
	case <-gone:
	case <-time.After(leaveLimit):
	}
	s.forget(g)
	if err != nil && !final(err) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrNotVerified, err)
	}
	return err
}

// second has the new generation log in beside the one that serves. Then new
// requests are its, and the other ends what it has.
func (o *order) second(ctx context.Context) error {
	n := 0
	o.s.onEach(func(c *channel) {
		if c.isOnline() {
			n++
		}
	})
	if err := o.s.mayOpen(n); err != nil {
		return err
	}
	o.To.parity = o.from.parity ^ 1
	if err := o.openAll(ctx); err != nil {
		o.closeAll()
		return err
	}
	o.s.gen.Store(o.To)
	o.s.onEach(func(c *channel) {
		c.exchange()
		c.release(holdTakeover)
	})
	return o.drainOld(ctx)
}

// openAll makes the new generation's connections, the control connection first.
func (o *order) openAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sideLimit)
	defer cancel()
	home := o.s.channels[o.s.opt.Home.Index()].Load()
	for _, first := range []bool{true, false} {
		err := o.s.all(ctx, func(c *channel, done func(error)) {
			if (c == home) != first || !c.isOnline() {
				done(nil)
				return
			}
			c.openNext(o.To, done)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// closeAll takes leave of what openAll has made.
func (o *order) closeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	_ = o.s.all(ctx, func(c *channel, done func(error)) {
		c.closeNext(func() { done(nil) })
	})
}

// exchange has the connection in c.next serve, and the other one drain.
func (c *channel) exchange() {
	if c.next == nil {
		c.adopt()
		return
	}
	c.draining, c.conn, c.next = c.conn, c.next, nil
	if c.draining != nil && c.draining.state != online {
		c.draining.lose(loss{}) // it has been lost and was to be made anew
	}
	c.up.Store(false)
	c.conn.goOnline()
}

// drainOld waits until the generation before has ended what it has, was flushed
// and has taken leave. If that takes too long it serves again, and the new one
// leaves: nothing is cut.
func (o *order) drainOld(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, o.Drain, errDrain)
	defer cancel()
	err := o.s.all(limited, func(c *channel, done func(error)) {
		c.finishDraining(func(flush error) {
			if flush != nil {
				c.s.log.Error("the generation before was not flushed", "reason", flush)
			}
			done(nil)
		})
	})
	if err == nil {
		return nil
	}
	o.s.gen.Store(o.from)
	o.s.onEach(func(c *channel) { c.exchangeBack() })
	return err
}

// exchangeBack has the connection that is being drained serve again. The other
// one ends what it has; nobody waits for that.
func (c *channel) exchangeBack() {
	old := c.draining
	if old == nil || old.state != online {
		c.adopt() // it has left already
		return
	}
	old.noQuiet()
	c.draining, c.conn = c.conn, old
	old.settled = false
	if c.draining == nil {
		c.up.Store(true)
		c.unparkFlushes()
		return
	}
	if c.draining.state != online {
		c.draining.lose(loss{})
		c.up.Store(true)
		return
	}
	c.r.Defer(&c.submit)
	c.finishDraining(func(error) {})
}
