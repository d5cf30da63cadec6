package session

import (
	"sync"
	"sync/atomic"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
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
	ranges map[*volume.IO]span
}

type span struct{ from, to uint64 }

func (f *fenceTable) add(io *volume.IO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ranges == nil {
		f.ranges = map[*volume.IO]span{}
	}
	f.ranges[io] = span{io.Offset, io.Offset + io.Length}
	f.active.Store(int32(len(f.ranges)))
}

func (f *fenceTable) remove(io *volume.IO) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ranges, io)
	f.active.Store(int32(len(f.ranges)))
}

// blocks reports whether io must wait.
func (f *fenceTable) blocks(io *volume.IO) bool {
	if f.active.Load() == 0 || !io.Op.Modifies() || io.Lower.Flags&ioUnknown != 0 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.ranges {
		if io.Offset < s.to && s.from < io.Offset+io.Length {
			return true
		}
	}
	return false
}

// resolved ends the unknown outcome of io and lets those go on that waited.
func (s *Session) resolved(io *volume.IO) {
	io.Lower.Flags &^= ioUnknown
	s.fences.remove(io)
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
