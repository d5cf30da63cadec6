package session

import (
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
)

// fenceTable knows the ranges of writes whose outcome is unknown, over all
// reactors: from the loss of their connection until their replay has been
// acknowledged, or they have failed after the fence. A new write that overlaps
// one waits (rule 1): the replay must not land on top of it.
type fenceTable struct {
	// active is the number of ranges, so that the data path of a healthy
	// volume looks at one word.
	active atomic.Int32

	// mu guards ranges; nothing is called while it is held.
	mu     sync.Mutex
	ranges map[*volume.IO]unknown
}

type span struct{ from, to uint64 }

// unknown is the range of a write of unknown outcome.
type unknown struct {
	span
	until int64 // ns, when its fence is over, if that is known beforehand
}

func (f *fenceTable) add(io *volume.IO, until int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ranges == nil {
		f.ranges = map[*volume.IO]unknown{}
	}
	f.ranges[io] = unknown{span{io.Offset, io.Offset + io.Length}, until}
	f.active.Store(int32(len(f.ranges)))
}

func (f *fenceTable) remove(io *volume.IO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ranges, io)
	f.active.Store(int32(len(f.ranges)))
}

// blocks reports whether io must wait, and until when at least if that is known,
// in ns.
func (f *fenceTable) blocks(io *volume.IO) (wait bool, until int64) {
	if f.active.Load() == 0 || !io.Op.Modifies() || io.Lower.Flags&ioUnknown != 0 {
		return false, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.ranges {
		if io.Offset < u.to && u.from < io.Offset+io.Length {
			wait, until = true, max(until, u.until)
		}
	}
	return wait, until
}

// owe keeps a write that an engine before this one had in flight and died with.
// The server may still hold that engine's copy, so it is sent again when the
// fence is over. Until then the guest has no answer, and an in-flight region
// keeps its mark: should this engine die, too, the next one owes the same. The
// fence counts from the session's start, when that engine was dead. It reports
// whether the write has to wait.
func (c *channel) owe(io *volume.IO) bool {
	s := c.s
	until := s.opened + int64(s.opt.Fence)
	if s.paid.Load() || c.r.Now() >= until {
		return false
	}
	io.Lower.Flags |= ioUnknown
	io.Lower.Deadline = max(io.Lower.Deadline, until+int64(s.opt.Timeout))
	s.fences.add(io, until)
	c.seq++
	io.Lower.Place.Seq = c.seq
	c.owed.pushBack(io)
	if s.paying.CompareAndSwap(false, true) {
		left := time.Duration(until - c.r.Now())
		s.log.Warn("writes that an earlier engine had in flight wait for the fence", "for", left)
		s.payAfter(left)
	}
	return true
}

// payAfter ends the fence of an earlier engine after a while.
func (s *Session) payAfter(d time.Duration) {
	home := s.opt.Home
	home.Post(reactor.MailFunc(func() {
		s.payTimer.Fire = s.pay
		home.StartTimer(&s.payTimer, max(d, 0))
	}))
}

// pay lets the writes go on that an earlier engine has left.
func (s *Session) pay() {
	s.paid.Store(true)
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			c.r.Post(reactor.MailFunc(c.payOwed))
		}
	}
}

func (c *channel) payOwed() {
	for io := c.owed.popFront(); io != nil; io = c.owed.popFront() {
		c.s.counters.replays.Add(1)
		c.again(io)
	}
	c.watchDeadlines()
	c.r.Defer(&c.submit)
}

// fencedBy ends the fence of an earlier engine where the protocol has a better
// one: a login that ends the tasks of the session before, or a time of its own.
func (s *Session) fencedBy(cn *conn) {
	switch {
	case s.paid.Load():
	case cn.fence == abi.FenceReinstate:
		s.pay()
	case cn.fence == abi.FenceQuiesce && s.paying.Load():
		s.payAfter(time.Duration(s.opened + int64(cn.fenceNS) - cn.ch.r.Now()))
	}
}

// resolved ends the unknown outcome of io and lets those go on that waited.
func (s *Session) resolved(io *volume.IO) {
	io.Lower.Flags &^= ioUnknown
	s.fences.remove(io)
	s.unparkAll()
}

func (s *Session) unparkAll() {
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			c.r.Post((*unpark)(c))
		}
	}
}

// unpark is mail for a channel: look at the parked writes again.
type unpark channel

var _ reactor.Mail = (*unpark)(nil)

// Deliver is called on the channel's reactor.
func (u *unpark) Deliver() { (*channel)(u).unpark() }
