package sdktest

import (
	"math/rand/v2"

	"blockengine/sdk/block"
)

// What the model of a disk knows of a block.
const (
	unknownContent = -1
	zeroContent    = 0
)

// model is a disk as it must be: for each block the seed of the pattern that
// was written last, unknownContent or zeroContent.
type model struct {
	seeds []int
	size  uint64 // of a block
}

// data runs random operations, several outstanding that do not overlap, and
// compares what is read with the model.
func (h *Harness) data(t TB, cut Cut) {
	x := h.open(t, Options{Cut: cut, Seed: uint64(cut) + 1})
	l := x.Limits
	m := newModel(l.Size, uint64(l.BlockSize))
	rnd := rand.New(rand.NewPCG(uint64(cut), 42))
	rounds := 40
	if cut == Single {
		rounds = 4
	}
	for range rounds {
		var all []*Request
		for lane := range 8 {
			if r := m.random(rnd, lane, promised(l.Caps)); r != nil {
				all = append(all, r)
			}
		}
		x.Do(all...)
		check(t, x)
		for _, r := range all {
			m.settle(t, r)
		}
	}
}

// newModel covers the disk's first blocks; a handful finds more mistakes than
// many.
func newModel(size, blockSize uint64) *model {
	unit := max(blockSize, 512)
	m := &model{size: unit, seeds: make([]int, min(size/unit, 256))}
	for i := range m.seeds {
		m.seeds[i] = unknownContent
	}
	return m
}

// random makes an operation in one of eight lanes, so that those of a round do
// not overlap.
func (m *model) random(rnd *rand.Rand, lane int, ops []operation) *Request {
	per := len(m.seeds) / 8
	if per == 0 {
		return nil
	}
	o := ops[rnd.IntN(len(ops))]
	r := &Request{Op: o.op, Mods: o.mods}
	if o.op == block.OpFlush {
		return r
	}
	from := rnd.IntN(per)
	n := 1 + rnd.IntN(min(per-from, 16))
	r.Offset, r.Length = uint64(lane*per+from)*m.size, uint64(n)*m.size
	if o.op == block.OpWrite {
		first := int(r.Offset / m.size)
		for i := range n {
			m.seeds[first+i] = 1 + rnd.IntN(1<<20)
			r.Data = append(r.Data, m.content(first+i)...)
		}
	}
	return r
}

// content is what block i must hold.
func (m *model) content(i int) []byte {
	b := make([]byte, m.size)
	if seed := m.seeds[i]; seed != zeroContent {
		g := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
		for j := range b {
			b[j] = byte(g.Uint32())
		}
	}
	return b
}

// settle compares a result with the model, or changes the model.
func (m *model) settle(t TB, r *Request) {
	t.Helper()
	if r.Status == block.ENOTSUP && r.Mods&block.FastZero != 0 {
		return
	}
	if r.Status != block.OK {
		t.Fatalf("%v of %d bytes at %d: %v", r.Op, r.Length, r.Offset, r.Status)
	}
	first, n := int(r.Offset/m.size), int(r.Length/m.size)
	switch r.Op {
	case block.OpRead:
		for i := range n {
			got := r.Data[uint64(i)*m.size : uint64(i+1)*m.size]
			if m.seeds[first+i] != unknownContent && string(got) != string(m.content(first+i)) {
				t.Fatalf("block %d does not hold what was written last", first+i)
			}
		}
	case block.OpWriteZeroes, block.OpDiscard:
		for i := range n {
			m.seeds[first+i] = unknownContent
			if r.Op == block.OpWriteZeroes {
				m.seeds[first+i] = zeroContent
			}
		}
	case block.OpBlockStatus:
		m.status(t, r)
	}
}

// status checks that nothing that was written is said to be zeroes.
func (m *model) status(t TB, r *Request) {
	t.Helper()
	at := r.Offset
	for _, e := range r.Extents {
		for i := at; i < at+e.Length; i += m.size {
			if e.State&block.Zero != 0 && m.seeds[i/m.size] > zeroContent {
				t.Fatalf("block %d is said to be zeroes and was written", i/m.size)
			}
		}
		at += e.Length
	}
	if r.Mods&block.OneExtent != 0 && len(r.Extents) != 1 {
		t.Fatalf("one extent was asked for and %d came", len(r.Extents))
	}
}
