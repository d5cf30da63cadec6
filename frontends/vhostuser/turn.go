package vhostuser

import (
	"fmt"

	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/frontends/virtqueue"
)

// A turn of a queue: look takes a batch and submits it; Completed finishes what
// the volume gives back; end publishes all that was finished, in one step, and
// tells the guest at most once. Guest memory is touched under a Guard only, and
// never while the volume is being called: a fault in the middle of the volume
// would leave it half done (DESIGN chapter 2, rule 9).

// look takes requests, if there are any. It is the reactor's, see Polled.
func (q *queue) look() bool {
	if q.phase != running || q.paused {
		return false
	}
	q.taken, q.broke = 0, nil
	if err := sys.Guard(q.fetching); err != nil {
		q.fail(err)
		return true
	}
	if q.broke != nil {
		q.fail(q.broke)
		return true
	}
	if q.taken == 0 {
		return false
	}
	q.submit()
	q.w.r.Defer(&q.ending)
	return true
}

// fetch takes a batch.
func (q *queue) fetch() {
	if !q.vq.HasWork() {
		return
	}
	at(StepFetch)
	q.vq.Suppress()
	q.taken, q.broke = q.vq.Pop(q.chains)
	for i := range q.chains[:q.taken] {
		q.begin(&q.chains[i])
	}
}

// errNoStatus says that a chain has no byte for its answer.
var errNoStatus = fmt.Errorf("%w: a request without a place for its status", virtqueue.ErrRing)

// begin makes a request of a chain, and finishes it if it needs no volume.
func (q *queue) begin(c *virtqueue.Chain) {
	r := &q.reqs[c.Head]
	r.io.Again = q.stale > 0 // its fence is owed (DESIGN chapter 2, rule 1)
	q.stale = max(q.stale-1, 0)
	if r.blk.Begin(&q.rules, c.Read, c.Write, c.ReadLen, c.WriteLen, &r.io.Request) {
		q.batch = append(q.batch, &r.io)
		return
	}
	if !r.blk.Answerable() {
		q.broke = errNoStatus
		return
	}
	q.vq.Push(c.Head, r.blk.Finish())
}

// submit hands the batch to the volume.
func (q *queue) submit() {
	if len(q.batch) == 0 {
		return
	}
	at(StepSubmit)
	q.q.Submit(q.batch)
	q.batch = q.batch[:0]
}

// Completed takes finished requests back; it is the volume's.
func (q *queue) Completed(batch []*volume.IO) {
	if q.phase == failed {
		q.leave()
		return
	}
	at(StepComplete)
	q.done = batch
	err := sys.Guard(q.completing)
	q.done = nil
	if err != nil {
		q.fail(err)
		return
	}
	q.submit()
	q.w.r.Defer(&q.ending)
}

// complete finishes requests, or goes on with the next range of them.
func (q *queue) complete() {
	for _, io := range q.done {
		r := &q.reqs[io.Tag]
		if r.blk.Next(&io.Request) {
			q.batch = append(q.batch, io)
			continue
		}
		io.Data = nil
		q.vq.Push(uint16(io.Tag), r.blk.Finish())
	}
}

// end is the end of a turn in which something was finished.
func (q *queue) end() {
	if q.phase >= failed {
		return
	}
	at(StepPublish)
	if err := sys.Guard(q.publishing); err != nil {
		q.fail(err)
		return
	}
	if q.signal {
		at(StepNotify)
		q.tell()
		at(StepNotified)
	}
	if q.phase == stopping {
		q.leave()
	}
}

func (q *queue) publish() { q.signal = q.vq.Publish() }

// tell notifies the guest.
func (q *queue) tell() {
	if q.call >= 0 && q.phase < failed {
		q.tally.calls++
		sys.EventfdSignal(q.call)
	}
}

// sleep asks for kicks before the reactor sleeps; it is the reactor's.
func (q *queue) sleep() (more bool) {
	if q.phase != running || q.paused {
		return false
	}
	if err := sys.Guard(q.arming); err != nil {
		q.fail(err)
		return false
	}
	return q.more
}

func (q *queue) arm() { q.more = q.vq.Arm() }
