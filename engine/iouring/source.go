package iouring

import (
	"fmt"
	"syscall"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// Source is a ring whose completions a reactor reaps. While they keep coming the
// rings' memory is looked at in every turn and the kernel writes to no eventfd;
// before the reactor sleeps it is asked to.
//
// All of it belongs to the reactor.
type Source struct {
	*Ring
	reactor *reactor.Reactor
	polled  reactor.Polled
	events  int
	source  *reactor.Source
	on      Events
	slow    bool // what is submitted may block for a moment
}

// Events are what a Source calls, on its reactor.
type Events struct {
	Batch  int         // completions in a turn, at most
	Reap   func(CQE)   // for each
	Reaped func()      // after a batch of them
	Failed func(error) // the ring itself has failed, which does not happen to a sound one
}

// NewSource makes a ring that belongs to r, on which it is called.
func NewSource(r *reactor.Reactor, o Options, on Events) (*Source, error) {
	o.Owned = true
	ring, err := New(o)
	if err != nil {
		return nil, err
	}
	s := &Source{Ring: ring, reactor: r, on: on, events: -1}
	s.polled.Look, s.polled.Arm = s.look, s.arm
	if err := s.watch(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Source) watch() (err error) {
	if s.events, err = sys.Eventfd(); err != nil {
		return fmt.Errorf("io_uring: %w (raise the limit on open files: ulimit -n)", err)
	}
	if err = s.RegisterEventfd(s.events); err != nil {
		return err
	}
	s.source, err = s.reactor.Add(s.events, sys.EpollIn, s)
	return err
}

// Ready is called when the kernel has added to the eventfd. The counter is not
// read: each addition is an event though nobody reads it.
func (s *Source) Ready(uint32) {
	s.Notify(false)
	s.reactor.Poll(&s.polled)
}

// look reaps what there is; it is the reactor's.
func (s *Source) look() bool {
	if s.Ring == nil || !s.HasWork() && s.Pending() == 0 {
		return false
	}
	if !s.Ring.Ready() { // work for the kernel to do, or what it has not taken
		if err := s.enter(); err != nil {
			s.trouble(err)
			return true
		}
	}
	s.reap()
	return true
}

// enter submits, as is fit for what there is.
func (s *Source) enter() error {
	if s.slow {
		return s.SubmitSlowly()
	}
	return s.Submit()
}

// reap hands on a batch of completions.
func (s *Source) reap() {
	for range s.on.Batch {
		c, ok := s.Next()
		if !ok {
			break
		}
		s.on.Reap(c)
		if s.Ring == nil {
			return // Reap has closed it
		}
	}
	s.on.Reaped()
}

// arm asks for the eventfd before the reactor sleeps.
func (s *Source) arm() (more bool) {
	if s.Ring == nil {
		return false
	}
	s.Notify(true)
	if s.HasWork() || s.Pending() > 0 {
		s.Notify(false)
		return true
	}
	return false
}

// Flush submits what was filled in. It is for the end of a turn.
func (s *Source) Flush() {
	if s.Ring == nil {
		return
	}
	if err := s.enter(); err != nil {
		s.trouble(err)
	}
	s.keepLooking()
}

// keepLooking has the ring looked at in the next turn if there is something, or
// something that the kernel has not taken.
func (s *Source) keepLooking() {
	if s.Ring != nil && (s.HasWork() || s.Pending() > 0) {
		s.Notify(false)
		s.reactor.Poll(&s.polled)
	}
}

// trouble tells of what went wrong, but for what passes by itself: a ring that
// is interrupted, or whose completions must be reaped first, is tried again in
// the next turn.
func (s *Source) trouble(err error) {
	if errnoIs(err, syscall.EINTR, syscall.EAGAIN, syscall.EBUSY) {
		s.reactor.Poll(&s.polled)
		s.source.Again()
		return
	}
	s.on.Failed(err)
}

// Close ends the ring, see Ring.Close. Nothing is reaped any more.
func (s *Source) Close() {
	if s.Ring == nil {
		return
	}
	s.reactor.StopPolling(&s.polled)
	if s.source != nil {
		s.source.Close()
	}
	s.Ring.Close()
	s.Ring = nil
	if s.events >= 0 {
		_ = sys.Close(s.events)
	}
}
