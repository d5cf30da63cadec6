package session_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

// A disk in another process reads back what was written, on several reactors.
func TestLink(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(4 << 20)}
	r := newRig(t, rigOptions{store: p, reactors: 2})
	a, b := r.open(0), r.open(1)
	data := random(300<<10, 1) // more than a slot's buffer
	a.write(4096, data)
	if got := b.read(4096, len(data)); !bytes.Equal(got, data) {
		t.Error("the other reactor reads something else")
	}
	if st := a.flush(); st != block.OK || p.shop.count(block.OpFlush) == 0 {
		t.Errorf("flush: %v, %d have come", st, p.shop.count(block.OpFlush))
	}
	k := a.must(block.OpBlockStatus, 0, 0, 8192)
	if len(k.Extents) != 2 || k.Extents[0] != (block.Extent{Length: 4096, State: block.Hole}) || k.Extents[1].Length != 4096 {
		t.Errorf("extents %v", k.Extents)
	}
	if st := r.sess.Path(); st.Address != "" || st.Connections != 2 {
		t.Errorf("path %+v", st)
	}
}

// What a process says of a request is checked.
func TestLinkLies(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20)}
	p.answer = func(o order, st block.Status, filled uint64) (block.Status, uint64) {
		if o.op == block.OpRead {
			filled -= 512
		}
		return st, filled
	}
	r := newRig(t, rigOptions{store: p})
	c := r.open(0)
	got := bytes.Repeat([]byte{0xEE}, 4096)
	if st := c.start(block.OpRead, 0, 0, 4096, got).wait(t); st != block.EIO {
		t.Errorf("a read with a gap: %v", st)
	}
	if r.sess.Counters().Violations != 1 {
		t.Errorf("%+v", r.sess.Counters())
	}
}

// A killed process costs no request, and no acknowledged write.
func TestLinkKilledUnderLoad(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(8 << 20), over: true}
	r := newRig(t, rigOptions{store: p, reactors: 2, trust: true, fence: time.Hour})
	l := r.startLoad(2)
	for range 20 {
		before := l.ops.Load()
		nbdtest.WaitFor(t, "progress", func() bool { return l.ops.Load() > before+20 })
		p.kill()
	}
	l.stop.Store(true)
	l.done.Wait()
	if c := r.sess.Counters(); c.Losses == 0 || c.Traps == 0 || c.Fences == 0 {
		t.Errorf("%+v", c)
	}
}

// A write that somebody behind a dead process may still carry out is not sent
// again, nor overtaken, until the fence time is over (rule 1).
func TestLinkHeldWrite(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20)}
	r := newRig(t, rigOptions{store: p, fence: time.Second, trust: true})
	c := r.open(0)
	old, young := random(4096, 1), random(4096, 2)
	p.shop.holdWrites(func(o order) bool { return o.op == block.OpWrite && o.off == 8192 })
	k := c.start(block.OpWrite, 0, 8192, 4096, old)
	nbdtest.WaitFor(t, "the write at the server", func() bool { return p.shop.holds() == 1 })
	p.kill()
	over := c.start(block.OpWrite, 0, 8192, 4096, young)
	c.write(65536, old) // others pass
	if k.isDone() || over.isDone() {
		t.Fatal("a write has overtaken one of unknown outcome")
	}
	if n := p.shop.release(); n != 1 { // the late copy lands
		t.Fatalf("%d writes were held, so the replay did not wait for the fence", n)
	}
	if k.wait(t) != block.OK || over.wait(t) != block.OK {
		t.Error(k.Status, over.Status)
	}
	if got := c.read(8192, 4096); !bytes.Equal(got, young) {
		t.Error("an old write has won")
	}
}

// The same write goes on at once where the process's end is the end of it.
func TestLinkFenceOnExit(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), over: true}
	r := newRig(t, rigOptions{store: p, fence: time.Hour, trust: true})
	c := r.open(0)
	first := true
	p.shop.holdWrites(func(o order) bool {
		held := first && o.op == block.OpWrite
		first = first && !held
		return held
	})
	k := c.start(block.OpWrite, 0, 8192, 4096, random(4096, 1))
	nbdtest.WaitFor(t, "the write in the process", func() bool { return p.shop.holds() == 1 })
	p.kill()
	if st := k.wait(t); st != block.OK {
		t.Error(st)
	}
}

