package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/volume"
)

// Method is how a generation takes over from the one before (DESIGN chapter 5).
type Method uint8

// The methods, in order of preference.
const (
	Handover      Method = iota + 1 // the new version goes on, on the same sockets
	SecondSession                   // it logs in beside the old one, which is drained
	Serial                          // the old one is drained and takes leave first
)

var methodNames = [...]string{"", "handover", "second-session", "serial"}

func (m Method) String() string { return methodNames[m] }

// ParseMethod is the inverse of String.
func ParseMethod(s string) (Method, bool) {
	for m := Handover; m <= Serial; m++ {
		if m.String() == s {
			return m, true
		}
	}
	return 0, false
}

// Takeover is an order to go over to another generation.
type Takeover struct {
	To      *Generation
	Methods []Method      // that may be used, tried in this order; none: all
	Drain   time.Duration // how long what is outstanding may take to finish
	// Report is told what happens, in a line, on the caller's goroutine. May be nil.
	Report func(m Method, text string)
}

// Outcome of a takeover.
type Outcome struct {
	Method Method
	Pause  time.Duration // the longest that a request had to wait for it
}

// ErrNotVerified says that a generation cannot be tried beside the one that
// runs: the server admits no further connection, or the protocol has one
// session only, or the volume is not online.
var ErrNotVerified = errors.New("no second connection can be had")

// TakeOver goes over to another generation without failing a request. When it
// fails the generation before goes on; no request has failed then either.
// It is called by one goroutine at a time.
func (s *Session) TakeOver(ctx context.Context, t Takeover) (Outcome, error) {
	if s.stopped.Load() || s.isStopped() {
		return Outcome{}, errStopped
	}
	if len(t.Methods) == 0 {
		t.Methods = []Method{Handover, SecondSession, Serial}
	}
	o := &order{Takeover: t, s: s, from: s.gen.Load()}
	if o.Drain <= 0 {
		o.Drain = defaultDrain
	}
	o.Drain = min(o.Drain, s.opt.Timeout/2) // else what waits meanwhile would fail
	s.turn.Lock()                           // an observer joins soon
	defer s.turn.Unlock()
	if err := o.settled(ctx); err != nil {
		return Outcome{}, err
	}
	s.onEach(func(c *channel) { c.pause = 0 })
	s.take(true)
	defer s.take(false)
	var errs []error
	for _, m := range t.Methods {
		err := o.try(ctx, m)
		if err == nil && s.isStopped() {
			err = errStopped
		}
		if err == nil {
			return Outcome{Method: m, Pause: o.pause()}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", m, err))
		if ctx.Err() != nil || final(err) {
			break
		}
		o.report(m, err.Error())
	}
	return Outcome{}, join(errs)
}

const defaultDrain = 5 * time.Second

// settled waits until what an earlier takeover has left is over.
func (o *order) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Drain, errDrain)
	defer cancel()
	for {
		busy := false
		o.s.onEach(func(c *channel) {
			busy = busy || c.next != nil || c.draining != nil || c.held&holdRetreat != 0
		})
		if !busy {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take says whether a takeover is under way. Channels that are made meanwhile
// wait for its end.
func (s *Session) take(on bool) {
	s.mu.Lock()
	s.taking = on
	s.mu.Unlock()
	if !on {
		s.onEach(func(c *channel) { c.release(holdTakeover) })
	}
}

func (s *Session) isStopped() bool {
	st, _ := s.opt.Volume.State()
	return st == volume.Stopped
}

var errStopped = errors.New("the volume is stopped, it does not go on by itself")

// errDrain is why a takeover is given up while requests are outstanding.
var errDrain = errors.New("requests that are outstanding have not finished in time: the server is slow, or hangs; try again, or give a longer drain")

// final tells whether no other method can do better.
func final(err error) bool {
	var disk *otherDisk
	var bad *faulty
	return errors.Is(err, errDrain) || errors.Is(err, errStopped) || errors.As(err, &disk) || errors.As(err, &bad)
}

// order is a takeover that is under way.
type order struct {
	Takeover
	s    *Session
	from *Generation
}

func (o *order) report(m Method, text string) {
	if o.Report != nil {
		o.Report(m, text)
	}
}

func (o *order) try(ctx context.Context, m Method) error {
	o.s.forget(o.To)
	switch m {
	case Handover:
		return o.handover(ctx)
	case SecondSession:
		return o.second(ctx)
	default:
		return o.serial(ctx)
	}
}

// pause is the longest that a request had to wait. What waits has gone on when
// the channels are asked: release has come before.
func (o *order) pause() time.Duration {
	o.s.take(false)
	longest := int64(0)
	for range patience {
		waiting := false
		o.s.onEach(func(c *channel) {
			longest, c.pause = max(longest, c.pause), 0
			waiting = waiting || c.heldAt != 0
		})
		if !waiting {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return time.Duration(longest)
}

// patience is how many ms a channel has to go on before its pause is reported
// without it.
const patience = 500

// several are errors of methods or channels, in a line.
type several []error

// join gives what there is of errors, nil for nothing.
func join(errs []error) error {
	var list several
	for _, err := range errs {
		if err != nil && !slices.ContainsFunc(list, func(have error) bool { return have.Error() == err.Error() }) {
			list = append(list, err)
		}
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return list
}

func (s several) Error() string {
	texts := make([]string, len(s))
	for i, err := range s {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives them all.
func (s several) Unwrap() []error { return s }

// onEach runs f on the reactor of every channel, one after the other.
func (s *Session) onEach(f func(c *channel)) {
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			c.r.Do(func() { f(c) })
		}
	}
}

// all begins f on every channel and waits until each has called done, or ctx
// ends. What is still to come then comes to nobody.
func (s *Session) all(ctx context.Context, f func(c *channel, done func(error))) error {
	n := 0
	results := make(chan error, len(s.channels))
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			n++
			c.r.Do(func() { f(c, func(err error) { results <- err }) })
		}
	}
	var errs []error
	for range n {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-ctx.Done():
			return join(append(errs, context.Cause(ctx)))
		}
	}
	return join(errs)
}

// drain holds every channel and waits until its connection is quiet.
func (o *order) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Drain, errDrain)
	defer cancel()
	return o.s.all(ctx, func(c *channel, done func(error)) {
		c.hold(holdTakeover)
		c.conn.awaitQuiet(func() { done(nil) })
	})
}

