package session

import (
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
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

	// mu guards what follows; nothing is called while it is held.
	mu     sync.Mutex
	ranges map[*volume.IO]span
	owed   []span // see owe
	until  int64  // ns, when owed ends
}

type span struct{ from, to uint64 }

func (f *fenceTable) add(io *volume.IO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ranges == nil {
		f.ranges = map[*volume.IO]span{}
	}
	f.ranges[io] = span{io.Offset, io.Offset + io.Length}
	f.count()
}

func (f *fenceTable) count() { f.active.Store(int32(len(f.ranges) + len(f.owed))) }

// owe notes a write that an earlier process has left behind. It is sent again
// at once, because its copy that the server may still hold says the same; but
// that copy may land at any time until the fence is over, so nothing newer may
// be written there before.
func (f *fenceTable) owe(io *volume.IO, until int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owed, f.until = append(f.owed, span{io.Offset, io.Offset + io.Length}), until
	f.count()
}

// pay ends what is owed.
func (f *fenceTable) pay() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owed = nil
	f.count()
}

func (f *fenceTable) remove(io *volume.IO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ranges, io)
	f.count()
}

// blocks reports whether io must wait, and until when at least if that is known,
// in ns.
func (f *fenceTable) blocks(io *volume.IO) (wait bool, until int64) {
	if f.active.Load() == 0 || !io.Op.Modifies() || io.Lower.Flags&ioUnknown != 0 {
		return false, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.ranges {
		if s.overlaps(io) {
			return true, 0
		}
	}
	for _, s := range f.owed {
		if s.overlaps(io) && !io.Again {
			return true, f.until
		}
	}
	return false, 0
}

func (s span) overlaps(io *volume.IO) bool { return io.Offset < s.to && s.from < io.Offset+io.Length }

// owe notes what a request of an earlier process means for others. The fence
// counts from the session's start: that process was dead by then.
func (s *Session) owe(io *volume.IO) {
	until := s.opened + int64(s.opt.Fence)
	if s.reinstated.Load() || sys.Nanotime() >= until {
		return
	}
	s.fences.owe(io, until)
	if s.paying.CompareAndSwap(false, true) {
		s.log.Warn("writes of an earlier engine were in flight: what overlaps them waits for the fence", "at_most", time.Duration(until-sys.Nanotime()))
		s.payLater(time.Duration(until - sys.Nanotime()))
	}
}

// payLater ends what is owed after a while.
func (s *Session) payLater(after time.Duration) {
	home := s.opt.Home
	home.Post(reactor.MailFunc(func() {
		s.owedTimer.Fire = s.pay
		home.StartTimer(&s.owedTimer, max(after, 0))
	}))
}

// pay lets everything go on that has waited for the fence of an earlier process.
func (s *Session) pay() {
	s.fences.pay()
	s.unparkAll()
}

// fencedBy notes that the protocol has a fence of its own, which a login is, or
// which takes a time of its own.
func (s *Session) fencedBy(cn *conn) {
	switch cn.fence {
	case abi.FenceReinstate:
		if !s.reinstated.Swap(true) {
			s.pay()
		}
	case abi.FenceQuiesce:
		if s.paying.Load() {
			s.payLater(time.Duration(s.opened + int64(cn.fenceNS) - sys.Nanotime()))
		}
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
