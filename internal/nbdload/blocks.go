package nbdload

import "math/rand/v2"

// block is what is known of a block of the disk. It holds one of the versions
// from lo to hi, which are the same unless a write has failed.
type block struct {
	lo, hi  uint32
	readers uint16 // reads outstanding
	writing bool   // a write is outstanding
}

// blocks are those of one connection.
type blocks struct {
	of    []block
	first uint64 // number of the first, on the disk
	next  uint32 // the one to be filled next
	rnd   rand.PCG
}

// filled says whether every block has been given its first version.
func (s *blocks) filled() bool { return int(s.next) == len(s.of) }

// pick finds a block at random, or the next one, that may be read or written
// now. There are at least two blocks for each request, so there is one.
func (s *blocks) pick(write bool) uint32 {
	n := uint32(len(s.of))
	i := uint32(s.rnd.Uint64() >> 32 * uint64(n) >> 32)
	for {
		b := &s.of[i]
		if !b.writing && (!write || b.readers == 0) {
			return i
		}
		if i++; i == n {
			i = 0
		}
	}
}

// beginRead and the next three are the life of a request on a block.
func (s *blocks) beginRead(i uint32) { s.of[i].readers++ }

// endRead gives the versions that may have been read.
func (s *blocks) endRead(i uint32) (lo, hi uint32) {
	b := &s.of[i]
	b.readers--
	return b.lo, b.hi
}

// beginWrite gives the version to write.
func (s *blocks) beginWrite(i uint32) uint32 {
	b := &s.of[i]
	b.writing = true
	b.hi++
	return b.hi
}

// endWrite: a version that was not acknowledged is there, or is not, or will
// be.
func (s *blocks) endWrite(i uint32, acknowledged bool) {
	b := &s.of[i]
	b.writing = false
	if acknowledged {
		b.lo = b.hi
	}
}
