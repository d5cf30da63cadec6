package builtin

import (
	"math/bits"
	"sync/atomic"
)

// pageMap is one bit for each page of a disk: set means that the page may
// hold data, clear means that it reads as zeroes. Reactors share it without
// a lock; words is memory that the kernel provides lazily, so the map of an
// unused disk costs nothing.
type pageMap struct {
	words []uint64
}

// pageMapBytes is the size of the map of so many pages, in bytes.
func pageMapBytes(pages uint64) uint64 { return (pages + 63) / 64 * 8 }

// wordMask gives the bits of word w that stand for pages [from, to).
func wordMask(w, from, to uint64) uint64 {
	mask := ^uint64(0)
	if first := w * 64; from > first {
		mask <<= from - first
	}
	if end := w*64 + 64; to < end {
		mask &= ^uint64(0) >> (end - to)
	}
	return mask
}

// mark sets pages [from, to). Marking what is marked only reads, so that
// reactors that write to the same region do not steal cache lines from each
// other.
func (m pageMap) mark(from, to uint64) {
	for w := from / 64; w*64 < to; w++ {
		mask := wordMask(w, from, to)
		if atomic.LoadUint64(&m.words[w])&mask != mask {
			atomic.OrUint64(&m.words[w], mask)
		}
	}
}

// wipe clears pages [from, to) and reports whether any was set.
func (m pageMap) wipe(from, to uint64) bool {
	any := false
	for w := from / 64; w*64 < to; w++ {
		mask := wordMask(w, from, to)
		if atomic.LoadUint64(&m.words[w])&mask != 0 {
			atomic.AndUint64(&m.words[w], ^mask)
			any = true
		}
	}
	return any
}

// run gives the state of page from and where the run of pages in that state
// ends, at limit at the latest. from must be below limit.
func (m pageMap) run(from, limit uint64) (set bool, end uint64) {
	w := from / 64
	word := atomic.LoadUint64(&m.words[w])
	set = word>>(from%64)&1 == 1
	flip := uint64(0)
	if set {
		flip = ^uint64(0)
	}
	// A bit that differs from the first page's state ends the run.
	differs := (word ^ flip) & (^uint64(0) << (from % 64))
	for differs == 0 {
		if w++; w*64 >= limit {
			return set, limit
		}
		differs = atomic.LoadUint64(&m.words[w]) ^ flip
	}
	return set, min(limit, w*64+uint64(bits.TrailingZeros64(differs)))
}
