package transport

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// sender queues random pieces while a slow reader takes them.
type sender struct {
	*owner
	rng      *rand.Rand
	left     int
	want     []byte            // every byte queued
	ends     map[uint32]uint64 // where a loan's piece ends in the stream
	memory   map[uint32][]byte
	finished chan struct{}
	sent     bool
}

func (w *sender) fill() {
	for range min(w.left, 1+w.rng.IntN(40)) {
		w.left--
		switch k := w.rng.IntN(20); {
		case k == 0:
			w.copied(w.rng.IntN(3 * chunkSize))
		case k < 12:
			w.copied(w.rng.IntN(300))
		case k < 18:
			w.lend(w.rng.IntN(8 << 10))
		default:
			w.lend(w.rng.IntN(400 << 10))
		}
	}
	w.flush()
	w.pace()
}

func (w *sender) copied(n int) {
	b := numbered(n, len(w.want))
	w.want = append(w.want, b...)
	w.s.Send(b)
	clear(b) // it was copied
}

func (w *sender) lend(n int) {
	b := numbered(n, len(w.want))
	w.want = append(w.want, b...)
	loan := uint32(len(w.ends))
	w.ends[loan], w.memory[loan] = uint64(len(w.want)), b
	if w.rng.IntN(8) == 0 {
		delete(w.ends, loan)
		w.ends[loan+1<<20] = 0 // keeps the numbers apart
		loan = NoLoan
	}
	w.s.Lend(b, loan)
}

// end is told of every loan: the kernel must have taken all of it, and its
// memory is somebody else's now.
func (w *sender) end(loan uint32) {
	if w.s.Sent() < w.ends[loan] {
		w.t.Errorf("loan %d came back at byte %d, its piece ends at %d", loan, w.s.Sent(), w.ends[loan])
	}
	clear(w.memory[loan])
}

// pace goes on as long as there is something to queue or to send.
func (w *sender) pace() {
	switch {
	case w.left > 0 && w.s.Unsent() < 2<<20:
		w.s.Again()
	case w.left == 0 && w.s.Unsent() == 0 && !w.sent:
		w.sent = true
		w.s.FinishSending()
		close(w.finished)
	}
}

func (w *sender) turn(uint32) {
	if w.left > 0 && w.s.Unsent() < 2<<20 {
		w.fill()
		return
	}
	w.flush()
	w.pace()
}

// Whatever is queued arrives, once and in order, through a socket that is full
// most of the time; loans come back once, and not before they are sent.
func TestSendKeepsOrder(t *testing.T) {
	for seed := range uint64(4) {
		w := &sender{owner: newOwner(t), rng: rand.New(rand.NewPCG(seed, 1)), left: 400,
			ends: map[uint32]uint64{}, memory: map[uint32][]byte{}, finished: make(chan struct{})}
		do(t, w.r, func() {
			w.onReturn, w.ready = w.end, w.turn
			w.fill()
		})
		got := slowly(t, w.owner, rand.New(rand.NewPCG(seed, 2)))
		<-w.finished
		do(t, w.r, func() {
			if !bytes.Equal(got, w.want) {
				t.Errorf("seed %d: %d bytes arrived, not the %d that were queued", seed, len(got), len(w.want))
			}
			for loan, end := range w.ends {
				if want := min(end, 1); uint64(w.returned[loan]) != want {
					t.Errorf("seed %d: loan %d came back %d times", seed, loan, w.returned[loan])
				}
			}
			if w.s.Sent() != w.s.Queued() || w.s.Sent() != uint64(len(w.want)) || !w.s.HalfClosed() {
				t.Errorf("seed %d: %d of %d bytes sent", seed, w.s.Sent(), w.s.Queued())
			}
		})
	}
}

// slowly reads the other end until it ends, in odd amounts.
func slowly(t *testing.T, o *owner, rng *rand.Rand) (all []byte) {
	_ = o.peer.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 256<<10)
	for {
		n, err := o.peer.Read(buf[:1+rng.IntN(len(buf))])
		all = append(all, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(all), err)
		}
	}
}

// Small things that are sent one after the other are one piece for the kernel.
func TestSmallSendsAreOnePiece(t *testing.T) {
	o := newOwner(t)
	do(t, o.r, func() {
		for i := range 1000 {
			o.s.Send(numbered(28, 28*i))
		}
		if n := len(o.s.queue) - o.s.head; n != 1 {
			t.Errorf("1000 headers are %d pieces", n)
		}
		o.s.Lend([]byte("payload"), 1)
		o.s.Send([]byte("more"))
		o.s.Send([]byte("still"))
		if n := len(o.s.queue) - o.s.head; n != 3 {
			t.Errorf("with a loan in between they are %d pieces, want 3", n)
		}
		o.flush()
	})
	want := append(numbered(28000, 0), "payloadmorestill"...)
	if got := o.read(len(want)); !bytes.Equal(got, want) {
		t.Error("other bytes arrived")
	}
}

// More pieces than a call takes.
func TestManyPieces(t *testing.T) {
	o := newOwner(t)
	const n = 3*sys.MaxIovecs + 5
	var want []byte
	do(t, o.r, func() {
		for i := range n {
			b := numbered(3, 3*i)
			want = append(want, b...)
			o.s.Lend(b, uint32(i))
		}
		o.ready = func(uint32) { o.flush() }
		o.flush()
	})
	if got := o.read(len(want)); !bytes.Equal(got, want) {
		t.Error("other bytes arrived")
	}
	do(t, o.r, func() {
		if len(o.returned) != n {
			t.Errorf("%d of %d loans came back", len(o.returned), n)
		}
	})
}

