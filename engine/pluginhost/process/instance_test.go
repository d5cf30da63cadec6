package process

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// caller is who uses an instance. Its fields are the reactor's.
type caller struct {
	t        testing.TB
	r        *reactor.Reactor
	i        *instance
	broke    []error
	released int
	answers  chan answer
	got      func() // instead of answers
}

// answer is what Answer gave.
type answer struct {
	status []block.Status
	err    error
}

// newCaller is an instance that somebody serves, on a reactor.
func newCaller(t testing.TB, reg *region, spin, hang time.Duration) *caller {
	t.Helper()
	c := &caller{t: t, r: startReactor(t, spin), answers: make(chan answer, 1)}
	c.i = newInstance(reg, hooks{hang: hang, broke: func(err error) { c.broke = append(c.broke, err) },
		release: func(done func(bool)) { c.released++; go done(true) }})
	t.Cleanup(func() { c.r.Do(c.i.Close) })
	return c
}

func (c *caller) attach() *caller {
	c.t.Helper()
	var err error
	c.r.Do(func() { err = c.i.Attach(c.r, c.answered) })
	if err != nil {
		c.t.Fatal(err)
	}
	return c
}

func (c *caller) answered() {
	if c.got != nil {
		c.got()
		return
	}
	c.answers <- c.take(c.i.Answer())
}

// take decodes actions.
func (c *caller) take(actions []byte, more bool, err error) (a answer) {
	if more {
		c.t.Error("there are more actions")
	}
	a.err = err
	for len(actions) > 0 {
		rec, rest, ok := abi.Next(actions)
		if !ok {
			c.t.Error("a malformed action")
			return a
		}
		if d := abi.Overlay[abi.Complete](rec); d.Kind == abi.ActComplete {
			a.status = append(a.status, block.Status(d.Status))
		}
		actions = rest
	}
	return a
}

// events puts requests with these tags into the input and gives their length.
func (c *caller) events(tags ...uint64) (n int) {
	for _, tag := range tags {
		b := c.i.Input()[n:]
		clear(b[:40])
		binary.LittleEndian.PutUint16(b, abi.EvRequest)
		binary.LittleEndian.PutUint32(b[4:], 40)
		binary.LittleEndian.PutUint64(b[8:], tag)
		n += 40
	}
	return n
}

func (c *caller) begin(tags ...uint64) {
	c.r.Do(func() { c.i.Begin(c.events(tags...), guest.BudgetCall) })
}

func (c *caller) await() answer {
	c.t.Helper()
	select {
	case a := <-c.answers:
		return a
	case <-time.After(patience):
		c.t.Fatal("waited in vain for an answer")
		return answer{}
	}
}

