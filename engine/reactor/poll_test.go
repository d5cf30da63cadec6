package reactor

import (
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/sys"
)

// ring is a counter in memory that another thread raises, with an event for
// when nobody looks.
type ring struct {
	Polled
	r      *Reactor
	fd     int
	posted atomic.Int64
	armed  atomic.Bool
	seen   atomic.Int64
	arms   atomic.Int64
	wakes  atomic.Int64
}

func newRing(t *testing.T, r *Reactor) *ring {
	t.Helper()
	g := &ring{r: r}
	var err error
	if g.fd, err = sys.Eventfd(); err != nil {
		t.Fatal(err)
	}
	g.Look = func() bool {
		n := g.posted.Load() - g.seen.Load()
		if n > 0 {
			g.armed.Store(false)
		}
		g.seen.Add(n)
		return n > 0
	}
	g.Arm = func() bool {
		g.arms.Add(1)
		g.armed.Store(true)
		return g.posted.Load() != g.seen.Load()
	}
	r.Do(func() {
		if _, err = r.Add(g.fd, sys.EpollIn, g); err == nil {
			r.Poll(&g.Polled)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Ready is called when the other side has found the ring armed.
func (g *ring) Ready(uint32) {
	g.wakes.Add(1)
	sys.EventfdClear(g.fd)
	g.r.Poll(&g.Polled)
}

// post is the other side.
func (g *ring) post() {
	g.posted.Add(1)
	if g.armed.Load() {
		sys.EventfdSignal(g.fd)
	}
}

func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// Nothing that is posted may be missed, whatever the reactor is doing just then:
// looking, arming or sleeping.
func TestPolledMissesNothing(t *testing.T) {
	for _, spin := range []time.Duration{0, 20 * time.Microsecond, time.Millisecond} {
		t.Run(spin.String(), func(t *testing.T) {
			r, err := New(Options{Spin: spin})
			if err != nil {
				t.Fatal(err)
			}
			r.Start()
			defer r.Stop()
			a, b := newRing(t, r), newRing(t, r)
			end := time.Now().Add(300 * time.Millisecond)
			for n := 0; time.Now().Before(end); n++ {
				a.post()
				if n%7 == 0 {
					b.post()
				}
				waitUntil(t, "a post", func() bool { return a.seen.Load() == a.posted.Load() })
				if n%50 == 0 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			waitUntil(t, "the last post", func() bool { return b.seen.Load() == b.posted.Load() })
			waitUntil(t, "sleep", func() bool { return a.armed.Load() && b.armed.Load() })
			if a.arms.Load() == 0 || a.wakes.Load() == 0 {
				t.Errorf("armed %d times, woken %d times", a.arms.Load(), a.wakes.Load())
			}
		})
	}
}

// What is quiet is armed, and not looked at any more, while something else keeps
// the reactor busy.
func TestQuietIsArmedOnABusyReactor(t *testing.T) {
	r, err := New(Options{Spin: 100 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	defer r.Stop()
	quiet := newRing(t, r)
	busy := &Polled{Look: func() bool { return true }, Arm: func() bool { return true }}
	r.Do(func() { r.Poll(busy) })
	waitUntil(t, "arming", func() bool { return quiet.armed.Load() })
	r.Do(func() {
		if quiet.active || len(r.polled) != 1 {
			t.Error("it is still looked at")
		}
	})
	quiet.post()
	waitUntil(t, "the post", func() bool { return quiet.seen.Load() == 1 })
	r.Do(func() { r.StopPolling(busy) })
	r.Do(func() { r.StopPolling(busy) })
}

// An idle reactor sleeps, with whatever there is to look at.
func TestPolledReactorSleeps(t *testing.T) {
	r, err := New(Options{Spin: 50 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	defer r.Stop()
	newRing(t, r)
	waitUntil(t, "sleep", func() bool { return r.sleeping.Load() })
	turns, _ := r.Load()
	time.Sleep(50 * time.Millisecond)
	if now, _ := r.Load(); now > turns+3 {
		t.Errorf("%d turns while there was nothing to do", now-turns)
	}
}
