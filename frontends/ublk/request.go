package ublk

import (
	"fmt"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// request is what a tag needs while we have it.
type request struct {
	io    volume.IO
	seg   [1][]byte
	held  piece // its buffer, where they are shared
	waits bool  // it is in queue.waiting
	shown bool  // and is a write that has no payload yet

	// With CopyZero, see zerocopy.go.
	unregistered bool // the driver could not give it a place
	mustCopy     bool // it was tried
}

// begin makes a request of a tag's descriptor; shown is a write that the driver
// shows before it copies its payload.
func (q *queue) begin(tag int, shown bool) {
	d := q.descs[tag] // once: it is the kernel's memory
	r := &q.reqs[tag]
	if shown || d.opFlags&opMask != opWrite {
		q.drop(r, false) // the driver has shown a write, and then given the tag to another one
	}
	st := r.decode(&d, q.maxIO)
	if shown && (q.copy != CopyGetData || r.io.Op != block.OpWrite || r.io.Length > uint64(q.maxIO)) {
		q.trouble(fmt.Errorf("queue %d: the driver wants a buffer for %+v", q.index, d))
		return // and takes no other answer
	}
	if st == block.OK || shown {
		var waits bool
		if waits, st = q.place(r, tag, shown); waits {
			return
		}
	}
	if st != block.OK {
		q.refuse(r, tag, st)
		return
	}
	if r.io.Op.Modifies() {
		q.note(r, tag, &d)
	}
	q.batch = append(q.batch, &r.io)
}

// refuse ends a request that the volume never sees.
func (q *queue) refuse(r *request, tag int, st block.Status) {
	r.waits, r.io.Status = false, st
	q.commit(r, tag)
	q.r.Defer(&q.ending)
}

// decode makes the request of a descriptor, without its payload, or says why it
// cannot be.
func (r *request) decode(d *ioDesc, maxIO int) block.Status {
	b := &r.io.Request
	b.Op, b.Flags, b.Data, r.io.Again, r.io.Fixed = 0, 0, nil, false, false
	r.unregistered = d.opFlags&descUnregistered != 0
	b.Offset, b.Length = d.start<<sectorShift, uint64(d.sectors)<<sectorShift
	switch d.opFlags & opMask {
	case opFlush: // its sector means nothing; Linux 6.12 says -1
		b.Op, b.Offset, b.Length = block.OpFlush, 0, 0
		return block.OK
	case opRead:
		b.Op = block.OpRead
	case opWrite:
		b.Op = block.OpWrite
	case opDiscard:
		b.Op = block.OpDiscard
	case opWriteZeroes:
		b.Op = block.OpWriteZeroes
		if d.opFlags&descNoUnmap != 0 {
			b.Flags |= block.NoHole
		}
	default:
		return block.ENOTSUP
	}
	if d.start >= 1<<(64-sectorShift) || b.Op.HasPayload() && b.Length > uint64(maxIO) {
		return block.EINVAL
	}
	return block.OK
}

// note writes down what is about to be written, before anybody below knows.
func (q *queue) note(r *request, tag int, d *ioDesc) {
	b := &r.io.Request
	if d.opFlags&descFUA != 0 {
		b.Flags |= block.FUA
	}
	s := span{b.Offset, b.Length}
	if r.io.Again = q.journal.again(s); r.io.Again {
		q.resent++
	}
	q.journal.begin(q.slot+tag, s)
}

// finish takes a request back from the volume.
func (q *queue) finish(io *volume.IO) {
	tag := int(io.Tag)
	r := &q.reqs[tag]
	if q.again(r, tag) {
		return
	}
	if io.Op.Modifies() {
		if io.Again && io.Status == block.OK {
			q.journal.settled(span{io.Offset, io.Length})
		}
		q.journal.end(q.slot + tag)
	}
	q.commit(r, tag)
}

// commit answers a request and gives its buffer back.
func (q *queue) commit(r *request, tag int) {
	st, addr := q.hand(r, tag)
	result := int32(0)
	switch {
	case st != block.OK:
		result = -int32(st)
	case r.io.Op.HasPayload():
		result = int32(r.io.Length)
	}
	r.io.Data, r.mustCopy = nil, false
	q.command(q.op.commit, tag, result, addr)
	q.drop(r, true)
}
