package reactor

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/sys"
)

// tick is a mail that posts itself to the next reactor until its hops are over.
type tick struct {
	rs   []*Reactor
	at   int
	hops int
	done *sync.WaitGroup
}

func (m *tick) Deliver() {
	if m.hops--; m.hops == 0 {
		m.done.Done()
		return
	}
	m.at = (m.at + 1) % len(m.rs)
	m.rs[m.at].Post(m)
}

// Mail that hops between reactors that sleep as soon as they can: a wake-up
// that is lost stops a hop for ever.
func TestNoWakeUpIsLost(t *testing.T) {
	for name, spin := range map[string]time.Duration{"sleeping": 0, "spinning": 5 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			rs := []*Reactor{start(t, Options{Spin: spin}), start(t, Options{Index: 1, Spin: spin}), start(t, Options{Index: 2, Spin: spin})}
			for _, mails := range []int{1, 2, 7} {
				var all sync.WaitGroup
				for i := range mails {
					all.Add(1)
					m := &tick{rs: rs, at: i % len(rs), hops: 3000, done: &all}
					rs[m.at].Post(m)
				}
				done := make(chan struct{})
				go func() { all.Wait(); close(done) }()
				await(t, done, "mails that hop between reactors")
			}
		})
	}
}

type count struct{ n *int }

func (c count) Deliver() { *c.n++ }

// Every mail of many goroutines is delivered once, on the reactor.
func TestMailOfManyGoroutines(t *testing.T) {
	r := start(t, Options{})
	const senders, each = 16, 2000
	var wg sync.WaitGroup
	counts := make([]int, senders)
	for i := range senders {
		wg.Go(func() {
			for k := range each {
				r.Post(count{&counts[i]})
				if k%64 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	do(t, r, func() {
		for i, n := range counts {
			if n != each {
				t.Errorf("sender %d: %d of %d mails were delivered", i, n, each)
			}
		}
	})
}

// The mail of one sender comes in the order in which it was posted.
func TestMailKeepsItsOrder(t *testing.T) {
	r := start(t, Options{})
	var got []int
	for i := range 1000 {
		r.Post(MailFunc(func() { got = append(got, i) }))
	}
	do(t, r, func() {
		for i, g := range got {
			if g != i {
				t.Fatalf("mail %d came as number %d", g, i)
			}
		}
		if len(got) != 1000 {
			t.Errorf("%d came", len(got))
		}
	})
}

func TestStop(t *testing.T) {
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	ran := false
	if !r.Do(func() { ran = true }) || !ran {
		t.Error("Do on a running reactor did not run")
	}
	r.Stop()
	if r.Do(func() { t.Error("it ran after the stop") }) {
		t.Error("Do on a stopped reactor says that it ran")
	}
	r.Post(MailFunc(func() { t.Error("mail was delivered after the stop") }))
}

// Do says whether its function ran, whenever the reactor stops.
func TestDoWhileStopping(t *testing.T) {
	for range 200 {
		r, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					var ran atomic.Bool
					said := r.Do(func() { ran.Store(true) })
					if said != ran.Load() {
						t.Errorf("Do says %v, and its function ran: %v", said, ran.Load())
					}
					if !said {
						return
					}
				}
			})
		}
		runtime.Gosched()
		r.Stop()
		wg.Wait()
	}
}

// An idle reactor sleeps: no turns, whether or not it spins before, and a
// timer that is far away changes nothing.
func TestIdleReactorDoesNotTurn(t *testing.T) {
	for name, spin := range map[string]time.Duration{"at once": 0, "after a spin": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{Spin: spin})
			a, _ := pair(t)
			far := Timer{Fire: func() {}}
			do(t, r, func() {
				if _, err := r.Add(a, sys.EpollIn|sys.EpollOut, handler(func(uint32) {})); err != nil {
					t.Error(err)
				}
				r.StartTimer(&far, time.Hour)
			})
			_, slept := r.Load()
			for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				if _, s := r.Load(); s > slept || r.sleeping.Load() {
					break
				}
				if time.Now().After(end) {
					t.Fatal("it does not go to sleep")
				}
			}
			before, _ := r.Load()
			time.Sleep(300 * time.Millisecond)
			if after, _ := r.Load(); after-before > 5 {
				t.Errorf("%d turns while it was idle", after-before)
			}
		})
	}
}

// A reactor that may spin finds what comes soon without sleeping in between.
func TestSpin(t *testing.T) {
	r := start(t, Options{Spin: time.Hour})
	do(t, r, func() {})
	_, before := r.Load()
	for range 50 {
		do(t, r, func() {})
	}
	if _, after := r.Load(); after != before {
		t.Errorf("it slept %d times", after-before)
	}
}

func TestIndexAndClock(t *testing.T) {
	r := start(t, Options{Index: 5})
	last := int64(0)
	for range 100 {
		do(t, r, func() {
			if r.Now() < last || r.Now() <= 0 || r.Index() != 5 {
				t.Errorf("%d after %d on reactor %d", r.Now(), last, r.Index())
			}
			last = r.Now()
		})
	}
}
