package ublk

import (
	"fmt"
	"syscall"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// phase is where a queue stands in its life.
type phase uint8

const (
	serving phase = iota
	leaving       // what the kernel hands out is left to the next engine; what the volume has is answered
	gone          // the driver has taken all tags back
	severed       // the ring is closed; the volume still has requests
)

// batchSize is how many requests a turn takes from one queue, before others get
// theirs.
const batchSize = 128

// ring is what a queue needs of an iouring.Source.
type ring interface {
	Get() *iouring.SQE
	Command(*iouring.SQE) []byte
	Flush()
	Close()
}

// queue is a queue of a device. The driver accepts its commands from one thread
// only, that which has fetched first, for as long as the device lives: so it
// belongs to a reactor. Each tag is either the driver's (fetched), the volume's,
// or about to be committed at the end of the turn.
//
// A turn: reap takes requests, submit hands them to the volume; Completed fills
// in the answers, flush gives all of them to the driver in one system call, which
// brings the next requests as well.
type queue struct {
	index   int
	depth   int
	maxIO   int
	r       *reactor.Reactor
	ring    ring
	q       *volume.Queue
	journal *journal
	slot    int // of tag 0 in the journal
	op      struct{ fetch, commit uint32 }

	mapped []byte // of descs; nil where they are a test's
	descs  []ioDesc
	bufs   []byte // maxIO for each tag
	reqs   []request
	batch  []*volume.IO
	ending reactor.Deferred

	phase   phase
	back    int // tags that the driver has taken back for good
	kept    int // requests that are left to the next engine
	stats   volume.Stats
	resent  uint64
	onGone  func()      // the driver has taken all tags back
	trouble func(error) // the driver or the ring breaks its word
}

// request is what a tag needs while we have it.
type request struct {
	io  volume.IO
	seg [1][]byte
}

// newQueue makes queue index of a device; it is not on a reactor yet.
func newQueue(index, depth, maxIO int, encoded bool) (*queue, error) {
	q := &queue{index: index, depth: depth, maxIO: maxIO, slot: index * depth}
	q.op.fetch, q.op.commit = ioOp(ioFetch, encoded), ioOp(ioCommitAndFetch, encoded)
	var err error
	if q.bufs, err = sys.MapMemory(depth * maxIO); err != nil {
		return nil, fmt.Errorf("queue %d: buffers of %d times %d bytes: %w (use less depth, or smaller requests)", index, depth, maxIO, err)
	}
	q.reqs = make([]request, depth)
	for i := range q.reqs {
		q.reqs[i].io.Tag = uint64(i)
	}
	q.batch = make([]*volume.IO, 0, depth)
	q.ending.Run = q.flush
	return q, nil
}

// arrive puts the queue on a reactor, on which it is called.
func (q *queue) arrive(r *reactor.Reactor, v *volume.Volume, readOnly bool) (err error) {
	if q.q, err = v.Open(r, q, volume.QueueOptions{ReadOnly: readOnly, Stats: &q.stats}); err != nil {
		return err
	}
	q.r = r
	src, err := iouring.NewSource(r, iouring.Options{Entries: q.depth},
		iouring.Events{Batch: batchSize, Reap: q.reap, Reaped: q.submit, Failed: func(err error) { q.trouble(err) }})
	if err != nil {
		q.q.Close()
		return err
	}
	q.ring = src
	return nil
}

// attach connects the queue with the device behind fd and fetches all tags, in
// one system call: a kill leaves the queue with none or with all of them, and
// drivers before Linux 6.16 cannot cope with some.
func (q *queue) attach(fd int, page int) (err error) {
	src := q.ring.(*iouring.Source)
	offset, size := descriptors(q.index, q.depth, page)
	if q.mapped, err = sys.MapReadOnly(fd, offset, size); err != nil {
		return err
	}
	q.descs = unsafe.Slice((*ioDesc)(unsafe.Pointer(&q.mapped[0])), q.depth)
	if err := src.RegisterFiles(fd); err != nil {
		return err
	}
	for tag := range q.depth {
		q.command(q.op.fetch, tag, 0)
	}
	// The driver takes a lock for each tag.
	if err := src.SubmitSlowly(); err != nil {
		return err
	}
	if n := src.Pending(); n > 0 {
		return fmt.Errorf("the kernel has taken %d of %d tags", q.depth-n, q.depth)
	}
	src.Flush()
	return nil
}

// command fills in a command for a tag. There is room: each tag has one at most.
func (q *queue) command(op uint32, tag int, result int32) {
	e := q.ring.Get()
	e.Opcode, e.Flags, e.Off, e.UserData = sys.UringOpCmd, sys.UringFixedFile, uint64(op), uint64(tag)
	*(*ioCmd)(unsafe.Pointer(&e.Cmd)) = ioCmd{queue: uint16(q.index), tag: uint16(tag), result: result,
		addr: uint64(uintptr(unsafe.Pointer(&q.bufs[tag*q.maxIO])))}
}

// reap takes what a command has brought: a request, or the end of its tag.
func (q *queue) reap(c iouring.CQE) {
	tag := int(c.UserData)
	switch {
	case c.Res == resOK && q.phase == serving:
		q.begin(tag)
	case c.Res == resOK:
		q.kept++
	default:
		if c.Res != resAbort {
			q.trouble(fmt.Errorf("queue %d: the driver has refused tag %d: %w", q.index, tag, syscall.Errno(-c.Res)))
		}
		q.back++
		q.check()
	}
}

// check notices the end.
func (q *queue) check() {
	if q.phase != gone && q.back == q.depth {
		q.phase = gone
		q.onGone()
	}
}

// begin makes a request of a tag's descriptor.
func (q *queue) begin(tag int) {
	d := q.descs[tag] // once: it is the kernel's memory
	r := &q.reqs[tag]
	if st := q.decode(r, tag, &d); st != block.OK {
		q.command(q.op.commit, tag, -int32(st))
		q.r.Defer(&q.ending)
		return
	}
	q.batch = append(q.batch, &r.io)
}

// decode fills r in, or says why the request cannot be.
func (q *queue) decode(r *request, tag int, d *ioDesc) block.Status {
	b := &r.io.Request
	b.Flags, b.Data, r.io.Again = 0, nil, false
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
	if d.start >= 1<<(64-sectorShift) {
		return block.EINVAL
	}
	b.Offset, b.Length = d.start<<sectorShift, uint64(d.sectors)<<sectorShift
	if b.Op.HasPayload() {
		if b.Length > uint64(q.maxIO) {
			return block.EINVAL
		}
		at := tag * q.maxIO
		r.seg[0] = q.bufs[at : at+int(b.Length) : at+q.maxIO]
		b.Data = r.seg[:]
	}
	if b.Op.Modifies() {
		q.note(r, tag, d)
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
	at(StepComplete)
	if q.phase == severed {
		q.settleSevered()
		return
	}
	for _, io := range batch {
		q.finish(io)
	}
	q.r.Defer(&q.ending)
}

func (q *queue) finish(io *volume.IO) {
	tag := int(io.Tag)
	if io.Op.Modifies() {
		if io.Again && io.Status == block.OK {
			q.journal.settled(span{io.Offset, io.Length})
		}
		q.journal.end(q.slot + tag)
	}
	result := int32(0)
	switch {
	case io.Status != block.OK:
		result = -int32(io.Status)
	case io.Op.HasPayload():
		result = int32(io.Length)
	}
	io.Data = nil
	q.command(q.op.commit, tag, result)
}

// flush is the end of a turn in which something was finished.
func (q *queue) flush() {
	at(StepCommit)
	q.ring.Flush()
	at(StepCommitted)
}

// leave lets what comes from now on be the next engine's.
func (q *queue) leave() {
	if q.phase == serving {
		q.phase = leaving
	}
}

// sever lets go of the driver at once. What the volume has stays noted in the
// journal: nobody learns how it ends.
func (q *queue) sever() {
	if q.idle() {
		q.release()
		return
	}
	q.phase = severed
	q.ring.Close()
}

// settleSevered gives the memory back when the volume has nothing of ours any more.
func (q *queue) settleSevered() {
	if q.idle() {
		q.q.Close()
		q.free()
	}
}

// idle tells whether the volume has nothing of ours.
func (q *queue) idle() bool { return q.q == nil || q.q.InFlight() == 0 }

// release gives everything back. The volume must have nothing of ours. The
// driver sees that its server is gone, if it does not know.
func (q *queue) release() {
	if q.ring != nil {
		q.ring.Close()
	}
	if q.q != nil {
		q.q.Close()
	}
	q.free()
}

// free unmaps memory. The driver copies from and to it only while the queue's
// thread is in its ring, which is closed.
func (q *queue) free() {
	for _, m := range []*[]byte{&q.mapped, &q.bufs} {
		if *m != nil {
			_ = sys.Unmap(*m)
			*m = nil
		}
	}
	q.descs = nil
}
