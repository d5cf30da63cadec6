package nbdload

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// sectorSize is what a disk writes in one piece: each sector tells what it is.
const sectorSize = 512

// A sector as it is written, in 8-byte words, little endian:
//
//	0   the sector's number on the disk, XOR key
//	1   the version, XOR key rotated
//	…   filler, the same in every sector
//	63  a hash of words 0 and 1
type pattern struct {
	key    uint64
	filler []byte // a block
}

const tailAt = sectorSize - 8

func newPattern(seed uint64, block int) pattern {
	r := rand.New(rand.NewPCG(seed, 0x6e62646c6f6164))
	p := pattern{key: r.Uint64(), filler: make([]byte, block)}
	for i := 0; i < block; i += 8 {
		binary.LittleEndian.PutUint64(p.filler[i:], r.Uint64())
	}
	return p
}

// words of a sector.
func (p *pattern) words(sector uint64, version uint32) (number, state uint64) {
	return sector ^ p.key, uint64(version) ^ bits.RotateLeft64(p.key, 17)
}

// version is the inverse of words, for the second.
func (p *pattern) version(state uint64) uint64 { return state ^ bits.RotateLeft64(p.key, 17) }

func tail(number, state uint64) uint64 {
	hi, lo := bits.Mul64(number^0x9e3779b97f4a7c15, bits.RotateLeft64(state, 29)|1)
	return hi ^ lo
}

// append writes a version of a block to b. block counts in the disk's blocks.
func (p *pattern) append(b []byte, block uint64, version uint32) []byte {
	at := len(b)
	b = append(b, p.filler...)
	n := len(p.filler) / sectorSize
	for i := range n {
		s := b[at+i*sectorSize:][:sectorSize]
		number, state := p.words(block*uint64(n)+uint64(i), version)
		binary.LittleEndian.PutUint64(s, number)
		binary.LittleEndian.PutUint64(s[8:], state)
		binary.LittleEndian.PutUint64(s[tailAt:], tail(number, state))
	}
	return b
}

// check finds the first sector of a block that does not hold one of the
// versions from lo to hi; -1: all do.
func (p *pattern) check(b []byte, block uint64, lo, hi uint32) int {
	n := len(b) / sectorSize
	for i := range n {
		s := b[i*sectorSize:][:sectorSize]
		number, state := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[8:])
		want, _ := p.words(block*uint64(n)+uint64(i), 0)
		version := p.version(state)
		if number != want || version < uint64(lo) || version > uint64(hi) ||
			binary.LittleEndian.Uint64(s[tailAt:]) != tail(number, state) {
			return i
		}
	}
	return -1
}

// seen tells what a sector claims to be, for a message: its number on the disk
// and its version, or ok false if it was not written with this pattern.
func (p *pattern) seen(s []byte) (sector, version uint64, ok bool) {
	number, state := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[8:])
	ok = binary.LittleEndian.Uint64(s[tailAt:]) == tail(number, state)
	return number ^ p.key, p.version(state), ok
}
