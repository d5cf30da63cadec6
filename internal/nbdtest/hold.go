package nbdtest

import (
	"sync"
	"testing"
)

// Held are writes that the server received and keeps back: it carries them out
// at Release, also when their connection is long gone. This is what makes a
// replay dangerous: the original copy of a write can land after everything that
// came later.
type Held struct {
	s     *Server
	close bool
	how   Ending

	mu       sync.Mutex
	jobs     []*job
	released bool
}

// HoldWrites keeps back the requests that match (give a Match of writes, trims
// or zeroings). Times limits how many (0: all); later ones are carried out as
// usual, which lets them overtake.
//
// The connection of a held write ends in one of the ways a test chooses: the
// server closes it at once if closeAtOnce is set (the client sees an EOF that is
// no fence); a [Proxy] cuts it; or the client half-closes, in which case the
// server waits for the held write before it closes, so that its EOF is a fence
// (unless Negotiation.CloseAtEOF).
func (s *Server) HoldWrites(m Match, times int, closeAtOnce bool, how Ending) *Held {
	h := &Held{s: s, close: closeAtOnce, how: how}
	s.AddRule(Rule{Match: m, Times: times, Fault: Fault{hold: h}})
	return h
}

func (h *Held) take(j *job) {
	h.mu.Lock()
	h.jobs = append(h.jobs, j)
	late := h.released
	h.mu.Unlock()
	if late {
		h.Release()
	} else if h.close {
		j.c.kill(h.how)
	}
}

// Held is the number of writes kept back now.
func (h *Held) Held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.jobs)
}

// Wait waits until n writes are kept back and fails t if they do not come.
func (h *Held) Wait(t testing.TB, n int) {
	t.Helper()
	WaitFor(t, "writes to be held", func() bool { return h.Held() >= n })
}

// Release carries the held writes out, in their order of arrival, and answers
// those whose connection still lives. Writes that match later pass at once.
func (h *Held) Release() {
	h.mu.Lock()
	jobs := h.jobs
	h.jobs, h.released = nil, true
	h.mu.Unlock()
	for _, j := range jobs {
		j.fault.hold = nil
		j.run()
	}
}
