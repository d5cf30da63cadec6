package process

import (
	"blockengine/engine/sys"
	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// lending is what a link lends payload with. The zero value lends nothing.
type lending struct {
	lender       *lender // nil: payload is always copied
	totals       *payloads
	lent, copied Traffic // since the last Push
}

// Lends implements guest.Link.
func (l *link) Lends() bool { return l.lending.lender != nil }

// Lend implements guest.Link.
func (l *link) Lend(slot int, data [][]byte) bool {
	if l.lending.lender == nil || l.over {
		return false
	}
	n := l.describe(slot, data)
	if n == 0 || sys.Touch(data) != nil {
		return false // a fault is told by whoever copies
	}
	l.slots[slot].pieces = uint16(n)
	return true
}

// describe writes the pieces of data into the slot's buffer, and gives how many
// there are; 0: the process cannot have all of them. Neighbours become one.
func (l *link) describe(slot int, data [][]byte) (n int) {
	places := l.region.Pieces(slot)
	var p ring.Piece // the last one; the process may write to what is in the buffer
	for _, b := range data {
		if len(b) == 0 {
			continue
		}
		memory, at, ok := l.lending.lender.find(b)
		switch {
		case !ok || len(b) > ring.MaxTransfer:
			return 0
		case n > 0 && p.Memory == memory && p.Offset+uint64(p.Length) == at:
			p.Length += uint32(len(b))
		case n == len(places):
			return 0
		default:
			p = ring.Piece{Memory: memory, Offset: at, Length: uint32(len(b))}
			n++
		}
		places[n-1] = p
	}
	return n
}

// count notes a request that is submitted.
func (s *lending) count(op block.Op, length uint64, pieces uint16) {
	switch {
	case s.lender == nil || !op.HasPayload():
	case pieces > 0:
		s.lent.Requests++
		s.lent.Bytes += length
	default:
		s.copied.Requests++
		s.copied.Bytes += length
	}
}

// publish adds what was counted to what all links count together.
func (s *lending) publish() {
	if s.lender != nil {
		s.totals.lent.add(s.lent)
		s.totals.copied.add(s.copied)
		s.lent, s.copied = Traffic{}, Traffic{}
	}
}
