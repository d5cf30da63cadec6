package vhosttest

import (
	"math/bits"
	"math/rand/v2"
)

// A sector tells what it is. In 8-byte words, little endian:
//
//	0   the sector's number on the disk, XOR key
//	1   the version, XOR key rotated
//	…   filler, the same everywhere
//	63  a hash of words 0 and 1
type pattern struct {
	key    uint64
	filler [SectorSize]byte
}

const tailAt = SectorSize - 8

func newPattern(seed uint64) *pattern {
	r := rand.New(rand.NewPCG(seed, 0x76686f737474))
	p := &pattern{key: r.Uint64()}
	for i := 0; i < SectorSize; i += 8 {
		le.PutUint64(p.filler[i:], r.Uint64())
	}
	return p
}

func (p *pattern) words(sector uint64, version uint32) (number, state uint64) {
	return sector ^ p.key, uint64(version) ^ bits.RotateLeft64(p.key, 17)
}

func (p *pattern) version(state uint64) uint64 { return state ^ bits.RotateLeft64(p.key, 17) }

func tailOf(number, state uint64) uint64 {
	hi, lo := bits.Mul64(number^0x9e3779b97f4a7c15, bits.RotateLeft64(state, 29)|1)
	return hi ^ lo
}

// stamp makes b, whole sectors, hold a version. The filler is there already if
// b has held one before.
func (p *pattern) stamp(b []byte, sector uint64, version uint32) {
	for at := 0; at < len(b); at += SectorSize {
		s := b[at : at+SectorSize]
		number, state := p.words(sector, version)
		le.PutUint64(s, number)
		le.PutUint64(s[8:], state)
		le.PutUint64(s[tailAt:], tailOf(number, state))
		sector++
	}
}

// fill writes the filler.
func (p *pattern) fill(b []byte) {
	for at := 0; at < len(b); at += SectorSize {
		copy(b[at:], p.filler[:])
	}
}

// check finds the first sector of b that does not hold one of the versions from
// lo to hi; -1: all do.
func (p *pattern) check(b []byte, sector uint64, lo, hi uint32) int {
	for at := 0; at < len(b); at += SectorSize {
		s := b[at : at+SectorSize]
		number, state := le.Uint64(s), le.Uint64(s[8:])
		want, _ := p.words(sector, 0)
		if v := p.version(state); number != want || v < uint64(lo) || v > uint64(hi) || le.Uint64(s[tailAt:]) != tailOf(number, state) {
			return at / SectorSize
		}
		sector++
	}
	return -1
}

// seen tells what a sector claims to be; ok is false if it was not written with
// this pattern.
func (p *pattern) seen(s []byte) (sector, version uint64, ok bool) {
	number, state := le.Uint64(s), le.Uint64(s[8:])
	return number ^ p.key, p.version(state), le.Uint64(s[tailAt:]) == tailOf(number, state)
}

// block is what is known of a block of the disk: it holds one of the versions
// from lo to hi, which are the same unless a write has failed or is outstanding.
type block struct {
	lo, hi  uint32
	readers uint16
	writing bool
}

// blocks are those of one queue. A block has at most one write outstanding and
// is not read meanwhile, so what a read may give is exact.
type blocks struct {
	of   []block // nil: nothing is known, and every block is free
	n    uint32
	next uint32 // the one that is taken next, in order
	rnd  rand.PCG
}

// pick finds a block that may be read or written now, in order or at random.
// There are at least two blocks for each request, so there is one.
func (s *blocks) pick(write, inOrder bool) uint32 {
	i := s.next
	if !inOrder {
		i = uint32(s.rnd.Uint64() >> 32 * uint64(s.n) >> 32)
	}
	for s.of != nil {
		if b := &s.of[i]; !b.writing && (!write || b.readers == 0) {
			break
		}
		if i++; i == s.n {
			i = 0
		}
	}
	if inOrder {
		if s.next = i + 1; s.next == s.n {
			s.next = 0
		}
	}
	return i
}
