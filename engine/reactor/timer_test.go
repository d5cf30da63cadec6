package reactor

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// loopless is a reactor that nobody runs: the test turns its clock.
func loopless() *Reactor { return &Reactor{now: 1000} }

func TestTimersFireInOrder(t *testing.T) {
	r := loopless()
	rng := rand.New(rand.NewPCG(1, 1))
	var fired []int64
	running := map[*Timer]int64{}
	var timers []*Timer
	for range 300 {
		tm := &Timer{}
		tm.Fire = func() {
			fired = append(fired, running[tm])
			delete(running, tm)
		}
		timers = append(timers, tm)
	}
	for range 5000 {
		tm := timers[rng.IntN(len(timers))]
		switch rng.IntN(4) {
		case 0, 1: // starts it, or moves it
			d := time.Duration(rng.IntN(1000))
			r.StartTimer(tm, d)
			running[tm] = r.now + int64(max(d, 1))
		case 2:
			r.StopTimer(tm)
			delete(running, tm)
		case 3:
			r.now += int64(rng.IntN(50))
			fired = fired[:0]
			late := len(fired)
			for _, when := range running {
				if when <= r.now {
					late++
				}
			}
			if any := r.fireTimers(); any != (late > 0) || len(fired) != late || !slices.IsSorted(fired) {
				t.Fatalf("%d are due, %v fired", late, fired)
			}
		}
		if _, want := running[tm]; tm.Running() != want || len(r.timers) != len(running) {
			t.Fatalf("running is %v, want %v, and %d of %d are in the heap", tm.Running(), want, len(r.timers), len(running))
		}
	}
}

func TestTimerStopsAndStartsOthersInFire(t *testing.T) {
	r := loopless()
	var order []string
	var a, b, c Timer
	a.Fire = func() {
		order = append(order, "a")
		r.StopTimer(&b)                // due too
		r.StartTimer(&a, 0)            // itself: not in this turn
		r.StartTimer(&c, -time.Second) // nor is this
	}
	b.Fire = func() { order = append(order, "b") }
	c.Fire = func() { order = append(order, "c"); r.StopTimer(&c) }
	r.StartTimer(&a, 1)
	r.StartTimer(&b, 2)
	r.now += 10
	r.fireTimers()
	if !slices.Equal(order, []string{"a"}) || !a.Running() || b.Running() || !c.Running() {
		t.Fatalf("fired %v", order)
	}
	r.StopTimer(&a)
	r.StopTimer(&b) // not running
	r.now++
	r.fireTimers()
	if !slices.Equal(order, []string{"a", "c"}) || len(r.timers) != 0 {
		t.Fatalf("fired %v", order)
	}
}

// timeout never wakes the loop early, and never waits without end for a timer.
func TestTimeout(t *testing.T) {
	const ms = int64(time.Millisecond)
	for left, want := range map[int64]int{-5: 0, 0: 0, 1: 1, ms: 1, ms + 1: 2, 5 * ms: 5, 1 << 62: 1 << 30} {
		h := timerHeap{{when: 100 + left}}
		if got := h.timeout(100); got != want {
			t.Errorf("%d ns before a timer the loop sleeps %d ms, want %d", left, got, want)
		}
	}
	if got := (timerHeap{}).timeout(100); got != -1 {
		t.Errorf("without a timer it sleeps %d ms", got)
	}
}

func TestTimersOfARunningReactor(t *testing.T) {
	for _, spin := range []time.Duration{0, 20 * time.Microsecond} {
		r := start(t, Options{Spin: spin})
		done := make(chan struct{})
		left := 200
		do(t, r, func() {
			for i := range left {
				began, d := r.Now(), time.Duration(i%20)*time.Millisecond
				tm := &Timer{}
				tm.Fire = func() {
					if r.Now()-began < int64(d) {
						t.Errorf("a timer of %v fired after %v", d, time.Duration(r.Now()-began))
					}
					if left--; left == 0 {
						close(done)
					}
				}
				r.StartTimer(tm, d)
			}
		})
		await(t, done, "200 timers")
	}
}
