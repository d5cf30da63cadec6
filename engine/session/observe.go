package session

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/abi"
)

// An observer sees what crosses the seam of a session's connections, from a
// moment on at which another version could have gone on with them. For them
// nothing changes: they are held, as for a handover, until they are quiet, the
// version that runs saves its state, and goes on.

// Observer is what is to be done with connections that can be observed.
type Observer struct {
	// With is another generation that is to do the same as the one that runs: the
	// first event carries its options, and says that it is a shadow. nil: what is
	// seen is the generation that runs.
	With *Generation
	// Drain is how long what is outstanding may take to finish; 0: 5 s.
	Drain time.Duration
	// Join is told of each connection, on its reactor, and gives what is to see
	// its events from now on, nil for nothing. An error ends Observe; of a
	// connection that is made later it is logged. It must not block.
	//
	// A connection that is made while it is observed is told of twice: when its
	// login begins, unless there is a With, whose login would be another one, and
	// when it is online, from what the plugin has saved then.
	Join func(ConnOpening) (guest.Tap, error)
}

// ConnOpening is a connection as another version would be told of it now. What it
// points to stays as it is.
type ConnOpening struct {
	Number  uint32 // in its session
	Reactor int
	// Opened is the event that tells of the connection: resumed, from what the
	// version that runs has saved, or made just now.
	Opened  []byte
	Resumed bool
	// Limits is the action with which the version that runs would answer a
	// resumed Opened; nil for others.
	Limits []byte
	// Judge looks at the answer to a resumed Opened as a handover does. Who gets
	// the answer later calls it later, on the same reactor.
	Judge func(actions []byte) error
}

// Observed is an observation that is under way.
type Observed struct {
	Joined int           // connections that were online
	Pause  time.Duration // the longest that a request had to wait for it

	s *Session
	o *observer
}

// observer is an Observer with what is the session's.
type observer struct {
	Observer
	from *Generation // whose connections are observed
}

// ErrNotObserved says that a session cannot be observed: that is no fault of
// any version.
var ErrNotObserved = errors.New("it cannot be observed")

// Observe joins every connection that is online and those that get so later,
// until Stop. A request waits meanwhile as for a handover, one connection after
// the other. On an error nothing is observed.
func (s *Session) Observe(ctx context.Context, o Observer) (*Observed, error) {
	if s.stopped.Load() || s.isStopped() {
		return nil, errStopped
	}
	if o.Drain <= 0 {
		o.Drain = defaultDrain
	}
	o.Drain = min(o.Drain, s.opt.Timeout/2) // else what waits meanwhile would fail
	if !s.turn.TryLock() {
		return nil, fmt.Errorf("%w: another version is taking over just now, try again when it has", ErrNotObserved)
	}
	defer s.turn.Unlock()
	ob := &observer{o, s.gen.Load()}
	if ob.from.store != nil {
		return nil, fmt.Errorf("%w: it stands on a store, which has no connections", ErrNotObserved)
	}
	if o.With != nil {
		o.With.parity = ob.from.parity // it is the same session
	}
	if !s.observer.CompareAndSwap(nil, ob) {
		return nil, fmt.Errorf("%w: it is being observed already, by a recording or for an upgrade", ErrNotObserved)
	}
	d := &Observed{s: s, o: ob}
	if err := d.joinAll(ctx); err != nil {
		d.Stop()
		return nil, err
	}
	return d, nil
}

// Stop ends the observation; every tap is told. It may be called twice.
func (d *Observed) Stop() {
	if !d.s.observer.CompareAndSwap(d.o, nil) {
		return
	}
	d.s.onEach(func(c *channel) {
		for _, cn := range [...]*conn{c.next, c.draining, c.conn} {
			if cn != nil {
				cn.untap()
			}
		}
	})
}

// joinAll joins the connections that are online, one after the other.
func (d *Observed) joinAll(ctx context.Context) error {
	w := &order{Takeover: Takeover{Drain: d.o.Drain}, s: d.s}
	if err := w.settled(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.Drain, errDrain)
	defer cancel()
	d.s.onEach(func(c *channel) { c.pause = 0 })
	for i := range d.s.channels {
		if c := d.s.channels[i].Load(); c != nil {
			if err := d.joinOne(ctx, c); err != nil {
				return err
			}
		}
	}
	d.Pause = w.pause()
	return nil
}

