package ublk

import (
	"fmt"
	"math/bits"

	"blockengine/engine/sys"
)

// pool is memory that the requests of a queue share, for the ways of copying in
// which a tag has no buffer of its own. It is allocated beforehand and never
// grows: a request that finds no room waits for those before it, which need none
// of it to come to their end.
//
// It is a buddy system: pieces are powers of two from 4 KiB to the largest request
// rounded up, each at a multiple of its size, and two halves that are free become
// their whole again. So a largest request gets its room whenever nothing else has
// any, in whatever order the others came and went.
type pool struct {
	mem  []byte
	most uint8      // order of the largest piece
	head []int32    // by order: the first free piece, as its unit's number; noUnit: none
	unit []poolUnit // by unit
}

// poolUnit is what is known of the piece that begins at a unit.
type poolUnit struct {
	next, prev int32 // in the list of free pieces of that order
	order      uint8 // valid where free is set
	free       bool
}

// piece is a part of a pool. The zero piece is none.
type piece struct {
	mem   []byte
	unit  int32
	order uint8
}

const (
	unitShift = 12 // a unit is 4 KiB, the least that a request with payload is given
	noUnit    = int32(-1)
)

// pieceSize gives what a request of n bytes takes, in bytes.
func pieceSize(n int) int { return 1 << unitShift << orderOf(n) }

func orderOf(n int) uint8 { return uint8(bits.Len(uint(max(n, 1)-1) >> unitShift)) }

// newPool makes a pool of at least size bytes and one request of maxIO bytes.
func newPool(size, maxIO int) (*pool, error) {
	top := pieceSize(maxIO)
	count := max((size+top-1)/top, 1)
	mem, err := sys.MapMemory(count * top)
	if err != nil {
		return nil, fmt.Errorf("buffers of %d bytes: %w (use less memory for buffers, or smaller requests)", count*top, err)
	}
	p := &pool{mem: mem, most: orderOf(maxIO), unit: make([]poolUnit, len(mem)>>unitShift)}
	p.head = make([]int32, p.most+1)
	for i := range p.head {
		p.head[i] = noUnit
	}
	for i := count - 1; i >= 0; i-- {
		p.put(int32(i)<<p.most, p.most)
	}
	return p, nil
}

// get gives n bytes, not more than the largest request; false: there is no room.
func (p *pool) get(n int) (piece, bool) {
	want := orderOf(n)
	at := want
	for ; ; at++ {
		if at > p.most {
			return piece{}, false
		}
		if p.head[at] != noUnit {
			break
		}
	}
	u := p.head[at]
	p.remove(u)
	for at > want { // its upper half is too much
		at--
		p.put(u+1<<at, at)
	}
	from := int(u) << unitShift
	return piece{p.mem[from : from+n : from+1<<unitShift<<want], u, want}, true
}

// release gives a piece back; none is fine.
func (p *pool) release(b piece) {
	if b.mem == nil {
		return
	}
	u, order := b.unit, b.order
	for ; order < p.most; order++ {
		buddy := u ^ 1<<order
		if !p.unit[buddy].free || p.unit[buddy].order != order {
			break
		}
		p.remove(buddy)
		u &^= 1 << order
	}
	p.put(u, order)
}

func (p *pool) put(u int32, order uint8) {
	next := p.head[order]
	p.unit[u] = poolUnit{next: next, prev: noUnit, order: order, free: true}
	if next != noUnit {
		p.unit[next].prev = u
	}
	p.head[order] = u
}

func (p *pool) remove(u int32) {
	x := &p.unit[u]
	if x.prev == noUnit {
		p.head[x.order] = x.next
	} else {
		p.unit[x.prev].next = x.next
	}
	if x.next != noUnit {
		p.unit[x.next].prev = x.prev
	}
	x.free = false
}