// Acknowledged writes that no flush has covered are in doubt when the process
// has died (rule 3).
func TestLinkLostCache(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), over: true}
	r := newRig(t, rigOptions{store: p})
	c := r.open(0)
	c.write(0, random(4096, 1))
	p.kill()
	nbdtest.WaitFor(t, "another process", func() bool { return r.sess.Counters().Reconnects == 1 })
	if st := c.flush(); st != block.EIO {
		t.Errorf("flush: %v", st)
	}
	if st := c.flush(); st != block.OK {
		t.Errorf("the flush after: %v", st)
	}
}

// A process that comes back with another disk stops the volume (rule 4).
func TestLinkAnotherDisk(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), over: true}
	r := newRig(t, rigOptions{store: p})
	r.open(0).read(0, 4096)
	p.shop.mu.Lock()
	p.shop.info.Identity = "another"
	p.shop.mu.Unlock()
	p.kill()
	r.waitState(volume.Stopped)
}

// A store that does not answer fails reads at their deadline, and keeps writes
// until its process has been dealt with.
func TestLinkStalls(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), over: true}
	r := newRig(t, rigOptions{store: p, timeout: 200 * time.Millisecond, trust: true})
	c := r.open(0)
	p.shop.holdWrites(func(order) bool { return true })
	read := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
	write := c.start(block.OpWrite, 0, 8192, 4096, random(4096, 1))
	if st := read.wait(t); st != block.ETIMEDOUT {
		t.Errorf("read: %v", st)
	}
	if st := write.wait(t); st != block.ETIMEDOUT {
		t.Errorf("write: %v", st)
	}
}

// goodbyeAndMore is longer than a goodbye is waited for.
const goodbyeAndMore = 3500 * time.Millisecond

// A version takes over by the serial method: the disk is never open twice, and
// no request fails; one whose disk is another is refused, and the one before
// goes on.
func TestLinkTakeOver(t *testing.T) {
	t.Parallel()
	s := newShop(8 << 20)
	r := newRig(t, rigOptions{store: &process{shop: s, over: true}, reactors: 2})
	l := r.startLoad(2)
	var gens []*session.Generation
	for n := range 6 {
		gens = append(gens, session.NewStoreGeneration(n+2, &process{shop: s, over: true}, nil, 2))
	}
	for _, g := range gens {
		out, err := r.sess.TakeOver(context.Background(), session.Takeover{To: g})
		if err != nil || out.Method != session.Serial {
			t.Fatalf("%+v, %v", out, err)
		}
		before := l.ops.Load()
		nbdtest.WaitFor(t, "progress", func() bool { return l.ops.Load() > before+20 })
	}
	// One that is slow to close is waited for.
	slow := &process{shop: s, over: true, slow: func() { time.Sleep(goodbyeAndMore) }}
	for _, g := range []*session.Generation{session.NewStoreGeneration(20, slow, nil, 2), session.NewStoreGeneration(21, &process{shop: s, over: true}, nil, 2)} {
		if _, err := r.sess.TakeOver(context.Background(), session.Takeover{To: g}); err != nil {
			t.Fatal(err)
		}
	}
	other := newShop(4 << 20)
	bad := session.NewStoreGeneration(99, &process{shop: other}, nil, 2)
	if _, err := r.sess.TakeOver(context.Background(), session.Takeover{To: bad}); err == nil {
		t.Error("another disk was taken over")
	}
	before := l.ops.Load()
	nbdtest.WaitFor(t, "progress", func() bool { return l.ops.Load() > before+20 })
	l.stop.Store(true)
	l.done.Wait()
	if st := r.open(0).flush(); st != block.OK {
		t.Errorf("flush: %v", st)
	}
	if s.both {
		t.Error("the disk was open in two processes at once")
	}
}
