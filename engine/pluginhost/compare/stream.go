package compare

import (
	"unsafe"

	"blockengine/sdk/abi"
)

// stream is what is known of the received stream beyond a position: pieces, in
// order, none of them touching.
type stream struct {
	pieces []piece
}

type piece struct {
	pos uint64
	b   []byte
}

// maxSeen bounds what is kept, in bytes.
const maxSeen = 1 << 20

func (s *stream) empty() bool { return len(s.pieces) == 0 }

// at gives the bytes known from pos on, up to the next gap.
func (s *stream) at(pos uint64) []byte {
	for i := range s.pieces {
		if p := &s.pieces[i]; p.pos <= pos && pos-p.pos < uint64(len(p.b)) {
			return p.b[pos-p.pos:]
		}
	}
	return nil
}

// drop forgets what lies before pos.
func (s *stream) drop(pos uint64) {
	i := 0
	for i < len(s.pieces) && s.pieces[i].pos+uint64(len(s.pieces[i].b)) <= pos {
		i++
	}
	s.pieces = s.pieces[:copy(s.pieces, s.pieces[i:])]
}

// keep adds what windows show from pos on. false: it is too much.
func (s *stream) keep(pos uint64, events []byte) bool {
	for len(events) > 0 {
		rec, rest, ok := abi.Next(events)
		if !ok {
			return true
		}
		events = rest
		r := abi.Overlay[abi.Received](rec)
		if r == nil || r.Kind != abi.EvReceived {
			continue
		}
		if b, ok := abi.Inline(rec, int(unsafe.Sizeof(*r)), r.Len); ok && r.Offset+uint64(len(b)) > pos {
			s.add(r.Offset, b)
		}
	}
	n := 0
	for i := range s.pieces {
		n += len(s.pieces[i].b)
	}
	return n <= maxSeen
}

// add puts in a window. Windows of one call are in order, and a later call's
// begin no earlier than where the plugin had come to.
func (s *stream) add(pos uint64, b []byte) {
	i := len(s.pieces)
	for i > 0 && s.pieces[i-1].pos > pos {
		i--
	}
	if i > 0 { // the part that is known already
		p := &s.pieces[i-1]
		if end := p.pos + uint64(len(p.b)); end >= pos {
			known := min(end-pos, uint64(len(b)))
			p.b = append(p.b, b[known:]...)
			s.join(i - 1)
			return
		}
	}
	s.pieces = append(s.pieces, piece{})
	copy(s.pieces[i+1:], s.pieces[i:])
	s.pieces[i] = piece{pos, append([]byte(nil), b...)}
	s.join(i)
}

// join puts the piece at index i together with those that it has come to touch.
func (s *stream) join(i int) {
	for i+1 < len(s.pieces) {
		p, q := &s.pieces[i], &s.pieces[i+1]
		end := p.pos + uint64(len(p.b))
		if end < q.pos {
			return
		}
		if known := end - q.pos; known < uint64(len(q.b)) {
			p.b = append(p.b, q.b[known:]...)
		}
		s.pieces = append(s.pieces[:i+1], s.pieces[i+2:]...)
	}
}
