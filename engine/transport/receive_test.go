package transport

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"blockengine/engine/sys"
)

// receiver takes a stream in random ways: into memory of its own, or out of
// the buffer, some of it at a time.
type receiver struct {
	*owner
	rng  *rand.Rand
	got  []byte
	done chan struct{}
}

func (r *receiver) turn(uint32) {
	for range 50 {
		if len(r.s.Buffered()) > 0 {
			r.take()
		}
		if !r.receive() {
			return
		}
	}
	r.s.Again()
}

// take takes some of what is buffered; the buffer must be empty before more is
// received into other memory.
func (r *receiver) take() {
	b := r.s.Buffered()
	n := 1 + r.rng.IntN(len(b))
	if r.s.Pos() != uint64(len(r.got)) {
		r.t.Errorf("the buffer begins at byte %d, says the stream, after %d", r.s.Pos(), len(r.got))
	}
	r.got = append(r.got, b[:n]...)
	r.s.Take(n)
}

func (r *receiver) receive() bool {
	var into [][]byte
	whole := 0
	if len(r.s.Buffered()) == 0 && r.rng.IntN(2) == 0 {
		for range r.rng.IntN(6) {
			into = append(into, make([]byte, r.rng.IntN(9000)))
			whole += len(into[len(into)-1])
		}
	}
	full := len(r.s.Buffered()) == BufferSize
	n, more, eof, e := r.s.Receive(into)
	r.got = append(r.got, bytes.Join(into, nil)[:n]...)
	if n < whole && len(r.s.Buffered()) > 0 {
		r.t.Errorf("the buffer was filled before the memory given: %d of %d", n, whole)
	}
	switch {
	case e == sys.EAGAIN:
		return false
	case e != 0:
		r.t.Errorf("receive: %v", e)
		return false
	case eof:
		for len(r.s.Buffered()) > 0 {
			r.take()
		}
		r.ready = nil
		close(r.done)
		return false
	}
	return more || full || n > 0 || len(r.s.Buffered()) > 0
}

// All bytes come, once and in order, however they are taken; EOF comes behind
// them.
func TestReceiveKeepsOrder(t *testing.T) {
	for seed := range uint64(4) {
		r := &receiver{owner: newOwner(t), rng: rand.New(rand.NewPCG(seed, 3)), done: make(chan struct{})}
		do(t, r.r, func() { r.ready = r.turn; r.s.Again() })
		want, rng := numbered(6<<20, 0), rand.New(rand.NewPCG(seed, 4))
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(200_000))
			if _, err := r.peer.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		r.peer.Close()
		<-r.done
		do(t, r.r, func() {
			if !bytes.Equal(r.got, want) {
				t.Errorf("seed %d: %d bytes came, not the %d that were sent", seed, len(r.got), len(want))
			}
		})
	}
}

// What one call gives, for each way to call it.
func TestReceiveOnce(t *testing.T) {
	o := newOwner(t)
	say := func(b []byte) {
		if _, err := o.peer.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	type want struct {
		n         int
		buffered  string
		more, eof bool
		e         sys.Errno
	}
	check := func(what string, into [][]byte, w want) {
		t.Helper()
		do(t, o.r, func() {
			n, more, eof, e := o.s.Receive(into)
			if got := (want{n, string(o.s.Buffered()), more, eof, e}); got != w {
				t.Errorf("%s: %+v, want %+v", what, got, w)
			}
		})
	}
	a, b := make([]byte, 3), make([]byte, 4)
	check("nothing there", nil, want{e: sys.EAGAIN})
	check("nothing there for memory", [][]byte{a}, want{e: sys.EAGAIN})
	say([]byte("ab"))
	check("less than wanted", [][]byte{nil, a, b}, want{n: 2, more: true})
	say([]byte("abcdefgh"))
	check("more than wanted", [][]byte{a, nil, b}, want{n: 7, buffered: "h"})
	if string(a)+string(b) != "abcdefg" {
		t.Errorf("the memory holds %q %q", a, b)
	}
	say([]byte("i"))
	check("behind what is buffered", nil, want{buffered: "hi"})
	do(t, o.r, func() {
		o.s.Take(1)
		if o.s.Pos() != 10 || string(o.s.Buffered()) != "i" {
			t.Errorf("at byte %d: %q", o.s.Pos(), o.s.Buffered())
		}
		o.s.Take(1)
	})
	say([]byte("xyz"))
	o.peer.Close()
	check("data before the end", nil, want{buffered: "xyz"})
	check("the end", nil, want{buffered: "xyz", eof: true})
	do(t, o.r, func() { o.s.Take(3) })
	check("the end again, for memory", [][]byte{a}, want{eof: true})
}

// A buffer that is full takes no more until some is taken; what is left moves
// to its front.
func TestFullBuffer(t *testing.T) {
	o := newOwner(t)
	want := numbered(BufferSize+1000, 0)
	sent := make(chan error, 1)
	go func() { _, err := o.peer.Write(want); sent <- err }()
	fill := func() (n int) {
		do(t, o.r, func() {
			if _, _, eof, e := o.s.Receive(nil); eof || e != 0 && e != sys.EAGAIN {
				t.Errorf("eof %v, %v", eof, e)
			}
			n = len(o.s.Buffered())
		})
		return n
	}
	for fill() < BufferSize {
	}
	do(t, o.r, func() {
		if n, more, eof, e := o.s.Receive(nil); n != 0 || !more || eof || e != 0 {
			t.Errorf("full: %d, more %v, eof %v, %v", n, more, eof, e)
		}
		o.s.Take(1000)
	})
	for fill() < BufferSize {
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	do(t, o.r, func() {
		if !bytes.Equal(o.s.Buffered(), want[1000:]) || o.s.Pos() != 1000 {
			t.Errorf("at byte %d other bytes are buffered", o.s.Pos())
		}
	})
}

// More pieces of memory than a call takes: the rest stays in the buffer.
func TestReceiveIntoManyPieces(t *testing.T) {
	o := newOwner(t)
	const n = sys.MaxIovecs + 100
	into := make([][]byte, n)
	for i := range into {
		into[i] = make([]byte, 2)
	}
	want := numbered(2*n, 0)
	if _, err := o.peer.Write(want); err != nil {
		t.Fatal(err)
	}
	do(t, o.r, func() {
		k, _, _, e := o.s.Receive(into)
		got := append(bytes.Join(into, nil)[:k], o.s.Buffered()...)
		if e != 0 || !bytes.Equal(got, want) || k == 0 {
			t.Errorf("%d bytes in place, %d in all, %v", k, len(got), e)
		}
	})
}

func TestReceiveAfterReset(t *testing.T) {
	o := newOwner(t)
	do(t, o.r, func() { o.s.Send([]byte("unread")); o.flush() })
	o.peer.Close() // with unread data: a reset
	do(t, o.r, func() {
		if _, _, eof, e := o.s.Receive(nil); eof || !errors.Is(e, sys.ECONNRESET) {
			t.Errorf("eof %v, %v", eof, e)
		}
	})
}