// Calls that wait and calls that do not are answered alike, in any order.
func TestInstanceAnswers(t *testing.T) {
	for _, spin := range []time.Duration{0, 20 * time.Microsecond} {
		t.Run(spin.String(), func(t *testing.T) {
			reg := makeRegion(t, "machine")
			closeWorker := inside(t, "machine", reg, spin)
			c := newCaller(t, reg, spin, patience)
			c.i.wait = patience
			call := func(tag uint64) {
				a := c.take(c.i.Call(c.events(tag), guest.BudgetLogin))
				if a.err != nil || len(a.status) != 1 || uint64(a.status[0]) != tag {
					t.Errorf("call %d: %v", tag, a)
				}
			}
			call(1)
			c.attach()
			for n := range 300 {
				tag := uint64(n%600 + 1)
				c.begin(tag, tag+1)
				if a := c.await(); a.err != nil || len(a.status) != 2 || a.status[0] != block.Status(tag) || a.status[1] != block.Status(tag+1) {
					t.Fatalf("call %d: %v", tag, a)
				}
				if n%3 == 0 {
					c.r.Do(func() { call(tag) })
				}
				if n%50 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			closeWorker()
		})
	}
}

// A call between two processes and back allocates nothing.
func TestInstanceAllocatesNothing(t *testing.T) {
	reg := makeRegion(t, "machine")
	closeWorker := inside(t, "machine", reg, 0)
	c := newCaller(t, reg, 0, patience).attach()
	left, done := 0, make(chan struct{}, 1)
	c.got = func() {
		if _, _, err := c.i.Answer(); err != nil {
			t.Error(err)
		}
		if left--; left == 0 {
			done <- struct{}{}
			return
		}
		c.i.Begin(c.events(5), guest.BudgetCall)
	}
	run := func() {
		c.r.Do(func() { left = 2000; c.i.Begin(c.events(5), guest.BudgetCall) })
		<-done
	}
	run()
	if n := testing.AllocsPerRun(5, run); n > 20 {
		t.Errorf("%v allocations in 2000 calls", n)
	}
	closeWorker()
}

// A plugin that panics ends its connection; the process, and others, go on.
func TestInstancePanics(t *testing.T) {
	reg, other := makeRegion(t, "machine"), makeRegion(t, "machine")
	p := startPeer(t, "machine 0s", nil, reg, other)
	p.quiet()
	c, d := newCaller(t, reg, 0, patience).attach(), newCaller(t, other, 0, patience).attach()
	c.begin(666)
	if a := c.await(); trapOf(a.err) != "unreachable" {
		t.Errorf("a panic: %v", a)
	}
	c.begin(5)
	if a := c.await(); trapOf(a.err) != "unreachable" {
		t.Errorf("after a panic: %v", a)
	}
	d.begin(5)
	if a := d.await(); a.err != nil || len(a.status) != 1 {
		t.Errorf("another connection: %v", a)
	}
	p.close()
}

// A call that is not answered ends in a trap: soon if somebody waits for it, or
// after a while, and then the process is to be killed.
func TestInstanceHangs(t *testing.T) {
	for _, wait := range []bool{true, false} {
		reg := makeRegion(t, "machine")
		p := startPeer(t, "machine 0s", nil, reg)
		c := newCaller(t, reg, 0, 50*time.Millisecond).attach()
		var a answer
		if wait {
			c.r.Do(func() { a = c.take(c.i.Call(c.events(667), guest.BudgetLogin)) })
		} else {
			c.begin(667)
			a = c.await()
		}
		c.r.Do(func() {
			if trapOf(a.err) != "hang" || (len(c.broke) == 1) == wait {
				t.Errorf("waiting %v: %v, broke: %v", wait, a.err, c.broke)
			}
		})
		p.kill()
	}
}

// A process that dies answers what is outstanding with a trap, and what comes after.
func TestInstanceDies(t *testing.T) {
	reg := makeRegion(t, "machine")
	p := startPeer(t, "machine 0s", nil, reg)
	c := newCaller(t, reg, 0, patience).attach()
	c.begin(667)
	p.kill()
	c.i.died(errKilled)
	for range 2 {
		if a := c.await(); trapOf(a.err) != "exit" || !errors.Is(a.err, errKilled) {
			t.Errorf("%v", a.err)
		}
		c.begin(5)
	}
	c.await()
	c.r.Do(func() {
		if a := c.take(c.i.Call(c.events(5), 0)); trapOf(a.err) != "exit" {
			t.Errorf("a call: %v", a.err)
		}
		c.i.Close()
		c.i.Close()
		if c.released != 1 {
			t.Errorf("released %d times", c.released)
		}
	})
	early := newCaller(t, makeRegion(t, "machine"), 0, patience)
	early.i.died(errKilled)
	if _, _, err := early.i.Call(0, 0); trapOf(err) != "exit" {
		t.Errorf("before Attach: %v", err)
	}
}

// What is no answer is a trap, and the process is to be killed if it has lost count.
func TestHostileMachine(t *testing.T) {
	for _, m := range []struct {
		name   string
		do     func(r *region)
		cause  string
		text   string
		breaks int
	}{
		{"two answers", func(r *region) { r.CompTail.Store(2) }, "output", "answered call 2, and call 1 was", 1},
		{"an old answer", func(r *region) { r.CompTail.Store(1<<32 - 1) }, "output", "call 1 was", 1},
		{"too long", func(r *region) { r.CallOut.Store(64<<10 + 8); r.CompTail.Store(1) }, "output", "65544 bytes", 0},
		{"very long", func(r *region) { r.CallOut.Store(1<<31 - 8); r.CompTail.Store(1) }, "output", "bytes of actions", 0},
		{"askew", func(r *region) { r.CallOut.Store(12); r.CompTail.Store(1) }, "output", "12 bytes", 0},
		{"rings without end", nil, "output", "woken the engine", 1},
	} {
		t.Run(m.name, func(t *testing.T) {
			reg := makeRegion(t, "machine")
			c := newCaller(t, reg, 0, patience).attach()
			c.r.Do(func() {
				c.i.Begin(c.events(5), 0)
				if m.do == nil {
					for range maxRings + 1 {
						c.i.Ready(0)
					}
					return
				}
				m.do(reg)
				c.i.lookAround()
			})
			a := c.await()
			c.r.Do(func() {
				if trapOf(a.err) != m.cause || !strings.Contains(a.err.Error(), m.text) || len(c.broke) != m.breaks {
					t.Errorf("%v, broke: %v", a.err, c.broke)
				}
			})
		})
	}
}

// The actions are a copy: the process cannot change them after they were checked.
func TestActionsArePrivate(t *testing.T) {
	reg := makeRegion(t, "machine")
	c := newCaller(t, reg, 0, patience).attach()
	c.got = func() {}
	c.r.Do(func() {
		c.i.Begin(0, 0)
		reg.CallOut.Store(16 | abi.CallMore)
		copy(reg.Out, "sixteen bytes ..")
		reg.CompTail.Store(1)
		c.i.lookAround()
		b, more, err := c.i.Answer()
		copy(reg.Out, "something else")
		if string(b) != "sixteen bytes .." || !more || err != nil {
			t.Errorf("%q, %v, %v", b, more, err)
		}
	})
}

// Nothing is told after Close, and an input that is too long is refused.
func TestInstanceClose(t *testing.T) {
	c := newCaller(t, makeRegion(t, "machine"), 0, patience).attach()
	c.r.Do(func() {
		c.i.Begin(len(c.i.Input())+1, 0)
		c.i.Close()
	})
	c.r.Do(func() {})
	if len(c.answers) != 0 {
		t.Error("it was answered after Close")
	}
	d := newCaller(t, makeRegion(t, "machine"), 0, patience).attach()
	d.r.Do(func() { d.i.Begin(len(d.i.Input())+1, 0) })
	if a := d.await(); a.err == nil || !strings.Contains(a.err.Error(), "do not fit") {
		t.Errorf("%v", a.err)
	}
}