// free lets every channel go on.
func (o *order) free() { o.s.onEach(func(c *channel) { c.release(holdTakeover) }) }

// handover has the new version go on with the connections that there are. A
// channel whose connection is not online makes its next one with it.
func (o *order) handover(ctx context.Context) error {
	if err := o.canHandOver(); err != nil {
		return err
	}
	insts, err := o.instances(ctx)
	defer func() {
		for _, inst := range insts {
			if inst != nil {
				inst.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	o.To.parity = o.from.parity // it is the same session; a trial login may have had another
	defer o.free()
	if err := o.drain(ctx); err != nil {
		return err
	}
	if err := o.stage(insts); err != nil {
		o.s.onEach(func(c *channel) {
			if c.conn != nil {
				c.conn.unstage()
			}
		})
		return err
	}
	o.s.gen.Store(o.To)
	o.s.onEach(func(c *channel) { c.adopt() })
	return nil // free comes when all have their numbers in the new generation
}

// canHandOver asks every connection, and whether there is one.
func (o *order) canHandOver() error {
	if o.from.store != nil {
		return errors.New("a store has no connection that could be handed over")
	}
	open, able := 0, 0
	o.s.onEach(func(c *channel) {
		if c.isOnline() {
			open++
			if c.conn.handover {
				able++
			}
		}
	})
	switch {
	case open == 0:
		return errors.New("there is no connection to hand over")
	case able < open:
		return errors.New("the version that runs cannot save its state")
	}
	return nil
}

// instances makes one for each channel that there is, or may be meanwhile.
func (o *order) instances(ctx context.Context) ([]guest.Instance, error) {
	list := make([]guest.Instance, len(o.s.channels))
	for i := range list {
		if o.s.channels[i].Load() == nil {
			continue
		}
		var err error
		if list[i], err = o.To.module.NewInstance(ctx); err != nil {
			return list, &faulty{err}
		}
	}
	return list, nil
}

// stage prepares every online connection, and says what speaks against it.
// Instances that are used are taken out of the list.
func (o *order) stage(insts []guest.Instance) error {
	var errs []error
	o.s.onEach(func(c *channel) {
		cn, i := c.conn, c.r.Index()
		if len(errs) > 0 || !c.isOnline() {
			return
		}
		if insts[i] == nil || !cn.isQuiet() {
			errs = append(errs, errDrain) // it has come meanwhile
			return
		}
		inst := insts[i]
		insts[i] = nil
		if err := cn.stage(o.To, inst); err != nil {
			errs = append(errs, err)
		}
	})
	return join(errs)
}

// Cut goes over to g at once, because the generation that runs is not to be
// trusted: its connections are given up as if they had failed, with the fence
// and the replay that this takes (rules 1 and 3).
func (s *Session) Cut(g *Generation, why string) {
	s.gen.Store(g)
	s.onEach(func(c *channel) {
		for _, cn := range [...]*conn{c.next, c.draining, c.conn} {
			if cn != nil && cn.gen != g {
				cn.lose(loss{text: why})
			}
		}
		c.backoff = 0
		c.r.StopTimer(&c.retry)
		c.start()
	})
}
