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
	running bool         // a worker, or a channel's ring, does syncs until nobody waits
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

// add lets j wait for a sync that begins from now on, and reports whether the
// caller has to do it; else somebody is at it who will.
func (s *syncer) add(j job) (mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, j)
	mine = !s.running
	s.running = true
	return mine
}

// next gives those whom the next sync is for; without any it ends the run.
func (s *syncer) next() []job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.running = false
		return nil
	}
	round := s.waiting
	s.waiting, s.spare = s.spare[:0], nil
	return round
}

// done gives each member of a sync its result; they are handed back by the
// caller, which then recycles the slice.
func (s *syncer) done(round []job, st block.Status) {
	s.mu.Lock()
	s.settle(round, st)
	s.mu.Unlock()
}

func (s *syncer) recycle(round []job) {
	clear(round)
	s.mu.Lock()
	s.spare = round
	s.mu.Unlock()
}

// join lets j wait for a sync, and has the calling worker do syncs until nobody
// waits, if nobody is at it.
func (s *syncer) join(w *worker, j job) {
	if !s.add(j) {
		return
	}
	for round := s.next(); round != nil; round = s.next() {
		s.done(round, s.call())
		w.postJobs(round)
		s.recycle(round)
	}
}

// leave ends the caller's run without a sync for round, and gives one of those
// who wait, who is to bring in somebody else.
func (s *syncer) leave(round []job) (j job, any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, round...)
	s.running = false
	n := len(s.waiting)
	if n == 0 {
		return j, false
	}
	j, s.waiting[n-1] = s.waiting[n-1], job{}
	s.waiting = s.waiting[:n-1]
	j.written = true
	return j, true
}

// waits reports whether a request of ch waits for the next sync.
func (s *syncer) waits(ch *fileChannel) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.waiting {
		if j.ch == ch {
			return true
		}
	}
	return false
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
