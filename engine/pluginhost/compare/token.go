package compare

import (
	"bytes"

	"blockengine/sdk/abi"
)

// token is a piece of what a version does, in one of its lanes. Pieces of bytes
// and ranges can be cut and join with their neighbours; the others are whole.
type token struct {
	kind   uint16 // abi.Act…
	flags  uint16
	id     uint32
	tag    uint64
	from   uint64 // of a range
	n      uint64 // bytes of the stream that it stands for; 0: it is whole
	inline int    // bytes that are compared
}

// alike tells whether two tokens are the same but for their lengths.
func (t *token) alike(o *token) bool {
	return t.kind == o.kind && t.flags == o.flags && t.id == o.id && t.tag == o.tag && t.from == o.from &&
		(t.n == 0) == (o.n == 0) && (t.n > 0 || t.inline == o.inline)
}

// lane is what one version has said and the other one has not yet.
type lane struct {
	tokens []token
	head   int
	bytes  []byte
	at     int    // of bytes
	passed uint64 // units of the stream that both have said
}

// How far one version may be ahead of the other, in bytes and in tokens.
const (
	maxLaneBytes  = 8 << 20
	maxLaneTokens = 1 << 16
)

func (l *lane) empty() bool { return l.head == len(l.tokens) }

// full tells that the other version does not come after.
func (l *lane) full() bool {
	return len(l.bytes)-l.at > maxLaneBytes || len(l.tokens)-l.head > maxLaneTokens
}

// ahead is how many units of the stream are waiting.
func (l *lane) ahead() (n uint64) {
	for i := l.head; i < len(l.tokens); i++ {
		n += max(l.tokens[i].n, 1)
	}
	return n
}

func (l *lane) push(t token, b []byte) {
	if l.head == len(l.tokens) && len(l.tokens) > 0 {
		l.tokens, l.head = l.tokens[:0], 0
		l.bytes, l.at = l.bytes[:0], 0
	}
	l.compact()
	if n := len(l.tokens); n > l.head && t.n > 0 && l.tokens[n-1].joins(&t) {
		l.tokens[n-1].n += t.n
		l.tokens[n-1].inline += t.inline
	} else {
		l.tokens = append(l.tokens, t)
	}
	l.bytes = append(l.bytes, b...)
}

// compact drops what has been passed, now and then.
func (l *lane) compact() {
	if l.head > 1024 && l.head > len(l.tokens)/2 {
		l.tokens = l.tokens[:copy(l.tokens, l.tokens[l.head:])]
		l.head = 0
	}
	if l.at > 64<<10 && l.at > len(l.bytes)/2 {
		l.bytes = l.bytes[:copy(l.bytes, l.bytes[l.at:])]
		l.at = 0
	}
}

// joins tells whether o goes on where t ends.
func (t *token) joins(o *token) bool {
	from := t.from
	if t.kind == abi.ActReceive || t.kind == abi.ActSendPayload {
		from += t.n
	}
	return t.n > 0 && t.kind == o.kind && t.flags == o.flags && t.id == o.id && t.tag == o.tag && from == o.from
}

// pop moves past n units of the first token, 0 for a whole one.
func (l *lane) pop(n uint64) {
	t := &l.tokens[l.head]
	l.passed += max(n, 1)
	if t.n == 0 || n == t.n {
		l.at += t.inline
		l.head++
		return
	}
	t.n -= n
	if t.inline > 0 {
		t.inline -= int(n)
		l.at += int(n)
	} else if t.kind == abi.ActReceive || t.kind == abi.ActSendPayload {
		t.from += n
	}
}

// mismatch is where two lanes part.
type mismatch struct {
	at       uint64 // unit of the stream
	old, new token
	oldBytes []byte // that follow, if they are bytes
	newBytes []byte
}

// match takes from both lanes what they have in common.
func match(a, b *lane) *mismatch {
	for !a.empty() && !b.empty() {
		x, y := &a.tokens[a.head], &b.tokens[b.head]
		if !x.alike(y) {
			return part(a, b, 0)
		}
		n := min(x.n, y.n)
		k := int(n)
		if n == 0 {
			k = x.inline
		}
		if x.inline > 0 {
			if i := differ(a.bytes[a.at:a.at+k], b.bytes[b.at:b.at+k]); i >= 0 {
				return part(a, b, i)
			}
		}
		a.pop(n)
		b.pop(n)
	}
	return nil
}

func part(a, b *lane, i int) *mismatch {
	x, y := a.tokens[a.head], b.tokens[b.head]
	m := &mismatch{at: a.passed + uint64(i), old: x, new: y}
	if x.inline > i {
		m.oldBytes = a.bytes[a.at+i : a.at+x.inline]
	}
	if y.inline > i {
		m.newBytes = b.bytes[b.at+i : b.at+y.inline]
	}
	return m
}

// differ gives the index of the first byte that differs, or -1. They are of one
// length.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