// joinOne joins the connection of a channel, if it is online.
func (d *Observed) joinOne(ctx context.Context, c *channel) error {
	result := make(chan error, 1)
	over := false // the reactor's
	c.r.Do(func() {
		cn := c.conn
		if !c.isOnline() || c.held&holdObserve != 0 { // it is just being joined
			over = true
			result <- nil
			return
		}
		c.hold(holdObserve)
		cn.awaitQuiet(func() {
			over = true
			joined, err := d.o.join(cn)
			if joined {
				d.Joined++
			}
			c.release(holdObserve)
			result <- err
		})
	})
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	var err error
	c.r.Do(func() {
		if over {
			err = <-result
			return
		}
		if c.conn != nil {
			c.conn.noQuiet()
		}
		c.release(holdObserve)
		err = context.Cause(ctx)
	})
	return err
}

// join hands a quiet connection to the observer.
func (o *observer) join(cn *conn) (joined bool, err error) {
	switch {
	case cn.ch.conn != cn || cn.state != online || cn.gen != o.from:
		return false, nil // it was lost meanwhile; the next one is observed
	case !cn.handover:
		return false, fmt.Errorf("%w: the version that runs cannot save its state, so nobody else can follow a connection that is in use", ErrNotObserved)
	}
	state, err := cn.save()
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrNotObserved, err)
	}
	g := o.from
	if o.With != nil {
		g = o.With
	}
	event := abi.Buffer(abi.InSize)
	n, fits := cn.openedEvent(event, g, opening{kind: abi.SessionResumed, state: state, pos: cn.stream.Pos()})
	if !fits {
		return false, fmt.Errorf("%w: options, session data and the saved state together are too long for the plugin's interface", ErrNotObserved)
	}
	abi.Overlay[abi.Opened](event).Flags |= abi.FlagShadow
	tap, err := o.Join(ConnOpening{Number: cn.number, Reactor: cn.ch.r.Index(), Opened: event[:n], Resumed: true,
		Limits: cn.limitsAction(), Judge: func(actions []byte) error { return cn.judge(&staged{actions: actions}) }})
	if err != nil || tap == nil {
		return false, err
	}
	cn.untap()
	cn.tap = tap
	return true, nil
}

// observeLogin hands a connection whose plugin is about to get its first event,
// the n bytes in its input, to whoever observes the session.
func (cn *conn) observeLogin(n int) {
	o := cn.s().observer.Load()
	if o == nil || o.With != nil || cn.side != nil || cn.gen != o.from {
		return
	}
	event := abi.Buffer(n)
	copy(event, cn.inst.Input())
	tap, err := o.Join(ConnOpening{Number: cn.number, Reactor: cn.ch.r.Index(), Opened: event})
	if err != nil {
		cn.log.Warn("a connection is not observed", "reason", err)
		return
	}
	cn.tap = tap
}

// observeOnline hands a connection that has got online, and on which nothing is
// outstanding yet, to whoever observes the session.
func (cn *conn) observeOnline() {
	o, c := cn.s().observer.Load(), cn.ch
	if o == nil || cn.link != nil || cn.gen != o.from || !cn.handover {
		return
	}
	seen := cn.tap
	c.hold(holdObserve)
	// The plugin is in the middle of a call. This does not wait by awaitQuiet,
	// which a takeover may need meanwhile.
	t := &reactor.Timer{}
	t.Fire = func() {
		switch {
		case cn.s().observer.Load() != o || cn.tap != seen || cn.staged != nil || cn.s().isTaking():
		case !cn.isQuiet():
			c.r.StartTimer(t, quietEvery)
			return
		default:
			if _, err := o.join(cn); err != nil {
				cn.log.Warn("a connection is not observed", "reason", err)
			}
		}
		c.release(holdObserve)
	}
	c.r.StartTimer(t, 0)
}

// isTaking tells whether a takeover is under way.
func (s *Session) isTaking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taking
}

// limitsAction is the action with which the plugin would tell its limits now.
func (cn *conn) limitsAction() []byte {
	const fixed = int(unsafe.Sizeof(abi.Limits{}))
	i, id := &cn.info, cn.info.Identity
	b := abi.Buffer(abi.Align(fixed + len(id)))
	*abi.Overlay[abi.Limits](b) = abi.Limits{
		Header: abi.Header{Kind: abi.ActLimits, Size: uint32(len(b))},
		Size:   i.Size, MaxZeroes: i.MaxZeroes, MaxDiscard: i.MaxDiscard, FenceNS: cn.fenceNS, BlockSize: i.BlockSize,
		Preferred: i.PreferredBlock, MaxTransfer: i.MaxTransfer, Caps: uint32(i.Caps), Depth: cn.depth,
		MaxConns: cn.maxConns, Fence: cn.fence, Handover: 1, IdentityLen: uint32(len(id)),
	}
	copy(b[fixed:], id)
	return b
}
