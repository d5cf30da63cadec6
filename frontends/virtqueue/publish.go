package virtqueue

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Push finishes the chain at head, of which the device has filled written bytes
// from the start of Write. It touches no shared memory: the driver sees it after
// Publish. The head must have come from Pop and not been pushed since; anything
// else is a bug that would corrupt the guest's data, and panics.
func (q *Queue) Push(head uint16, written uint32) {
	if int(head) >= len(q.state) || q.state[head] != headTaken {
		panic(fmt.Sprintf("virtqueue %d: Push of descriptor %d, which the device does not have", q.index, head))
	}
	q.state[head] = headPushed
	q.done = append(q.done, completion{written: written, head: head})
}

// Publish makes the pushed chains visible to the driver in one step, in the
// order of the pushes, and says whether the driver wants to be notified of them.
// The first Publish of a Queue says yes even if nothing was pushed: the process
// before may have died between publishing and notifying.
//
// inflight.go says why it is safe to be killed between any two of its stores.
func (q *Queue) Publish() (notify bool) {
	if len(q.done) == 0 {
		notify, q.owed = q.owed, false
		return notify
	}
	q.writeElements()
	if q.inflight != nil {
		q.inflight.link(q.done)
	}
	old := q.used
	q.used += uint16(len(q.done))
	q.storeUsed() // nothing before it may be seen later, and nothing after it earlier
	if Failpoint != nil {
		Failpoint(StepPublished)
	}
	if q.inflight != nil {
		q.inflight.settle(q.done, q.used)
	}
	for i := range q.done {
		q.state[q.done[i].head] = headFree
	}
	q.outstanding -= len(q.done)
	q.done = q.done[:0]
	return q.wanted(old)
}

// writeElements writes the used elements (virtio 1.2, 2.7.8). The driver does
// not look at them before the index says so.
func (q *Queue) writeElements() {
	hook := Failpoint
	at, mask, elements := q.used, q.mask, q.elements
	for i := range q.done {
		p := unsafe.Add(elements, uintptr(at&mask)*usedEntry)
		*(*uint32)(p) = uint32(q.done[i].head)
		*(*uint32)(unsafe.Add(p, 4)) = q.done[i].written
		at++
		if hook != nil {
			hook(StepElement)
		}
	}
}

// storeUsed writes flags and index of the used ring. It is ordered against all
// loads and stores before and after it. A store would do, but with the race
// detector that orders nothing in memory that is not Go's.
func (q *Queue) storeUsed() {
	atomic.SwapUint32(q.usedWord, uint32(q.used)<<16|uint32(q.usedFlags))
}

// wanted tells whether the driver wants to be notified, after the used index
// went from old to q.used (virtio 1.2, 2.7.7.2). What the driver last wrote is
// read after our index was written: either it sees the index, or we see its
// wish.
func (q *Queue) wanted(old uint16) bool {
	if q.owed {
		q.owed = false
		return true
	}
	if q.eventIdx {
		return q.used-q.usedEvent.load()-1 < q.used-old
	}
	return q.availFlags.load()&availNoInterrupt == 0
}

// Suppress tells the driver not to kick, because the device polls. It is a hint:
// a kick may come all the same.
func (q *Queue) Suppress() {
	if !q.armed {
		return
	}
	q.armed = false
	if q.eventIdx { // flags stay 0 (virtio 1.2, 2.7.10.1); an index just passed comes again after 65,535 chains
		*q.availEvent = q.last - 1
		return
	}
	q.usedFlags = usedNoNotify
	q.storeUsed()
}

// Arm tells the driver to kick when it adds a chain, and says whether there is
// one already, for which no kick may come: then the caller pops instead of
// sleeping.
func (q *Queue) Arm() (more bool) {
	q.armed = true
	if q.eventIdx {
		*q.availEvent = q.last
		atomic.StoreUint32(&q.barrier, 0)
	} else {
		q.usedFlags = 0
		q.storeUsed()
	}
	return q.HasWork() // read after the wish was written: the driver sees the wish, or we see its chain
}
