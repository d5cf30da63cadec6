package reactor

import (
	"testing"
	"time"

	"blockengine/engine/sys"
)

// patience is the time after which a test that waits has failed.
const patience = 20 * time.Second

func start(t testing.TB, o Options) *Reactor {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// do runs f on r.
func do(t testing.TB, r *Reactor, f func()) {
	t.Helper()
	if !r.Do(f) {
		t.Fatal("the reactor has stopped")
	}
}

// await fails the test unless c is closed or sent to.
func await(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// handler makes a Handler of a function.
type handler func(events uint32)

func (h handler) Ready(events uint32) { h(events) }

// pair is two connected sockets, closed at the test's end.
func pair(t testing.TB) (a, b int) {
	t.Helper()
	a, b, err := sys.SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = sys.Close(a), sys.Close(b) })
	return a, b
}

func say(fd int) { sys.RawWrite(fd, []byte{1}) }
