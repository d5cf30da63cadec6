package reactor

import (
	"fmt"

	"blockengine/engine/sys"
)

// Source is a descriptor that the reactor watches. The descriptor stays the
// caller's: Close stops the watching only.
type Source struct {
	reactor *Reactor // nil when closed
	handler Handler
	fd      int
	slot    uint32
	gen     uint32
	queued  bool // in reactor.again
}

// Add watches fd, edge triggered, for sys.Epoll… bits.
func (r *Reactor) Add(fd int, events uint32, h Handler) (*Source, error) {
	s := &Source{reactor: r, handler: h, fd: fd}
	if n := len(r.free); n > 0 {
		s.slot = r.free[n-1]
		r.free = r.free[:n-1]
	} else {
		s.slot = uint32(len(r.sources))
		r.sources = append(r.sources, nil)
	}
	r.nextGen++
	s.gen = r.nextGen
	r.sources[s.slot] = s
	data := uint64(s.slot) | uint64(s.gen)<<32
	if err := sys.EpollAdd(r.ep, fd, events|sys.EpollEdge, data); err != nil {
		r.sources[s.slot] = nil
		r.retired = append(r.retired, s.slot)
		return nil, fmt.Errorf("reactor %d: watch descriptor %d: %w", r.index, fd, err)
	}
	return s, nil
}

// Again asks for Ready to be called once more, whether or not the kernel has
// news: for handlers that stop early so that others get their turn. It comes
// when all events that are there now have been handled.
func (s *Source) Again() {
	if s.reactor == nil || s.queued {
		return
	}
	s.queued = true
	s.reactor.again = append(s.reactor.again, s)
}

// Close stops the watching. Ready is not called any more. It is called before
// the descriptor is closed.
func (s *Source) Close() {
	r := s.reactor
	if r == nil {
		return
	}
	_ = sys.EpollDel(r.ep, s.fd)
	r.sources[s.slot] = nil
	r.retired = append(r.retired, s.slot)
	s.reactor = nil
}

// Deferred is work for the end of the turn. It is embedded in, or part of,
// what it works for, so that deferring costs nothing.
type Deferred struct {
	Run  func()
	next *Deferred
	on   bool
}

type deferList struct{ head, tail *Deferred }

// Defer has d run once, at the end of this turn. Deferring it again before it
// has run does nothing.
func (r *Reactor) Defer(d *Deferred) {
	if d.on {
		return
	}
	d.on, d.next = true, nil
	if r.defers.tail == nil {
		r.defers.head = d
	} else {
		r.defers.tail.next = d
	}
	r.defers.tail = d
}

func (l *deferList) empty() bool { return l.head == nil }

// run runs what was deferred, and what that deferred, a few rounds deep;
// the rest waits for the next turn, so that a cycle cannot starve the events.
func (l *deferList) run() bool {
	if l.head == nil {
		return false
	}
	for range 4 {
		d := l.head
		l.head, l.tail = nil, nil
		for d != nil {
			next := d.next
			d.on, d.next = false, nil
			d.Run()
			d = next
		}
		if l.head == nil {
			break
		}
	}
	return true
}
