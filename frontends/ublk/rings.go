package ublk

import (
	"fmt"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
)

// ring is what a queue needs of io_uring. All of it belongs to the queue's
// reactor.
type ring interface {
	// Get gives an entry that is empty but for its UserData.
	Get(value uint64) *iouring.SQE
	// Flush hands over what was filled in, at the latest at the end of the turn.
	Flush()
	// Pending is how many entries the kernel has not taken, where that matters.
	Pending() int
	// Bind makes the character device known by an index.
	Bind(fd int) (file int32, err error)
	// Fetch hands over at once and in one system call what was filled in, which
	// may take a moment, and gives how many entries were not taken.
	Fetch() (left int, err error)
	// Held is how many commands the driver has that Close does not end.
	Held() int
	Close()
}

// ownRing is a ring of the queue's own: what the driver has of it ends with it.
type ownRing struct{ *iouring.Source }

func newOwnRing(r *reactor.Reactor, q *queue) (ring, error) {
	src, err := iouring.NewSource(r, iouring.Options{Entries: q.depth},
		iouring.Events{Batch: batchSize, Reap: q.reap, Reaped: q.goOn, Failed: func(err error) { q.trouble(err) }})
	if err != nil {
		return nil, err
	}
	return ownRing{src}, nil
}

func (o ownRing) Get(value uint64) *iouring.SQE {
	e := o.Source.Get()
	e.UserData = value
	return e
}

func (o ownRing) Bind(fd int) (int32, error) { return 0, o.RegisterFiles(fd) }

func (o ownRing) Fetch() (int, error) {
	// The driver takes a lock for each tag.
	if err := o.SubmitSlowly(); err != nil {
		return 0, err
	}
	left := o.Source.Pending()
	o.Source.Flush()
	return left, nil
}

func (o ownRing) Held() int { return 0 }

// sharedRing is the queue's part of the ring that all on its reactor share: the
// driver puts the payload of requests into the ring's table of buffers, for
// others on the reactor to use. The ring outlives the queue, so its commands have
// to be ended by the driver first, see Device.disarm.
type sharedRing struct {
	q     *queue
	hub   *iouring.Hub
	user  *iouring.User
	file  int // index of the device, -1: none
	first int // of a place in the table of buffers for each tag
	done  bool
}

func newSharedRing(r *reactor.Reactor, q *queue) (*sharedRing, error) {
	hub, err := iouring.Of(r)
	if err != nil {
		return nil, err
	}
	s := &sharedRing{q: q, hub: hub, file: -1}
	if s.user, err = hub.Join(s, false); err != nil {
		return nil, err
	}
	if s.first, err = hub.ReserveBuffers(q.depth); err != nil {
		s.user.Leave(nil)
		return nil, err
	}
	return s, nil
}

func (s *sharedRing) Get(value uint64) *iouring.SQE { return s.user.Get(value) }

// Flush has nothing to do: the end of the turn is the hub's.
func (s *sharedRing) Flush()       {}
func (s *sharedRing) Pending() int { return 0 }

func (s *sharedRing) Bind(fd int) (int32, error) {
	file, err := s.hub.RegisterFile(fd)
	if err == nil {
		s.file = file
	}
	return int32(file), err
}

func (s *sharedRing) Fetch() (int, error) { return s.hub.Submit() }

func (s *sharedRing) Held() int { return s.user.Outstanding() }

// Close leaves the ring. If the driver still has commands, the ring takes nobody
// new and ends with those that it has; until then the device is not free.
func (s *sharedRing) Close() {
	if s.done {
		return
	}
	s.done = true
	if s.user.Outstanding() > 0 {
		s.q.warn(fmt.Errorf("queue %d leaves commands in the ring of reactor %d: the device is free when that ends, at the latest with this engine", s.q.index, s.q.r.Index()))
		s.user.Abandon(nil)
		return
	}
	if s.file >= 0 {
		_ = s.hub.UnregisterFile(s.file) // else it is closed with the ring
	}
	_ = s.hub.ReturnBuffers(s.first, s.q.depth) // else the places are lost until then
	s.user.Leave(nil)
}

// Reap implements iouring.Handler, as do the next two.
func (s *sharedRing) Reap(c iouring.CQE) { s.q.reap(c) }

// Reaped is called after a batch of completions.
func (s *sharedRing) Reaped() { s.q.goOn() }

// Failed is called when the ring has.
func (s *sharedRing) Failed(err error) { s.q.trouble(err) }
