package transport

import (
	"os"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/internal/nbdtest"
)

// patience is the time after which a test that waits has failed.
const patience = 20 * time.Second

// start gives a running reactor and checks in the end that nothing leaks.
func start(t testing.TB) *reactor.Reactor {
	t.Helper()
	nbdtest.CheckLeaks(t)
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

func do(t testing.TB, r *reactor.Reactor, f func()) {
	t.Helper()
	if !r.Do(f) {
		t.Fatal("the reactor has stopped")
	}
}

// owner is a stream's handler and lender. Its fields belong to the reactor.
type owner struct {
	t        testing.TB
	r        *reactor.Reactor
	s        *Stream
	peer     *os.File // the other end
	ready    func(events uint32)
	returned map[uint32]int
	onReturn func(loan uint32)
}

func newOwner(t testing.TB) *owner {
	t.Helper()
	o := &owner{t: t, r: start(t), returned: map[uint32]int{}}
	a, b, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	o.peer = os.NewFile(uintptr(b), "peer")
	t.Cleanup(func() { o.peer.Close() })
	do(t, o.r, func() { o.s, err = NewStream(o.r, a, o, o) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { do(t, o.r, o.s.Close) })
	return o
}

func (o *owner) Ready(events uint32) {
	if o.ready != nil {
		o.ready(events)
	}
}

func (o *owner) Returned(loan uint32) {
	if o.returned[loan]++; o.returned[loan] > 1 {
		o.t.Errorf("loan %d was returned %d times", loan, o.returned[loan])
	}
	if loan == NoLoan {
		o.t.Error("a loan was returned that is none")
	}
	if o.onReturn != nil {
		o.onReturn(loan)
	}
}

// flush sends, which must not fail.
func (o *owner) flush() {
	if e := o.s.Flush(); e != 0 {
		o.t.Errorf("flush: %v", e)
	}
}

// read takes n bytes at the other end.
func (o *owner) read(n int) []byte {
	o.t.Helper()
	b := make([]byte, n)
	_ = o.peer.SetReadDeadline(time.Now().Add(patience))
	for at := 0; at < n; {
		k, err := o.peer.Read(b[at:])
		if err != nil {
			o.t.Fatalf("after %d of %d bytes: %v", at, n, err)
		}
		at += k
	}
	return b
}

// numbered gives n bytes that tell their place.
func numbered(n, from int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((from + i) * 167 >> 3)
	}
	return b
}
