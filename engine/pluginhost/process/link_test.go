package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"blockengine/sdk/block"
)

// Random requests on a memory disk, at any depth, come back with what the disk holds.
func TestLinkServes(t *testing.T) {
	for _, kind := range []string{"memory", "post"} {
		for _, spin := range []time.Duration{0, 20 * time.Microsecond} {
			t.Run(fmt.Sprintf("%s/spin=%v", kind, spin), func(t *testing.T) {
				reg := makeRegion(t, kind)
				closeWorker := inside(t, kind, reg, spin)
				r := startReactor(t, spin)
				o := newOwner(t, r, reg, patience)
				runRandom(t, o, 4000)
				closeWorker()
			})
		}
	}
}

// runRandom has n random requests done, in batches of random sizes.
func runRandom(t *testing.T, o *owner, n int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	done := make(chan struct{})
	o.next = func() {
		if o.finished == n || len(o.errs) > 0 {
			close(done)
			o.next = func() {}
			return
		}
		want := 1 + rnd.IntN(len(o.slots))
		for slot := range o.slots {
			if o.slots[slot] == nil && o.out() < want && o.finished+o.out() < n {
				o.askAny(slot, rnd)
			}
		}
		o.l.Push()
	}
	o.l.r.Do(o.next)
	await(t, done, "the requests")
}

// The same between two processes, and the other one ends in good order.
func TestLinkBetweenProcesses(t *testing.T) {
	reg := makeRegion(t, "post")
	p := startPeer(t, "post 20us", nil, reg)
	o := newOwner(t, startReactor(t, 20*time.Microsecond), reg, patience)
	runRandom(t, o, 3000)
	p.close()
}

// Neither end allocates for a request.
func TestLinkAllocatesNothing(t *testing.T) {
	reg := makeRegion(t, "null")
	closeWorker := inside(t, "null", reg, 0)
	r := startReactor(t, 0)
	o := &loader{l: newLink(reg, block.Info{Size: testSize, BlockSize: 1}, (&owner{}).hooks(patience)), depth: 32, size: 4096, into: make([]byte, 4096), done: make(chan struct{}, 1)}
	var err error
	r.Do(func() { err = o.l.Start(r, o) })
	if err != nil {
		t.Fatal(err)
	}
	if err := o.run(r, 1000); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(5, func() { err = errors.Join(err, o.run(r, 5000)) }); n > 20 {
		t.Errorf("%v allocations in 5000 requests", n)
	}
	if err != nil {
		t.Error(err)
	}
	closeWorker()
	r.Do(func() { o.l.Close(func(bool) {}) })
}

// Whenever the other process is killed, what it has finished is told once, the end
// is told once, and the rest is outstanding.
func TestLinkSurvivesKills(t *testing.T) {
	r := startReactor(t, 20*time.Microsecond)
	rnd, when := rand.New(rand.NewPCG(3, 4)), rand.New(rand.NewPCG(5, 6))
	for range 20 {
		reg := makeRegion(t, "post")
		p := startPeer(t, "post 20us", nil, reg)
		o := newOwner(t, r, reg, patience)
		asked := 0
		o.next = func() {
			for slot := range o.slots[:1+rnd.IntN(len(o.slots))] {
				if o.slots[slot] == nil {
					o.askAny(slot, rnd)
					asked++
				}
			}
			o.l.Push()
		}
		r.Do(o.next)
		time.Sleep(time.Duration(when.IntN(3000)) * time.Microsecond)
		p.kill()
		o.l.died(errKilled)
		o.l.died(errors.New("a second word"))
		await(t, o.end, "the end of the link")
		r.Do(func() {
			if len(o.lost) != 1 || !errors.Is(o.lost[0], errKilled) || len(o.broke) != 0 {
				t.Errorf("lost: %v, broke: %v", o.lost, o.broke)
			}
			if o.finished+o.out() != asked {
				t.Errorf("%d asked, %d finished, %d outstanding", asked, o.finished, o.out())
			}
		})
	}
}

var errKilled = errors.New("killed")

// A process that is stopped is found out, whether or not it has been given much.
func TestLinkFindsHang(t *testing.T) {
	reg := makeRegion(t, "memory")
	p := startPeer(t, "memory 0s", nil, reg)
	r := startReactor(t, 0)
	o := newOwner(t, r, reg, 50*time.Millisecond)
	stopped(t, p.cmd.Process.Pid)
	rnd := rand.New(rand.NewPCG(5, 6))
	for slot := range 20 {
		r.Do(func() {
			o.askAny(slot, rnd)
			o.l.Push()
		})
	}
	await(t, o.end, "the end of the link")
	r.Do(func() {
		if len(o.lost) != 1 || trapOf(o.lost[0]) != "hang" || len(o.broke) != 1 {
			t.Errorf("lost: %v, broke: %v", o.lost, o.broke)
		}
	})
}

// A disk that is slow with its requests is no process that hangs.
func TestSlowIsNoHang(t *testing.T) {
	neverEnds.Store(false)
	reg := makeRegion(t, "never")
	closeWorker := inside(t, "never", reg, 0)
	r := startReactor(t, 0)
	o := newOwner(t, r, reg, patience)
	rnd := rand.New(rand.NewPCG(5, 6))
	r.Do(func() { o.askAny(0, rnd); o.l.Push() })
	for end := time.Now().Add(patience); reg.SubHead.Load() != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the request is not taken")
		}
	}
	r.Do(func() {
		if !o.l.hang.Running() {
			t.Error("nobody watches")
		}
		r.StopTimer(&o.l.hang)
		o.l.looksHung() // as if it had fired
		if len(o.lost) != 0 || o.out() != 1 || o.l.hang.Running() {
			t.Errorf("lost: %v, %d outstanding, watched: %v", o.lost, o.out(), o.l.hang.Running())
		}
	})
	neverEnds.Store(true)
	closeWorker()
}

// Nothing is told after Close, and the fence once, when the host says so.
func TestLinkClose(t *testing.T) {
	reg := makeRegion(t, "memory")
	closeWorker := inside(t, "memory", reg, 0)
	r := startReactor(t, 0)
	o := newOwner(t, r, reg, patience)
	var release func(bool)
	fenced := make(chan bool, 2)
	rnd := rand.New(rand.NewPCG(7, 8))
	r.Do(func() {
		o.l.c.release = func(done func(bool)) { release = done }
		for slot := range o.slots {
			o.askAny(slot, rnd)
		}
		o.l.Push()
		o.l.Close(func(finished bool) { fenced <- finished })
	})
	o.l.died(errKilled)
	closeWorker()
	r.Do(func() {
		if o.finished != 0 || len(o.lost) != 0 || len(fenced) != 0 {
			t.Errorf("%d finished, lost: %v, %d fenced", o.finished, o.lost, len(fenced))
		}
	})
	go release(true)
	if !<-fenced {
		t.Error("it was not told that all has ended")
	}
}

// A link that was never started can be closed, and one that died is still told so.
func TestLinkBeforeStart(t *testing.T) {
	var o owner
	l := newLink(makeRegion(t, "memory"), block.Info{}, o.hooks(0))
	done := make(chan struct{})
	l.Close(func(bool) { close(done) })
	await(t, done, "the fence")

	r := startReactor(t, 0)
	late := &owner{end: make(chan struct{})}
	late.l = newLink(makeRegion(t, "memory"), block.Info{}, late.hooks(0))
	late.l.died(errKilled)
	r.Do(func() {
		if err := late.l.Start(r, late); err != nil {
			t.Error(err)
		}
	})
	await(t, late.end, "the end of the link")
	r.Do(func() { late.l.Close(func(bool) {}) })
}
