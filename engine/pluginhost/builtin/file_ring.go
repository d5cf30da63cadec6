package builtin

import (
	"fmt"
	"syscall"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// ringed is a Completer on a reactor that has a ring. Complete may be called at
// any time on that reactor.
type ringed interface {
	store.Completer
	Ring() (*iouring.Hub, error)
}

// ringOps is what a channel asks of the kernel's rings.
var ringOps = []uint8{sys.UringOpRead, sys.UringOpWrite, sys.UringOpReadv, sys.UringOpWritev, sys.UringOpReadFix, sys.UringOpWriteFix,
	sys.UringOpFallocate, sys.UringOpFsync}

// ringSegments is how many segments of a request go into one entry; the rest
// goes into the next one, as after a short read.
const ringSegments = 64

// fileRing carries out reads and writes of a channel through the ring of its
// reactor. What it cannot do, it gives to the workers.
type fileRing struct {
	ch      *fileChannel
	user    *iouring.User
	ops     []*ringOp        // by the entries' values
	free    []uint32         // places in ops
	round   []job            // whom the sync is for that the kernel does
	out     []*block.Request // reused by handBack
	staging *staging         // nil: memory that direct I/O cannot use is the workers' matter
	base    uint64           // the address of a registered buffer's first byte: 0 for a driver's pages; a test's lie somewhere
}

// ringOp is a request that the kernel has.
type ringOp struct {
	place  uint32
	r      *block.Request
	moved  uint64 // bytes
	mode   uint32 // of a fallocate
	iov    []syscall.Iovec
	staged []byte // where the payload is meanwhile, in place slot; nil: where it belongs
	slot   uint16
	fixed  bool   // the payload is a registered buffer
	buffer uint16 // its place
	async  bool   // by a thread of the kernel's, since it would not do it at once
	// failures is how many syncs had failed when r was submitted.
	failures uint64
}

// newFileRing joins the ring of the reactor that done is on.
func newFileRing(ch *fileChannel, done store.Completer) (*fileRing, error) {
	on, ok := done.(ringed)
	if !ok {
		return nil, fmt.Errorf("plugin file: io = %q works where the plugin is linked into the engine only; use io = %q", ioRing, ioAuto)
	}
	hub, err := on.Ring()
	if err != nil {
		return nil, fmt.Errorf("plugin file: %w", err)
	}
	x := &fileRing{ch: ch}
	if x.user, err = hub.Join(x, true); err != nil {
		return nil, fmt.Errorf("plugin file: %w", err)
	}
	if ch.dev.direct {
		if x.staging, err = joinStaging(hub); err != nil {
			x.user.Leave(nil)
			return nil, fmt.Errorf("plugin file: %w", err)
		}
	}
	return x, nil
}

// begin has the kernel do r, from byte r.Filled on, and reports whether the ring
// is a way for it; writes says that it is one for what changes the disk in r's
// batch. What has to be durable has no place there, as each such write needs an
// open file of its own, see worker.dsyncFD.
func (x *fileRing) begin(r *block.Request, writes bool) bool {
	d, mode := x.ch.dev, uint32(0)
	if r.Op.Modifies() && (!writes || d.readOnly || r.Flags&block.FUA != 0) {
		return false
	}
	ok := false
	switch r.Op {
	case block.OpFlush:
		if d.readOnly {
			return false
		}
		x.sync(job{r: r, ch: x.ch, failures: d.sync.failures.Load(), written: true})
		return true
	case block.OpRead, block.OpWrite:
		if d.direct && !d.alignedMemory(r) {
			return x.stage(r)
		}
		ok = d.direct || r.Length <= maxRingCopy
	case block.OpDiscard, block.OpWriteZeroes:
		mode, ok = d.fallocMode(r)
	}
	if !ok {
		return false
	}
	op := x.op(r)
	op.mode, op.moved = mode, 0
	if r.Op == block.OpRead {
		op.moved = r.Filled
	}
	x.enter(op)
	return true
}

// fallocMode gives the mode of the fallocate that is the first choice for a
// discard or write-zeroes, if one is. All other choices are the workers'.
func (d *fileDevice) fallocMode(r *block.Request) (mode uint32, ok bool) {
	if r.Op == block.OpDiscard || r.Flags&block.NoHole == 0 {
		return fallocPunchHole | fallocKeepSize, !d.noPunch.Load() && !(r.Op == block.OpDiscard && d.isBlock)
	}
	fast := r.Flags&block.FastZero != 0
	return fallocZeroRange | fallocKeepSize, !d.noZeroRange.Load() && !(fast && d.isBlock)
}

// op gives a place to a request.
func (x *fileRing) op(r *block.Request) *ringOp {
	if len(x.free) == 0 {
		x.free = append(x.free, uint32(len(x.ops)))
		x.ops = append(x.ops, &ringOp{place: uint32(len(x.ops)), iov: make([]syscall.Iovec, 0, 8)})
	}
	op := x.ops[x.free[len(x.free)-1]]
	x.free = x.free[:len(x.free)-1]
	op.r, op.staged, op.fixed, op.async = r, nil, false, false
	return op
}

// enter fills in an entry for what is left of an op.
func (x *fileRing) enter(op *ringOp) {
	r := op.r
	e := x.user.Get(uint64(op.place))
	e.Fd, e.Off = int32(x.ch.dev.fd), r.Offset+op.moved
	if op.async {
		e.Flags = sys.UringAsync
	}
	if !r.Op.HasPayload() {
		e.Opcode, e.Addr, e.Len = sys.UringOpFallocate, r.Length, op.mode
		return
	}
	plain, vectored, fixed := uint8(sys.UringOpRead), uint8(sys.UringOpReadv), uint8(sys.UringOpReadFix)
	if r.Op == block.OpWrite {
		plain, vectored, fixed = sys.UringOpWrite, sys.UringOpWritev, sys.UringOpWriteFix
	}
	if op.fixed {
		e.Opcode, e.BufIndex, e.Addr, e.Len = fixed, op.buffer, x.base+op.moved, uint32(r.Length-op.moved)
		return
	}
	if op.staged != nil {
		part := op.staged[op.moved:]
		e.Opcode, e.Addr, e.Len = plain, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(part)))), uint32(len(part))
		return
	}
	op.iov = op.segments()
	if len(op.iov) == 1 {
		e.Opcode, e.Addr, e.Len = plain, uint64(uintptr(unsafe.Pointer(op.iov[0].Base))), uint32(op.iov[0].Len)
		return
	}
	e.Opcode, e.Addr, e.Len = vectored, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(op.iov)))), uint32(len(op.iov))
}

