package reactor

import (
	"slices"
	"testing"

	"blockengine/engine/sys"
)

// Deferred work runs once a turn however often it was asked for, in order,
// and after the events.
func TestDefer(t *testing.T) {
	r := start(t, Options{})
	var order []string
	a := &Deferred{Run: func() { order = append(order, "a") }}
	b := &Deferred{Run: func() { order = append(order, "b") }}
	do(t, r, func() {
		for range 3 {
			r.Defer(a)
			r.Defer(b)
		}
		order = append(order, "mail")
	})
	do(t, r, func() {
		if !slices.Equal(order, []string{"mail", "a", "b"}) {
			t.Errorf("%v", order)
		}
		r.Defer(b) // usable again
	})
	do(t, r, func() {
		if len(order) != 4 {
			t.Errorf("%v", order)
		}
	})
}

// Work that defers itself for ever is done a few rounds a turn; timers, mail
// and events come in between.
func TestDeferCycleStarvesNobody(t *testing.T) {
	r := start(t, Options{})
	a, b := pair(t)
	rounds, most, turn := 0, 0, uint64(0)
	d := &Deferred{}
	d.Run = func() {
		if now, _ := r.Load(); now != turn {
			turn, rounds = now, 0
		}
		rounds++
		most = max(most, rounds)
		r.Defer(d)
	}
	event, timer := make(chan struct{}), make(chan struct{})
	var src *Source
	tm := Timer{Fire: func() { close(timer) }}
	do(t, r, func() {
		src, _ = r.Add(a, sys.EpollIn, handler(func(uint32) { src.Close(); close(event) }))
		r.StartTimer(&tm, 1)
		r.Defer(d)
	})
	say(b)
	await(t, event, "an event beside a cycle of deferred work")
	await(t, timer, "a timer beside it")
	do(t, r, func() {
		d.Run = func() {}
		if most > 4 {
			t.Errorf("%d rounds in one turn", most)
		}
	})
}

// A chain of deferred work goes on in later turns until it is at its end.
func TestDeferChain(t *testing.T) {
	r := start(t, Options{})
	done := make(chan struct{})
	n := 0
	d := &Deferred{}
	d.Run = func() {
		if n++; n == 100 {
			close(done)
			return
		}
		r.Defer(d)
	}
	do(t, r, func() { r.Defer(d) })
	await(t, done, "the end of the chain")
}

// Again brings Ready once more without news of the kernel's, and lets others
// have their turn.
func TestAgain(t *testing.T) {
	r := start(t, Options{})
	a, b := pair(t)
	c, d := pair(t)
	seen := make(chan string, 200)
	var greedy, modest *Source
	n := 0
	do(t, r, func() {
		greedy, _ = r.Add(a, sys.EpollIn, handler(func(uint32) {
			if n++; n < 100 {
				greedy.Again()
				greedy.Again() // once is enough
			}
			if n == 50 {
				say(d)
			}
			seen <- "greedy"
		}))
		modest, _ = r.Add(c, sys.EpollIn, handler(func(uint32) { seen <- "modest" }))
	})
	say(b)
	at := -1
	for i := range 101 {
		if who := <-seen; who == "modest" {
			at = i
		}
	}
	if at < 49 || at > 60 {
		t.Errorf("the other source had its turn at %d of 100", at)
	}
	do(t, r, func() { greedy.Close(); greedy.Again(); modest.Close() })
	do(t, r, func() {
		if n != 100 {
			t.Errorf("Ready was called %d times", n)
		}
	})
}

// One handler closes the sources of all others whose events came in the same
// turn, and puts new ones in: nobody hears what was meant for another.
func TestClosedSourcesHearNothing(t *testing.T) {
	r := start(t, Options{})
	for round := range 20 {
		const n = 16
		var fds, ends [n]int
		for i := range n {
			fds[i], ends[i] = pair(t)
			say(ends[i]) // all are ready before the first wait
		}
		calls, heirs := 0, 0
		var srcs, heirSrcs []*Source
		do(t, r, func() {
			for i := range n {
				s, err := r.Add(fds[i], sys.EpollIn, handler(func(uint32) {
					calls++
					for _, s := range srcs {
						s.Again()
						s.Close()
						s.Close() // does nothing
					}
					for i := range n {
						heir, err := r.Add(ends[i], sys.EpollIn, handler(func(uint32) { heirs++ }))
						if err != nil {
							t.Error(err)
							return
						}
						heirSrcs = append(heirSrcs, heir)
					}
				}))
				if err != nil {
					t.Error(err)
				}
				srcs = append(srcs, s)
			}
		})
		for range 3 {
			do(t, r, func() {})
		}
		do(t, r, func() {
			if calls != 1 || heirs != 0 {
				t.Errorf("round %d: %d handlers of closed sources were called, and %d of others in their place", round, calls-1, heirs)
			}
			for _, s := range heirSrcs {
				s.Close()
			}
			if len(r.sources) > 2*n+1 {
				t.Errorf("%d places for %d sources", len(r.sources), n)
			}
		})
	}
}

// An event of a source that is gone never reaches the one in its place.
func TestGenerations(t *testing.T) {
	r := start(t, Options{})
	a, _ := pair(t)
	called := false
	do(t, r, func() {
		old, _ := r.Add(a, sys.EpollIn, handler(func(uint32) { t.Error("the closed source was called") }))
		old.Close()
		r.free, r.retired = append(r.free, r.retired...), r.retired[:0] // as at the end of the turn
		now, err := r.Add(a, sys.EpollIn, handler(func(uint32) { called = true }))
		if err != nil || now.slot != old.slot || now.gen == old.gen {
			t.Errorf("%v: the new source has place %d generation %d, the old one had %d, %d", err, now.slot, now.gen, old.slot, old.gen)
			return
		}
		stale := sys.EpollEvent{Events: sys.EpollIn, Fd: int32(old.slot), Pad: int32(old.gen)}
		r.dispatch(&stale)
		stale.Fd = 1 << 20 // no such place
		r.dispatch(&stale)
		if called {
			t.Error("a stale event reached the source in its predecessor's place")
		}
		now.Close()
	})
}

func TestAddThatFails(t *testing.T) {
	r := start(t, Options{Index: 3})
	do(t, r, func() {
		for range 100 {
			if _, err := r.Add(-1, sys.EpollIn, handler(nil)); err == nil || err.Error() != "reactor 3: watch descriptor -1: epoll_ctl add: bad file descriptor" {
				t.Fatalf("%v", err)
			}
		}
	})
	do(t, r, func() {})
	do(t, r, func() {
		if len(r.free)+1 != len(r.sources) {
			t.Errorf("%d places, %d free: failed ones keep theirs", len(r.sources), len(r.free))
		}
	})
}
