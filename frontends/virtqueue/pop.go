package virtqueue

import (
	"sync/atomic"
	"unsafe"
)

// Chain is a descriptor chain taken from the ring: what the driver wants done.
// The slices point at guest memory, whose content may change at any time, and
// stay valid until Push; they belong to the Queue.
type Chain struct {
	Head     uint16
	Read     [][]byte // the driver wrote it, the device reads it
	Write    [][]byte // the device fills it
	ReadLen  uint64   // bytes in Read
	WriteLen uint64   // bytes in Write
}

// Pop takes chains, up to len(dst), and gives how many. Those that were in
// flight when an earlier process died come first, in the order in which that one
// took them; then what the ring has, in its order. With an in-flight region all
// that Pop gives are marked in it.
//
// An error is ErrRing; it ends the queue, and every later Pop repeats it. The
// chains before the bad one are given with it and may be served. Work is bounded
// by the queue's size, or MaxChain, for each chain.
func (q *Queue) Pop(dst []Chain) (n int, err error) {
	if q.err != nil {
		return 0, q.err
	}
	if len(q.resubmit) > 0 {
		if n, err = q.popAgain(dst); err != nil || n == len(dst) {
			return n, err
		}
		dst = dst[n:]
	}
	m, err := q.popNew(dst)
	return n + m, err
}

// popAgain takes chains that were in flight. They are marked already and keep
// their counters, so that the order outlives another death.
func (q *Queue) popAgain(dst []Chain) (int, error) {
	n := min(len(dst), len(q.resubmit))
	for i, h := range q.resubmit[:n] {
		if err := q.read(&dst[i], h); err != nil {
			n = i
			break
		}
		q.state[h] = headTaken
	}
	q.resubmit = q.resubmit[n:]
	q.outstanding += n
	return n, q.err
}

func (q *Queue) popNew(dst []Chain) (int, error) {
	pending := q.seen - q.last
	if int(pending) < len(dst) {
		q.seen = q.availIdx.load() // all that was written before it is visible now
		pending = q.seen - q.last
		if pending > q.size {
			return 0, q.fail("the available index is %d, %d ahead of what was taken, with %d descriptors", q.seen, pending, q.size)
		}
	}
	n := min(len(dst), int(pending))
	if n == 0 {
		return 0, nil
	}
	heads := q.fetch(n)
	for i, h := range heads {
		if err := q.read(&dst[i], h); err != nil {
			q.untake(heads[i:])
			heads = heads[:i]
			break
		}
	}
	if Failpoint != nil {
		Failpoint(StepFetched)
	}
	if q.inflight != nil {
		q.inflight.mark(heads)
	}
	q.last += uint16(len(heads))
	q.outstanding += len(heads)
	return len(heads), q.err
}

// fetch reads the next n heads from the available ring and takes them, up to the
// first bad one. It touches each one's descriptor, so that the lines which the
// driver has written come over from its core side by side.
func (q *Queue) fetch(n int) []uint16 {
	heads, state := q.heads[:n], q.state
	at, mask, ring, desc := q.last, q.mask, q.ring, q.desc
	for i := range heads {
		h := *(*uint16)(unsafe.Add(ring, uintptr(at&mask)*availEntry))
		if int(h) >= len(state) || state[h] != headFree {
			q.badHead(at, h)
			return heads[:i]
		}
		state[h] = headTaken
		heads[i] = h
		_ = atomic.LoadUint64((*uint64)(unsafe.Add(desc, uintptr(h)*descSize)))
		at++
	}
	return heads
}

//go:noinline
func (q *Queue) badHead(at, head uint16) {
	if head >= q.size {
		_ = q.fail("entry %d of the available ring is descriptor %d, there are %d", at&q.mask, head, q.size)
		return
	}
	_ = q.fail("entry %d of the available ring is descriptor %d, which the device still has", at&q.mask, head)
}

// untake gives heads back that were fetched and not handed out.
func (q *Queue) untake(heads []uint16) {
	for _, h := range heads {
		q.state[h] = headFree
	}
}

// Pending is how many chains of the available ring are still to be taken, as the
// driver says, and at most the queue's size.
func (q *Queue) Pending() int { return int(min(q.availIdx.load()-q.last, q.size)) }

// HasWork tells whether Pop would find something. It is one load of a shared
// line, for polling.
func (q *Queue) HasWork() bool {
	return q.err == nil && (len(q.resubmit) > 0 || q.availIdx.load() != q.last)
}
