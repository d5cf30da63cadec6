package nbd

// The content chunks of a read may come in any order and must not overlap
// ("NBD_CMD_READ"). Servers that send them in order, which is all of them,
// need slot.lo and slot.hi only; what does not touch that run goes to a sorted
// list of pieces, taken from a pool of fixed size.

// maxPieces bounds how scattered the chunks of all outstanding reads may be,
// and with it what a hostile server can make a look-up cost.
const maxPieces = 1024

// piece is bytes [lo, hi) of a read's payload. Piece 0 of the pool stands for
// the end of a list.
type piece struct {
	lo, hi uint32
	next   uint16
}

type pool struct {
	all  []piece // made when the first piece is needed
	free uint16
}

func (p *pool) take() uint16 {
	if p.all == nil {
		p.all = make([]piece, maxPieces+1)
		for i := 1; i < maxPieces; i++ {
			p.all[i].next = uint16(i + 1)
		}
		p.free = 1
	}
	i := p.free
	if i != 0 {
		p.free = p.all[i].next
	}
	return i
}

func (p *pool) give(i uint16) {
	p.all[i].next = p.free
	p.free = i
}

// giveAll gives a whole list back.
func (p *pool) giveAll(s *slot) {
	for s.pieces != 0 {
		i := s.pieces
		s.pieces = p.all[i].next
		p.give(i)
	}
}

// covered is the outcome of cover.
type covered uint8

const (
	coverOK covered = iota
	coverOverlap
	coverScattered // the pool is empty
)

// cover notes that bytes [from, to) of a read, which lie inside it and are not
// empty, have been described.
func (p *pool) cover(s *slot, from, to uint32) covered {
	n := to - from
	if n > s.left || (from < s.hi && to > s.lo) {
		return coverOverlap
	}
	switch {
	case s.lo == s.hi:
		s.lo, s.hi = from, to
	case s.pieces == 0 && from == s.hi:
		s.hi = to
	case s.pieces == 0 && to == s.lo:
		s.lo = from
	default:
		if r := p.insert(s, from, to); r != coverOK {
			return r
		}
	}
	s.left -= n
	return coverOK
}

// insert adds a run to the sorted list and joins it with its neighbours.
func (p *pool) insert(s *slot, from, to uint32) covered {
	before, after := uint16(0), s.pieces
	for after != 0 && p.all[after].hi <= from {
		before, after = after, p.all[after].next
	}
	if after != 0 && p.all[after].lo < to {
		return coverOverlap
	}
	joinsBefore := before != 0 && p.all[before].hi == from
	joinsAfter := after != 0 && p.all[after].lo == to
	switch {
	case joinsBefore && joinsAfter:
		p.all[before].hi, p.all[before].next = p.all[after].hi, p.all[after].next
		p.give(after)
	case joinsBefore:
		p.all[before].hi = to
	case joinsAfter:
		p.all[after].lo = from
	default:
		return p.link(s, before, after, from, to)
	}
	return coverOK
}

// link puts a new piece between two others.
func (p *pool) link(s *slot, before, after uint16, from, to uint32) covered {
	i := p.take()
	if i == 0 {
		return coverScattered
	}
	p.all[i] = piece{lo: from, hi: to, next: after}
	if before == 0 {
		s.pieces = i
	} else {
		p.all[before].next = i
	}
	return coverOK
}