// segments describes what is left of the payload, or as much as one entry takes.
// The kernel reads the description when the entry is submitted; it stands in the
// op until then.
func (op *ringOp) segments() []syscall.Iovec {
	if want := min(len(op.r.Data), ringSegments); cap(op.iov) < want {
		op.iov = make([]syscall.Iovec, 0, ringSegments)
	}
	iov := op.iov[:cap(op.iov)]
	return iov[:fillIovecs(iov, op.r, op.moved)]
}

// Reap takes what the kernel has done.
func (x *fileRing) Reap(c iouring.CQE) {
	if c.UserData == syncEntry {
		x.synced(syscall.Errno(-c.Res))
		return
	}
	op := x.ops[c.UserData]
	if c.Res > 0 {
		x.moved(op, uint64(c.Res))
		return
	}
	errno := syscall.Errno(-c.Res)
	if !op.r.Op.HasPayload() && (errno == 0 || missing(errno)) {
		x.allocated(op, errno)
		return
	}
	switch errno {
	case 0: // the file ends inside the disk; a write that makes no progress would spin
		x.end(op, block.EIO)
	case syscall.EINTR:
		x.enter(op)
	case syscall.EAGAIN, syscall.ECANCELED:
		x.otherwise(op, block.Status(errno))
	default:
		x.end(op, block.Status(errno))
	}
}

