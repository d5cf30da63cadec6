package volume

import "blockengine/sdk/block"

// window is how many parts of a request are under way at a time, and
// zeroChunk the length of the writes that stand for a write-zeroes.
const (
	window    = 8
	zeroChunk = 256 << 10
)

// zeroes is what a device that cannot write zeroes is given to write. Nothing
// writes to it: a write's payload is read only.
var zeroes [zeroChunk]byte

// plan carries out a request by parts: bytes [next, end) remain to be begun,
// and inFlight parts are under way.
type plan struct {
	op        block.Op
	flags     block.Flags
	next, end uint64 // bytes of the disk
	step      uint64
	inFlight  int
}

// sized hands down a request that takes no emulation, in parts if it is longer
// than the device takes (0: any length).
func (l *lane) sized(io *IO, most uint64) {
	if io.Op == block.OpCache && !l.v.info.Load().Has(block.CapCache) {
		io.queue.finish(io)
		return
	}
	if most == 0 || io.Length <= most {
		l.batch = append(l.batch, io)
		return
	}
	l.split(io, io.Op, io.Flags, most)
}

// modify hands down a write, write-zeroes or discard.
func (l *lane) modify(io *IO, info *block.Info, most uint64) {
	if io.Flags&block.FUA != 0 && !info.Has(block.CapFUA) {
		io.Flags &^= block.FUA
		if info.Has(block.CapFlush) { // else what is acknowledged is durable
			io.stage = stageThenFlush
		}
	}
	switch {
	case io.Op == block.OpDiscard && !info.Has(block.CapDiscard):
		io.queue.finish(io) // a hint that the device cannot use
	case io.Op == block.OpWriteZeroes && io.Flags&block.FastZero != 0 && !info.Has(block.CapWriteZeroes|block.CapFastZero):
		io.Status = block.ENOTSUP
		io.queue.finish(io)
	case io.Op == block.OpWriteZeroes && !info.Has(block.CapWriteZeroes):
		step := uint64(zeroChunk)
		if info.MaxTransfer != 0 {
			step = min(step, uint64(info.MaxTransfer))
		}
		l.split(io, block.OpWrite, io.Flags&block.FUA, step)
	default:
		l.sized(io, most)
	}
}

// blockStatus hands down a request for extents. It may be answered for a part
// of its range only, so a long one is shortened rather than split.
func (l *lane) blockStatus(io *IO, info *block.Info) {
	io.Extents = io.Extents[:0]
	if !info.Has(block.CapBlockStatus) {
		io.Extents = append(io.Extents, block.Extent{Length: io.Length})
		io.queue.finish(io)
		return
	}
	io.Length = min(io.Length, maxStatus)
	l.batch = append(l.batch, io)
}

// split carries io out as parts of at most step bytes.
func (l *lane) split(io *IO, op block.Op, flags block.Flags, step uint64) {
	p := l.newPlan()
	*p = plan{op: op, flags: flags, next: io.Offset, end: io.Offset + io.Length, step: step}
	io.plan = p
	l.advance(io)
}

// advance begins as many parts as the window lets in.
func (l *lane) advance(io *IO) {
	p := io.plan
	for p.inFlight < window && p.next < p.end && io.errs == block.OK {
		n := min(p.step, p.end-p.next)
		part := l.part(io, p.op)
		part.Flags, part.Offset, part.Length = p.flags, p.next, n
		l.payload(part, io)
		p.next += n
		p.inFlight++
		l.batch = append(l.batch, part)
	}
}

// payload points a part at its piece of the whole's payload, or at zeroes for
// a write that stands for a write-zeroes.
func (l *lane) payload(part, io *IO) {
	if !part.Op.HasPayload() {
		return
	}
	part.Data = part.segs[:0]
	if io.Op == block.OpWriteZeroes {
		part.Data = append(part.Data, zeroes[:part.Length])
		return
	}
	from := part.Offset - io.Offset
	io.EachSegment(from, from+part.Length, func(b []byte) { part.Data = append(part.Data, b) })
}

// partDone counts a part off, and ends the whole when it was the last one. The
// first error ends it early, but never while a part is under way: its memory
// is on loan.
func (l *lane) partDone(io *IO, st block.Status) {
	p := io.plan
	p.inFlight--
	if st != block.OK && io.errs == block.OK {
		io.errs = st
	}
	l.advance(io)
	if p.inFlight > 0 {
		return
	}
	io.plan = nil
	l.plans = append(l.plans, p)
	io.Status = io.errs
	if io.stage == stageThenFlush && io.Status == block.OK {
		io.stage = stageFlushing
		l.flush(io, l.v.info.Load())
		return
	}
	l.finish(io)
}

func (l *lane) newPlan() *plan {
	if n := len(l.plans); n > 0 {
		p := l.plans[n-1]
		l.plans = l.plans[:n-1]
		return p
	}
	return &plan{}
}
