package volume_test

import (
	"bytes"
	"slices"

	"blockengine/sdk/block"
)

// check compares the outcome of a request with what the model says, and takes
// over into the model what it did to the disk.
func (g *guest) check(a *ask) {
	w, io := g.w, &a.io
	defer g.release(a)
	want := g.expected(a)
	if io.Status != want {
		w.t.Errorf("%v flags %b [%d,+%d) ended with %v, want %v (disk %+v)", io.Op, a.flags, io.Offset, a.length, io.Status, want, w.info)
		return
	}
	if g.q.Volume() != w.v || w.f.chans[g.r.Index()] != nil && len(a.buf) > 0 && w.f.chans[g.r.Index()].lent(a.buf) {
		w.t.Errorf("%v [%d,+%d) completed while the device held its memory", io.Op, io.Offset, a.length)
	}
	if a.want != block.OK {
		return
	}
	switch io.Op {
	case block.OpRead:
		g.checkRead(a)
	case block.OpWrite, block.OpWriteZeroes, block.OpDiscard:
		g.checkModify(a)
	case block.OpBlockStatus:
		g.checkStatus(a)
	case block.OpFlush:
		for b, need := range a.need {
			if w.f.durable[b] < need {
				w.t.Errorf("after a flush block %d is not durable (disk %+v)", b, w.info)
				return
			}
		}
	}
}

func (g *guest) release(a *ask) {
	for b := a.first; b < a.last; b++ {
		g.w.busy[b] = false
		g.w.acked[b] = g.w.f.cached[b]
	}
}

// expected is the status that the rules give a request: it is refused, or the
// disk cannot do it at all, or the first failure of the device's is its own.
func (g *guest) expected(a *ask) block.Status {
	info := &g.w.info
	switch {
	case a.want != block.OK:
		return a.want
	case a.io.Op == block.OpWriteZeroes && a.flags&block.FastZero != 0 && !info.Has(block.CapFastZero|block.CapWriteZeroes):
		return block.ENOTSUP
	}
	first := failure{}
	for b := a.first; b < a.last; b++ {
		if f, ok := g.w.f.failed[b]; ok && (first.seq == 0 || f.seq < first.seq) {
			first = f
		}
	}
	if first.status > block.MaxStatus {
		return block.EIO
	}
	return first.status
}

func (g *guest) checkRead(a *ask) {
	if a.io.Status != block.OK {
		return
	}
	if want := g.w.model[a.io.Offset:][:a.length]; !bytes.Equal(a.buf, want) || a.io.Filled != a.length {
		g.w.t.Errorf("read [%d,+%d) gave other bytes than the model, or says that %d were filled", a.io.Offset, a.length, a.io.Filled)
	}
}

// checkModify compares the disk with what the request means, and with FUA its
// durable part too. One that failed may have been carried out in part.
func (g *guest) checkModify(a *ask) {
	w, io := g.w, &a.io
	model, disk := w.model[io.Offset:][:a.length], w.f.disk[io.Offset:][:a.length]
	if io.Status != block.OK {
		copy(model, disk)
		return
	}
	switch {
	case io.Op == block.OpWrite:
		copy(model, a.buf)
	case io.Op == block.OpWriteZeroes:
		clear(model)
	case w.info.Has(block.CapDiscard):
		copy(model, bytes.Repeat([]byte{discarded}, len(model)))
	}
	if !bytes.Equal(model, disk) {
		w.t.Errorf("after %v [%d,+%d) the disk holds something else than the model (%+v)", io.Op, io.Offset, a.length, w.info)
	}
	if a.flags&block.FUA == 0 || io.Op == block.OpDiscard && !w.info.Has(block.CapDiscard) {
		return
	}
	for b := a.first; b < a.last; b++ {
		if w.f.durable[b] != w.f.cached[b] {
			w.t.Errorf("after %v with FUA [%d,+%d) block %d is not durable (%+v)", io.Op, io.Offset, a.length, b, w.info)
			return
		}
	}
}

func (g *guest) checkStatus(a *ask) {
	if a.io.Status != block.OK {
		return
	}
	want := []block.Extent{{Length: a.length}}
	if g.w.info.Has(block.CapBlockStatus) {
		want = g.w.f.status[a.io.Offset]
	}
	if !slices.Equal(a.io.Extents, want) {
		g.w.t.Errorf("block status [%d,+%d) gave %v, the disk said %v", a.io.Offset, a.length, a.io.Extents, want)
	}
}