// allocated ends a fallocate that the kernel has done, or leaves it to a worker
// to find out what it can do instead.
func (x *fileRing) allocated(op *ringOp, errno syscall.Errno) {
	if errno != 0 {
		x.otherwise(op, block.Status(errno))
		return
	}
	x.end(op, block.OK)
}

// moved counts bytes, and goes on if that was not all.
func (x *fileRing) moved(op *ringOp, n uint64) {
	op.moved += n
	if op.r.Op == block.OpRead && op.staged == nil {
		op.r.Filled = op.moved
	}
	d := x.ch.dev
	switch {
	case op.moved >= op.r.Length && op.staged != nil:
		x.end(op, op.unstage())
	case op.moved >= op.r.Length:
		x.end(op, block.OK)
	case d.direct && op.moved%uint64(d.info.BlockSize) != 0:
		x.end(op, block.EIO) // direct I/O cannot go on inside a block
	default:
		x.enter(op)
	}
}

// otherwise does what the kernel would not do now by a thread that may wait: a
// worker, or, where the payload is not in this process, one of the kernel's.
func (x *fileRing) otherwise(op *ringOp, st block.Status) {
	switch {
	case !op.fixed:
		r := op.r
		x.drop(op)
		x.ch.stage = append(x.ch.stage, job{r: r, ch: x.ch})
		x.ch.dev.sync.stamp(x.ch.stage)
		x.ch.hand()
	case !op.async:
		op.async = true
		x.enter(op)
	default:
		x.end(op, st)
	}
}

// end gives a request back.
func (x *fileRing) end(op *ringOp, st block.Status) {
	r, sync := op.r, op.fixed && op.r.Flags&block.FUA != 0
	failures := op.failures
	x.drop(op)
	if sync && st == block.OK {
		x.sync(job{r: r, ch: x.ch, failures: failures, written: true})
		return
	}
	r.Status = st
	x.ch.done.Complete(r)
}

// drop gives up an op's place.
func (x *fileRing) drop(op *ringOp) {
	clear(op.iov[:cap(op.iov)])
	if op.staged != nil {
		x.staging.give(op.slot)
	}
	op.r, op.staged = nil, nil
	x.free = append(x.free, op.place)
}

// Reaped implements iouring.Handler.
func (x *fileRing) Reaped() {}

// Failed leaves a ring that has failed to what it has: the kernel may still move
// their bytes, so they never end. All else goes to the workers.
func (x *fileRing) Failed(error) { x.ch.ring = nil }

// close leaves the ring. Nothing is outstanding.
func (x *fileRing) close() {
	if x.staging != nil {
		x.staging.leave(x.user.Hub())
		x.staging = nil
	}
	x.user.Leave(nil)
}

// FixedMax implements volume.FixedStore: how many bytes a request may have whose
// payload is a buffer that is registered with h. Such buffers are a driver's
// pages, which are aligned to sectors; not every disk takes that past the page
// cache.
func (c *fileChannel) FixedMax(h *iouring.Hub) uint64 {
	if c.ring == nil || c.ring.user.Hub() != h || c.dev.direct && c.dev.memAlign > 512 {
		return 0
	}
	return maxFixed
}

// maxFixed bounds a request with a registered buffer, in bytes.
const maxFixed = 32 << 20

// SubmitFixed implements volume.FixedStore. A durable write is a write and a
// sync, which it shares with others.
func (c *fileChannel) SubmitFixed(r *block.Request, buffer uint16) {
	switch {
	case c.ring == nil:
		r.Status = block.EIO
		c.done.Complete(r)
		return
	case r.Op.Modifies() && c.dev.readOnly:
		r.Status = block.EROFS
		c.done.Complete(r)
		return
	}
	r.Filled = 0
	op := c.ring.op(r)
	op.moved, op.fixed, op.buffer, op.failures = 0, true, buffer, c.dev.sync.failures.Load()
	c.ring.enter(op)
}