// stuff lends pieces until some are sent, one is sent in part and some are not.
func (o *owner) stuff() (loans int) {
	b := make([]byte, 100<<10)
	for o.s.Unsent() < 300<<10 {
		o.s.Lend(b, uint32(loans))
		o.s.Send([]byte("header"))
		loans++
		o.flush()
	}
	return loans
}

// However a stream ends, every loan ends, once.
func TestLoansEndWithTheStream(t *testing.T) {
	for name, end := range map[string]func(o *owner){
		"half close":           func(o *owner) { o.s.HalfClose() },
		"close":                func(o *owner) { o.s.Close() },
		"half close and close": func(o *owner) { o.s.HalfClose(); o.s.HalfClose(); o.s.Close(); o.s.Close() },
		"close in a return": func(o *owner) {
			o.onReturn = func(uint32) { o.s.Close() }
			o.s.HalfClose()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwner(t)
			do(t, o.r, func() {
				loans := o.stuff()
				if n := len(o.returned); n == 0 || n == loans {
					t.Fatalf("%d of %d loans came back before the end", n, loans)
				}
				end(o)
				if len(o.returned) != loans || o.s.Unsent() != 0 {
					t.Errorf("%d of %d loans came back, %d bytes unsent", len(o.returned), loans, o.s.Unsent())
				}
				for loan, n := range o.returned {
					if n != 1 {
						t.Errorf("loan %d came back %d times", loan, n)
					}
				}
			})
		})
	}
}

// A lender that closes the stream when the kernel has taken its piece.
func TestCloseWhileFlushing(t *testing.T) {
	o := newOwner(t)
	do(t, o.r, func() {
		for i := range 10 {
			o.s.Lend([]byte("x"), uint32(i))
		}
		o.onReturn = func(loan uint32) {
			if loan == 3 {
				o.s.Close()
			}
		}
		o.flush()
		if len(o.returned) != 10 {
			t.Errorf("%d of 10 loans came back", len(o.returned))
		}
	})
}

func TestEmptyPieces(t *testing.T) {
	o := newOwner(t)
	do(t, o.r, func() {
		o.s.Lend(nil, 7)
		o.s.Lend(nil, NoLoan) // owner checks that this one is not returned
		o.s.Send(nil)
		o.flush()
		if o.returned[7] != 1 || o.s.Queued() != 0 {
			t.Errorf("loan 7 came back %d times, %d bytes queued", o.returned[7], o.s.Queued())
		}
	})
}

// A reader that is gone is an errno, not a signal, and the loans are still out
// until the stream is closed.
func TestSendToNobody(t *testing.T) {
	o := newOwner(t)
	o.peer.Close()
	do(t, o.r, func() {
		o.s.Lend(make([]byte, 100), 1)
		if e := o.s.Flush(); e != sys.EPIPE {
			t.Errorf("flush: %v", e)
		}
		if len(o.returned) != 0 {
			t.Error("a loan came back that was not sent")
		}
		o.s.Close()
		if o.returned[1] != 1 {
			t.Error("the loan did not come back")
		}
	})
}

// replies is what a server's connection does: headers and payloads, all the time.
func replies(t testing.TB) (run func(n int)) {
	o := newOwner(t)
	header, payload := make([]byte, 32), make([]byte, 4096)
	buf := make([]byte, 1<<20)
	// Fd makes the descriptor blocking, and the reactor reads it empty.
	fd := int(o.peer.Fd())
	if err := sys.SetNonblock(fd); err != nil {
		t.Fatal(err)
	}
	round := reactor.MailFunc(func() {
		for i := range 16 {
			o.s.Send(header)
			if i%2 == 0 {
				o.s.Lend(payload, NoLoan)
			}
		}
		o.flush()
		for o.s.Unsent() > 0 {
			sys.RawRead(fd, buf)
			o.flush()
		}
	})
	drain := reactor.MailFunc(func() {
		for {
			if n, e := sys.RawRead(fd, buf); e != 0 || n <= 0 {
				return
			}
		}
	})
	return func(n int) {
		for i := range n {
			o.r.Post(round)
			o.r.Post(drain)
			if i%256 == 255 {
				do(t, o.r, func() {}) // keeps the mailbox short
			}
		}
		do(t, o.r, func() {})
	}
}

// Sending allocates nothing once its arena is there.
func TestSendAllocatesNothing(t *testing.T) {
	run := replies(t)
	run(100)
	if n := testing.AllocsPerRun(5, func() { run(500) }); n > 20 {
		t.Errorf("%v allocations in 500 rounds", n)
	}
}

func BenchmarkSend16(b *testing.B) {
	run := replies(b)
	run(100)
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
}

// The arena does not grow, however much goes through it.
func TestArenaIsReused(t *testing.T) {
	o := newOwner(t)
	chunks := map[*chunk]bool{}
	for range 200 {
		do(t, o.r, func() {
			o.s.Send(numbered(10_000, 0))
			chunks[o.s.chunk] = true
			o.flush()
		})
		o.read(10_000)
	}
	if len(chunks) > 2 {
		t.Errorf("%d chunks for what one could hold", len(chunks))
	}
}
