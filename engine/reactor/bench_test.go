package reactor

import (
	"testing"
	"time"

	"blockengine/engine/sys"
)

// echo answers one byte with one byte.
type echo struct {
	fd   int
	left int
	done chan struct{}
}

func (e *echo) Ready(uint32) {
	var b [8]byte
	if n, errno := sys.RawRead(e.fd, b[:]); errno != 0 || n == 0 {
		return
	}
	if e.left--; e.left <= 0 {
		e.done <- struct{}{}
		return
	}
	sys.RawWrite(e.fd, b[:1])
}

// pingPong has two reactors send a byte to and fro: two wake-ups a round.
func pingPong(t testing.TB, spin time.Duration) (run func(rounds int)) {
	x, y := start(t, Options{Spin: spin}), start(t, Options{Index: 1, Spin: spin})
	a, b := pair(t)
	done := make(chan struct{}, 1)
	ea, eb := &echo{fd: a, done: done}, &echo{fd: b, done: done}
	for r, e := range map[*Reactor]*echo{x: ea, y: eb} {
		do(t, r, func() {
			if _, err := r.Add(e.fd, sys.EpollIn, e); err != nil {
				t.Error(err)
			}
		})
	}
	return func(rounds int) {
		do(t, x, func() { ea.left = rounds })
		do(t, y, func() { eb.left = rounds + 1 })
		say(a)
		<-done
	}
}

func BenchmarkWake(b *testing.B) {
	for name, spin := range map[string]time.Duration{"asleep": 0, "spinning": 50 * time.Microsecond} {
		b.Run(name, func(b *testing.B) {
			run := pingPong(b, spin)
			run(100)
			b.ReportAllocs()
			b.ResetTimer()
			run(b.N)
		})
	}
}

// turner keeps its reactor turning with a mail, deferred work and a timer.
type turner struct {
	r     *Reactor
	d     Deferred
	tm    Timer
	left  int
	fired int
	done  chan struct{}
}

func (m *turner) Deliver() {
	m.r.StartTimer(&m.tm, 0)
	m.r.Defer(&m.d)
}

func (m *turner) run() {
	if m.left--; m.left <= 0 {
		m.done <- struct{}{}
		return
	}
	m.r.Post(m)
}

func newTurner(t testing.TB) *turner {
	m := &turner{r: start(t, Options{}), done: make(chan struct{}, 1)}
	m.d.Run = m.run
	m.tm.Fire = func() { m.fired++ }
	return m
}

func (m *turner) turns(n int) {
	m.r.Do(func() { m.left = n; m.r.Post(m) })
	<-m.done
}

func BenchmarkTurn(b *testing.B) {
	m := newTurner(b)
	m.turns(100)
	b.ReportAllocs()
	b.ResetTimer()
	m.turns(b.N)
}

func BenchmarkTimer(b *testing.B) {
	r := loopless()
	timers := make([]Timer, 1000)
	for i := range timers {
		r.StartTimer(&timers[i], time.Duration(i*7919%1000))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.StartTimer(&timers[i%1000], time.Duration(i*31%1000))
	}
}

// Turns, mail, deferred work, timers and events allocate nothing.
func TestNoAllocations(t *testing.T) {
	m := newTurner(t)
	m.turns(100)
	if n := testing.AllocsPerRun(5, func() { m.turns(2000) }); n > 20 {
		t.Errorf("%v allocations in 2000 turns", n)
	}
	do(t, m.r, func() {
		if m.fired == 0 {
			t.Error("no timer fired")
		}
	})
	run := pingPong(t, 0)
	run(100)
	if n := testing.AllocsPerRun(3, func() { run(400) }); n > 20 {
		t.Errorf("%v allocations in 800 wake-ups", n)
	}
}
