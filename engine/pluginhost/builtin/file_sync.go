package builtin

import (
	"sync"
	"sync/atomic"

	"blockengine/sdk/block"
)

// syncer makes what was written durable. Requests that wait for a sync at
// the same time share one; syncs never overlap.
//
// The kernel reports a failed write-back to the first sync that looks, and
// to no other. So a failure belongs to everybody whose data it may concern:
// to all who share the sync, to all who were submitted before it failed and
// sync later, and, if none of these is a flush (the engine remembers failed
// flushes, not failed writes), to the next flush that comes.
type syncer struct {
	call func() block.Status // the sync itself

	failures atomic.Uint64 // syncs that failed so far; changed under mu

	mu      sync.Mutex   // guards all below
	running bool         // a worker is in the loop of join
	waiting []job        // for the next sync
	spare   []job        // the other of two buffers
	last    block.Status // of the latest failure
	owed    block.Status // a failure that no flush has reported yet
}

// stamp notes on jobs that are being submitted which failures they have
// seen; it must come before any of them is begun.
func (s *syncer) stamp(jobs []job) {
	n := s.failures.Load()
	for i := range jobs {
		jobs[i].failures = n
	}
}

// join lets j wait for a sync that begins from now on. If none is running
// the calling worker does them, until nobody waits.
func (s *syncer) join(w *worker, j job) {
	s.mu.Lock()
	s.waiting = append(s.waiting, j)
	if s.running {
		s.mu.Unlock()
		return
	}
	s.running = true
	for len(s.waiting) > 0 {
		round := s.waiting
		s.waiting = s.spare[:0]
		s.mu.Unlock()
		st := s.call()
		s.mu.Lock()
		s.settle(round, st)
		s.mu.Unlock()
		w.postJobs(round)
		clear(round)
		s.mu.Lock()
		s.spare = round
	}
	s.running = false
	s.mu.Unlock()
}

// settle gives each member of a sync its result. The caller holds mu.
func (s *syncer) settle(round []job, st block.Status) {
	if st != block.OK {
		s.failures.Add(1)
		s.last, s.owed = st, st
	}
	failures, reported := s.failures.Load(), false
	for _, j := range round {
		j.r.Status = st
		isFlush := j.r.Op == block.OpFlush
		switch {
		case st != block.OK:
		case j.failures != failures:
			j.r.Status = s.last
		case isFlush:
			j.r.Status = s.owed
		}
		reported = reported || isFlush && j.r.Status != block.OK
	}
	if reported {
		s.owed = block.OK
	}
}
