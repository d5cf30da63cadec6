package ublk

import (
	"fmt"
	"syscall"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
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
	copy    Copy
	r       *reactor.Reactor
	ring    ring
	q       *volume.Queue
	file    int32 // index of the device in the ring
	journal *journal
	slot    int // of tag 0 in the journal
	op      struct{ fetch, commit, getData uint32 }

	mapped []byte // of descs; nil where they are a test's
	descs  []ioDesc
	bufs   []byte // all payload memory: maxIO for each tag, or that of pool
	reqs   []request
	batch  []*volume.IO
	ending reactor.Deferred

	// With a Copy that shares buffers, see payload.go.
	pool    *pool
	waiting []uint16 // tags that want room, in order
	freed   bool     // there may be some
	spent   []piece  // committed, and the driver may not have taken the commit yet
	char    int      // descriptor of the device, for CopyUser
	pread   func(int, []byte, int64) (int, sys.Errno)
	pwrite  func(int, []byte, int64) (int, sys.Errno)

	fixed fixed // with CopyZero

	phase   phase
	back    int // tags that the driver has taken back for good
	kept    int // requests that are left to the next engine
	stats   volume.Stats
	resent  uint64
	missed  uint64      // payloads that could not be copied
	onBack  func()      // the driver has begun to take tags back
	onGone  func()      // it has taken all
	trouble func(error) // the driver or the ring breaks its word
	warn    func(error) // something that does not end the device
}

// newQueue makes queue index of a device that copies in a certain way, with shared
// buffers of so many bytes where that way has them; it is not on a reactor yet.
func newQueue(index, depth, maxIO int, way Copy, buffers int, encoded bool) (*queue, error) {
	q := &queue{index: index, depth: depth, maxIO: maxIO, copy: way, slot: index * depth, char: -1,
		pread: sys.RawPread, pwrite: sys.RawPwrite}
	q.op.fetch, q.op.commit, q.op.getData = ioOp(ioFetch, encoded), ioOp(ioCommitAndFetch, encoded), ioOp(ioGetData, encoded)
	if err := q.allocate(buffers); err != nil {
		return nil, fmt.Errorf("queue %d: %w", index, err)
	}
	q.reqs = make([]request, depth)
	for i := range q.reqs {
		q.reqs[i].io.Tag = uint64(i)
	}
	q.batch = make([]*volume.IO, 0, depth)
	q.ending.Run = q.flush
	return q, nil
}

// allocate gets all memory for payload.
func (q *queue) allocate(buffers int) (err error) {
	if q.copy.shares() {
		if q.pool, err = newPool(buffers, q.maxIO); err != nil {
			return err
		}
		q.bufs = q.pool.mem
		q.waiting, q.spent = make([]uint16, 0, q.depth), make([]piece, 0, q.depth)
		return nil
	}
	if q.bufs, err = sys.MapMemory(q.depth * q.maxIO); err != nil {
		return fmt.Errorf("buffers of %d times %d bytes: %w (use less depth, or smaller requests)", q.depth, q.maxIO, err)
	}
	return nil
}

// arrive puts the queue on a reactor, on which it is called.
func (q *queue) arrive(r *reactor.Reactor, v *volume.Volume, readOnly bool) (err error) {
	if q.q, err = v.Open(r, q, volume.QueueOptions{ReadOnly: readOnly, Stats: &q.stats}); err != nil {
		return err
	}
	q.r = r
	if q.copy == CopyZero {
		err = q.share(r)
	} else {
		q.ring, err = newOwnRing(r, q)
	}
	if err != nil {
		q.ring = nil
		q.q.Close()
	}
	return err
}

// attach connects the queue with the device behind fd and fetches all tags, in
// one system call: a kill leaves the queue with none or with all of them, and
// drivers before Linux 6.16 cannot cope with some.
func (q *queue) attach(fd int, page int) (err error) {
	q.char = fd
	offset, size := descriptors(q.index, q.depth, page)
	if q.mapped, err = sys.MapReadOnly(fd, offset, size); err != nil {
		return err
	}
	q.descs = unsafe.Slice((*ioDesc)(unsafe.Pointer(&q.mapped[0])), q.depth)
	if q.file, err = q.ring.Bind(fd); err != nil {
		return err
	}
	for tag := range q.depth {
		q.command(q.op.fetch, tag, 0, q.fetchAddress(tag))
	}
	left, err := q.ring.Fetch()
	if err == nil && left > 0 {
		err = fmt.Errorf("the kernel has taken %d of %d tags", q.depth-left, q.depth)
	}
	return err
}

// command fills in a command for a tag. There is room: each tag has one at most.
func (q *queue) command(op uint32, tag int, result int32, addr uint64) {
	e := q.ring.Get(uint64(tag))
	e.Opcode, e.Flags, e.Fd, e.Off = sys.UringOpCmd, sys.UringFixedFile, q.file, uint64(op)
	if q.copy == CopyZero {
		e.Addr = q.fixed.place(tag)
	}
	*(*ioCmd)(unsafe.Pointer(&e.Cmd)) = ioCmd{queue: uint16(q.index), tag: uint16(tag), result: result, addr: addr}
}

// reap takes what a command has brought: a request, or the end of its tag.
func (q *queue) reap(c iouring.CQE) {
	tag := int(c.UserData)
	switch {
	case (c.Res == resOK || c.Res == resNeedData) && q.phase == serving:
		q.begin(tag, c.Res == resNeedData)
	case c.Res == resOK || c.Res == resNeedData:
		q.kept++
	default:
		if c.Res != resAbort {
			q.trouble(fmt.Errorf("queue %d: the driver has refused tag %d: %w", q.index, tag, syscall.Errno(-c.Res)))
		}
		q.back++
		q.check()
	}
}

// check notices the beginning of the end, and the end.
func (q *queue) check() {
	if q.back == 1 && q.phase == serving {
		q.onBack()
	}
	if q.phase != gone && q.back == q.depth {
		q.phase = gone
		q.onGone()
	}
}

// goOn is for when some completions have been reaped: it submits all requests that
// can go on.
func (q *queue) goOn() {
	q.settle()
	q.resume()
	q.submit()
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

// flush is the end of a turn in which something was finished.
func (q *queue) flush() {
	at(StepCommit)
	q.ring.Flush()
	at(StepCommitted)
	q.goOn()
}

// leave lets what comes from now on be the next engine's.
func (q *queue) leave() {
	if q.phase == serving {
		q.phase = leaving
		q.kept += len(q.waiting)
		q.forgetShared()
	}
}

// forgetShared ends all waiting for buffers, and for their being given back.
func (q *queue) forgetShared() { q.waiting, q.spent = q.waiting[:0], q.spent[:0] }

// sever lets go of the driver at once. What the volume has stays noted in the
// journal: nobody learns how it ends.
func (q *queue) sever() {
	if q.idle() {
		q.release()
		return
	}
	q.phase = severed
	q.forgetShared()
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
	q.forgetShared()
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
