package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// trial is a generation that is to connect after the one before has left, with
// nothing beside it.
type trial struct {
	gen     *Generation
	lenient bool       // a server that cannot be reached speaks for nobody
	verdict chan error // nil: it is online; holds one
	last    atomic.Pointer[string]
}

// tellTrial tells what has become of a connection: nil, it is online. What is
// the plugin's own fault ends the trial; what is the server's is tried again.
func (s *Session) tellTrial(g *Generation, l *loss) {
	t := s.trial.Load()
	if t == nil || t.gen != g {
		return
	}
	err := l.err()
	if l != nil && !l.fault() {
		if l.text == "" {
			return // it was to end
		}
		t.last.Store(&l.text)
		if !t.lenient {
			return
		}
		err = nil
	}
	select {
	case t.verdict <- err:
	default: // the first counts
	}
}

// serial has the generation before end what it has, flushes, takes leave, and
// has the new one log in. Requests wait.
func (o *order) serial(ctx context.Context) error {
	s := o.s
	away := s.online.Load() == 0
	defer o.free()
	if err := o.drain(ctx); err != nil {
		return err
	}
	if err := o.flushAll(ctx); err != nil {
		return err
	}
	o.leaveAll()
	o.To.strict, o.To.parity = !away, 0
	err := o.log(ctx, o.To, away)
	if err == nil {
		return nil
	}
	o.report(Serial, "back to the version before: "+err.Error())
	if back := o.log(context.WithoutCancel(ctx), o.from, true); back != nil {
		err = join([]error{err, fmt.Errorf("the version before: %w", back)})
	}
	return err
}

// flushAll flushes what has been acknowledged. A failure is latched for the
// guests, and the version that runs stays: leaving would lose what it may yet
// write.
func (o *order) flushAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Drain, errDrain)
	defer cancel()
	return o.s.all(ctx, func(c *channel, done func(error)) {
		if c.conn == nil {
			done(nil)
			return
		}
		c.conn.flushOwn(done)
	})
}

// leaveLimit bounds the wait for goodbyes, each of which has a limit of its own:
// the reactors may have been stopped.
const leaveLimit = goodbyeTimeout + time.Second

// leaveAll takes leave of the server on every channel.
func (o *order) leaveAll() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	_ = o.s.all(ctx, func(c *channel, done func(error)) {
		c.conn.leave(func() { done(nil) })
	})
}

// log makes g the session's generation, lets channels connect, and waits until
// the first is online. lenient says that a server which cannot be reached is
// nothing new, and no reason to refuse g.
func (o *order) log(ctx context.Context, g *Generation, lenient bool) error {
	s := o.s
	t := &trial{gen: g, lenient: lenient, verdict: make(chan error, 1)}
	s.trial.Store(t)
	defer s.trial.Store(nil)
	s.gen.Store(g)
	s.onEach(func(c *channel) {
		c.adopt()
		c.backoff = 0
		c.r.StopTimer(&c.retry)
		c.startOn = true
		c.release(holdTakeover)
	})
	limit := time.NewTimer(min(connectTimeout, s.opt.Timeout/3))
	defer limit.Stop()
	select {
	case err := <-t.verdict:
		if err != nil {
			s.onEach(func(c *channel) { c.hold(holdTakeover) })
		}
		return err
	case <-limit.C:
		if lenient {
			return nil
		}
	case <-ctx.Done():
	}
	s.onEach(func(c *channel) { c.hold(holdTakeover) })
	return t.err(ctx)
}

// err says why there is no verdict.
func (t *trial) err(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if last := t.last.Load(); last != nil {
		return errors.New("the new version cannot log in: " + *last)
	}
	return errors.New("the new version does not finish its login")
}
