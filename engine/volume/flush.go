package volume

import (
	"sync/atomic"

	"blockengine/sdk/block"
)

// flushErrors keeps failed flushes until every queue has been told: once it is
// unknown whether acknowledged writes are durable, no later success may hide
// it (DESIGN chapter 2, rule 3). Like the kernel's errseq_t it counts failures,
// and each queue remembers how many it has reported.
type flushErrors struct {
	count    atomic.Uint64 // of failures
	last     atomic.Uint32 // block.Status of the latest
	reported atomic.Uint64 // the count that some queue has reported
}

// fail records a failure.
func (f *flushErrors) fail(st block.Status) {
	f.last.Store(uint32(st))
	f.count.Add(1)
}

// join gives the count from which a new queue starts: a failure that nobody
// has been told of is its to report.
func (f *flushErrors) join() uint64 { return f.reported.Load() }

// answer turns the outcome of a guest's flush into what the guest is told.
func (f *flushErrors) answer(q *Queue, st block.Status) block.Status {
	if st != block.OK {
		f.fail(st)
	}
	n := f.count.Load()
	if n == q.seen {
		return st
	}
	q.seen = n
	f.reported.Store(n)
	if st == block.OK {
		st = block.Status(f.last.Load())
	}
	return st
}

// LatchFlushError makes the next flush of every queue fail with st, because
// the durability of acknowledged writes has become unknown: a flush of the
// engine's own failed, or a server went away with unflushed writes.
func (v *Volume) LatchFlushError(st block.Status) { v.flush.fail(st) }

// flush sends a flush to every channel of the volume, or to the one here where
// that covers all, and ends io when all have answered.
func (l *lane) flush(io *IO, info *block.Info) {
	if !info.Has(block.CapFlush) {
		l.finish(io)
		return
	}
	p := l.newPlan()
	*p = plan{inFlight: 1}
	io.plan = p
	if !info.Has(block.CapFlushCoversAll) {
		for i := range l.v.lanes {
			if other := l.v.lanes[i].Load(); other != nil && other != l {
				p.inFlight++
				sendRemoteFlush(l, other, io)
			}
		}
	}
	l.batch = append(l.batch, l.part(io, block.OpFlush))
}

// remoteFlush is a flush that visits another reactor and comes back.
type remoteFlush struct {
	io       IO
	from, to *lane
	parent   *IO
	back     bool
}

func sendRemoteFlush(from, to *lane, parent *IO) {
	f := &remoteFlush{from: from, to: to, parent: parent}
	f.io.Request = block.Request{Op: block.OpFlush, Owner: &f.io}
	f.io.lane, f.io.stage, f.io.remote = to, stageRemote, f
	to.r.Post(f)
}

// home sends the answer back.
func (f *remoteFlush) home() {
	f.back = true
	f.from.r.Post(f)
}

// Deliver is called on the reactor visited, and then on the one it came from.
func (f *remoteFlush) Deliver() {
	if !f.back {
		f.to.batch = append(f.to.batch, &f.io)
		f.to.push()
		return
	}
	f.from.partDone(f.parent, f.io.Status)
	f.from.push()
}
