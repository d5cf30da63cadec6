package ublk

import (
	"fmt"
	"unsafe"

	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// How a request's payload comes to memory of ours and back, for each Copy:
//
//	          buffer    write: filled           read: taken
//	kernel    its tag's before it is shown      when it is committed
//	get-data  shared    when it is given one    when it is committed
//	user      shared    by pread, in begin      by pwrite, in finish
//	zero      none, or as with user: see zerocopy.go
//
// A shared buffer is a request's from place to drop. What is taken when it
// is committed is in use until the driver has taken the entry of the commit, see
// queue.spent.

// place gives a request's payload a place, and fills it if it is a write; shown is
// a write that the driver has shown without its payload. If it waits, for room or
// for the driver to fill it, it begins again later. Else the errno is what it is
// refused with.
func (q *queue) place(r *request, tag int, shown bool) (waits bool, st block.Status) {
	b := &r.io.Request
	if !b.Op.HasPayload() {
		return false, block.OK
	}
	n := int(b.Length)
	switch {
	case q.passes(r, tag):
		return false, block.OK
	case q.copy == CopyKernel:
		at := tag * q.maxIO
		q.lend(r, q.bufs[at:at+n:at+q.maxIO])
		return false, block.OK
	case q.copy == CopyGetData && b.Op == block.OpWrite && !shown:
		return false, q.filled(r, n)
	case len(q.waiting) > 0 && !r.waits: // nobody overtakes
		q.wait(r, tag, shown)
		return true, block.OK
	}
	var ok bool
	if r.held, ok = q.pool.get(n); !ok {
		q.wait(r, tag, shown)
		return true, block.OK
	}
	r.waits = false
	if shown {
		q.command(q.op.getData, tag, 0, addressOf(r.held.mem))
		q.r.Defer(&q.ending)
		return true, block.OK
	}
	q.lend(r, r.held.mem)
	if b.Op == block.OpWrite {
		st = q.move(q.pread, "read", tag, r.held.mem)
	}
	return false, st
}

// filled takes a write whose buffer the driver has filled.
func (q *queue) filled(r *request, n int) block.Status {
	if len(r.held.mem) != n {
		q.trouble(fmt.Errorf("queue %d: the driver has filled %d bytes for a write of %d", q.index, len(r.held.mem), n))
		return block.EIO
	}
	q.lend(r, r.held.mem)
	return block.OK
}

// lend makes mem the request's payload.
func (q *queue) lend(r *request, mem []byte) {
	r.seg[0] = mem
	r.io.Data = r.seg[:]
}

// move has all of b copied by pread or pwrite of the tag's payload. A request of
// a device that has been removed meanwhile gives EINVAL or EACCES: then nobody
// learns how it ends.
func (q *queue) move(call func(int, []byte, int64) (int, sys.Errno), name string, tag int, b []byte) block.Status {
	at := payloadAt(q.index, tag)
	for done := 0; done < len(b); {
		n, e := call(q.char, b[done:], at+int64(done))
		switch {
		case e == sys.EINTR:
		case e != 0:
			q.miss(fmt.Errorf("the payload of queue %d, tag %d cannot be %s: %w", q.index, tag, name, e))
			return block.EIO
		case n == 0: // the kernel has no memory for it
			q.miss(fmt.Errorf("the payload of queue %d, tag %d cannot be %s: %d of %d bytes were moved", q.index, tag, name, done, len(b)))
			return block.EIO
		}
		done += n
	}
	return block.OK
}

// miss counts payload that could not be moved, and tells of the first.
func (q *queue) miss(err error) {
	if q.missed++; q.missed == 1 {
		q.warn(err)
	}
}

// fetchAddress is the address that goes with the first command of a tag.
func (q *queue) fetchAddress(tag int) uint64 {
	switch q.copy {
	case CopyKernel:
		return addressOf(q.bufs[tag*q.maxIO:])
	case CopyGetData:
		return addressOf(q.pool.mem)
	}
	return 0 // the driver refuses any other
}

// hand gives a read's payload to the driver, as far as that is ours to do, and
// the address that goes with its commit.
func (q *queue) hand(r *request, tag int) (st block.Status, addr uint64) {
	st = r.io.Status
	switch q.copy {
	case CopyKernel:
		return st, addressOf(q.bufs[tag*q.maxIO:])
	case CopyUser, CopyZero:
		if st == block.OK && r.io.Op == block.OpRead && !r.io.Fixed {
			st = q.move(q.pwrite, "written", tag, r.held.mem)
		}
		return st, 0
	}
	return st, q.dataAddress(r)
}

// dataAddress is the address that a commit must have with CopyGetData: that of a
// read's payload, and any other than 0 where there is none, since what is refused
// may be a read.
func (q *queue) dataAddress(r *request) uint64 {
	if r.held.mem != nil {
		return addressOf(r.held.mem)
	}
	return addressOf(q.pool.mem)
}

// drop gives a request's buffer back: at once, or, where the driver still has to
// take the payload, with what flush has submitted.
func (q *queue) drop(r *request, committed bool) {
	if r.held.mem == nil {
		return
	}
	if committed && q.copy == CopyGetData && r.io.Op == block.OpRead {
		q.spent = append(q.spent, r.held)
	} else {
		q.pool.release(r.held)
		q.freed = true
	}
	r.held = piece{}
}

// settle gives back what the driver has taken the payload of.
func (q *queue) settle() {
	if len(q.spent) == 0 || q.ring.Pending() > 0 {
		return
	}
	for _, b := range q.spent {
		q.pool.release(b)
	}
	clear(q.spent)
	q.spent, q.freed = q.spent[:0], true
}

// wait lines a request up for room. It is made anew of its descriptor when there
// is some; until then nobody below knows of it.
func (q *queue) wait(r *request, tag int, shown bool) {
	if !r.waits {
		r.waits, r.shown = true, shown
		q.waiting = append(q.waiting, uint16(tag))
	}
}

// resume begins requests that wait for room, in order: the first may be large,
// and must not be overtaken for ever.
func (q *queue) resume() {
	if !q.freed {
		return
	}
	q.freed = false
	done := 0
	for _, tag := range q.waiting {
		r := &q.reqs[tag]
		if q.begin(int(tag), r.shown); r.waits {
			break
		}
		done++
	}
	q.waiting = append(q.waiting[:0], q.waiting[done:]...)
}

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
