package sdktest

import (
	"hash/crc32"
	"math/rand/v2"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stream is the received stream.
type stream struct {
	coming  []byte // the server has sent it, it has not arrived
	buf     []byte // has arrived, from base on
	base    uint64
	pos     uint64 // what the plugin has decided about
	queue   []directive
	windows []window // handed in with the call under way
	min     uint32
	max     uint32
	crc     uint32
	over    bool // the connection is gone
}

// window is a part of the stream as it was handed in.
type window struct{ from, to uint64 }

// directive is what is to become of bytes of the stream, or what is to happen
// when those before it are there.
type directive struct {
	kind     uint16
	r        *Request
	from, to uint64 // Receive
	n        uint64 // Discard
	digest   bool
	id, algo uint32 // CheckDigest
	then     func() // completions
}

// arrive moves bytes from coming to buf.
func (s *stream) arrive(cut Cut, rnd *rand.Rand) bool {
	n := len(s.coming)
	switch {
	case n == 0:
		return false
	case cut == Single:
		n = 1
	case cut != Whole && rnd.IntN(4) > 0:
		n = 1 + rnd.IntN(min(n, 300))
	}
	s.buf = append(s.buf, s.coming[:n]...)
	s.coming = s.coming[n:]
	return true
}

// take removes n bytes from the front of buf.
func (s *stream) take(n uint64) []byte {
	b := s.buf[:n:n]
	s.buf = s.buf[n:]
	s.base += n
	return b
}

// fulfil carries out directives with what has arrived.
func (x *Executor) fulfil() (moved bool) {
	s := &x.in
	for len(s.queue) > 0 {
		d := &s.queue[0]
		if d.then == nil {
			n := min(uint64(len(s.buf)), d.size())
			if d.kind == abi.ActCheckDigest && n < 4 {
				return moved
			}
			if n > 0 {
				x.directed(d, s.take(n))
				moved = true
			}
			if d.size() > 0 {
				return moved
			}
		} else {
			d.then()
			moved = true
		}
		s.queue = s.queue[1:]
	}
	return moved
}

// size is how many bytes a directive still waits for.
func (d *directive) size() uint64 {
	switch d.kind {
	case abi.ActReceive:
		return d.to - d.from
	case abi.ActDiscard:
		return d.n
	}
	return d.n
}

// directed gives bytes to a directive.
func (x *Executor) directed(d *directive, b []byte) {
	if d.digest {
		x.in.crc = crc32.Update(x.in.crc, castagnoli, b)
	}
	switch d.kind {
	case abi.ActReceive:
		copy(d.r.Data[d.from:], b)
		d.from += uint64(len(b))
	case abi.ActCheckDigest:
		d.n = 0
		want := [4]byte{byte(x.in.crc), byte(x.in.crc >> 8), byte(x.in.crc >> 16), byte(x.in.crc >> 24)}
		x.in.crc = 0
		status := uint32(0)
		if [4]byte(b) != want {
			status = uint32(block.EBADMSG)
		}
		x.giveDigest(d.id, status, want[:])
	default:
		d.n -= uint64(len(b))
	}
}

// giveDigest hands in a digest when the call under way is over.
func (x *Executor) giveDigest(id, status uint32, value []byte) {
	e := abi.Digest{ID: id, Status: status}
	copy(e.Value[:], value)
	x.after = append(x.after, func() {
		put(&x.ev, abi.EvDigest, e)
		x.call()
	})
}

// feed hands in a window if there is enough for one.
func (x *Executor) feed() bool {
	s := &x.in
	if len(s.queue) > 0 || len(s.buf) == 0 || uint64(len(s.buf)) < uint64(s.min) || x.Over() || x.Closing {
		return false
	}
	n := min(len(s.buf), int(s.max))
	switch x.o.Cut {
	case Single:
		n = int(s.min)
	case Random, Guessed:
		n = int(s.min) + x.rnd.IntN(n-int(s.min)+1)
	}
	x.window(s.base, s.buf[:n])
	if x.o.Cut == Guessed {
		x.guess(s.base + uint64(n))
	}
	before, wanted := s.pos, s.min
	x.call()
	if s.pos == before && !x.Over() && !x.Closing && (s.min == wanted || uint64(s.min) <= uint64(n)) {
		x.violate(inReceiving, "a window of %d bytes, with at least %d wanted, was left untouched and no more than that was asked for", n, wanted)
		x.Failed = &Failure{Text: "stuck"}
	}
	return true
}

func (x *Executor) window(from uint64, b []byte) {
	if put(&x.ev, abi.EvReceived, abi.Received{Offset: from, Len: uint32(len(b))}, b) {
		x.in.windows = append(x.in.windows, window{from, from + uint64(len(b))})
	}
}

// guess adds windows further on, as an engine does that knows where the next
// headers probably are.
func (x *Executor) guess(at uint64) {
	s := &x.in
	for range x.rnd.IntN(4) {
		at += uint64(x.rnd.IntN(64))
		end := s.base + uint64(len(s.buf))
		if at >= end {
			return
		}
		n := min(end-at, uint64(1+x.rnd.IntN(48)))
		x.window(at, s.buf[at-s.base:at-s.base+n])
		at += n
	}
}

// consume checks and carries out a Consume: its bytes must have been handed in
// with this call.
func (x *Executor) consume(n uint64, digest bool) {
	s := &x.in
	if n == 0 {
		return
	}
	to, at := s.pos+n, s.pos
	for _, w := range s.windows {
		if at >= w.from && at < w.to {
			at = min(w.to, to)
		}
	}
	if at < to {
		x.violate(inReceiving, "it consumed %d bytes at %d of the stream that it was not handed", n, s.pos)
		return
	}
	s.pos = to
	x.enqueue(directive{kind: abi.ActConsume, n: n, digest: digest})
}

// enqueue adds a directive and carries out what can be at once.
func (x *Executor) enqueue(d directive) {
	x.in.queue = append(x.in.queue, d)
	x.fulfil()
}
