package session_test

import (
	"bytes"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

// What is lent is not copied: the slots' buffers stay as they were.
func TestLend(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(4 << 20), lend: true}
	r := newRig(t, rigOptions{store: p})
	c := r.open(0)
	data := random(300<<10, 1)
	c.write(4096, data)
	if got := c.read(4096, len(data)); !bytes.Equal(got, data) {
		t.Error("it reads something else")
	}
	for l := range p.links {
		if len(bytes.Trim(l.slab, "\x00")) != 0 {
			t.Error("the payload went through the slots' buffers")
		}
	}
}

// A read whose memory a process has is not answered, and not sent again, until the
// process has been reaped: so long it may write there (rule 2). Then it is copied,
// in case the process has died of that memory.
func TestLentReadWaitsForTheProcess(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), lend: true, over: true, reaped: make(chan struct{})}
	r := newRig(t, rigOptions{store: p, trust: true})
	c := r.open(0)
	data := random(4096, 1)
	c.write(8192, data)
	p.shop.holdWrites(func(o order) bool { return o.op == block.OpRead })
	got := make([]byte, 4096)
	k := c.start(block.OpRead, 0, 8192, 4096, got)
	nbdtest.WaitFor(t, "the read in the process", func() bool { return p.shop.holds() == 1 })
	p.kill()
	p.shop.mu.Lock()
	late := p.shop.held[0]
	p.shop.held, p.shop.hold = nil, nil
	p.shop.mu.Unlock()
	c.read(0, 4096) // others pass
	if k.isDone() {
		t.Fatal("a read was answered while a process could still write to its memory")
	}
	late.fill(random(4096, 2)) // its last deed
	close(p.reaped)
	if st := k.wait(t); st != block.OK {
		t.Fatal(st)
	}
	if !bytes.Equal(got, data) {
		t.Error("the read has what the dead process wrote")
	}
	copied := false
	p.mu.Lock()
	for l := range p.links {
		copied = copied || len(bytes.Trim(l.slab, "\x00")) != 0
	}
	p.mu.Unlock()
	if !copied {
		t.Error("it was lent again")
	}
}

// A write whose memory a process has waits in the same way.
func TestLentWriteWaitsForTheProcess(t *testing.T) {
	t.Parallel()
	p := &process{shop: newShop(1 << 20), lend: true, over: true, reaped: make(chan struct{})}
	r := newRig(t, rigOptions{store: p, trust: true})
	c := r.open(0)
	p.shop.holdWrites(func(o order) bool { return o.op == block.OpWrite })
	data := random(4096, 1)
	k := c.start(block.OpWrite, 0, 8192, 4096, data)
	nbdtest.WaitFor(t, "the write in the process", func() bool { return p.shop.holds() == 1 })
	p.kill()
	p.shop.holdWrites(nil)
	c.read(0, 4096)
	if k.isDone() {
		t.Fatal("a write was answered while a process could still carry it out")
	}
	close(p.reaped)
	if st := k.wait(t); st != block.OK {
		t.Fatal(st)
	}
	if got := c.read(8192, 4096); !bytes.Equal(got, data) {
		t.Error("it reads something else")
	}
}

// At its deadline such a read is not answered either, but when the process has let
// go of it.
func TestLentReadAtItsDeadline(t *testing.T) {
	t.Parallel()
	letGo := make(chan struct{})
	p := &process{shop: newShop(1 << 20), lend: true, slow: func() { <-letGo }}
	r := newRig(t, rigOptions{store: p, timeout: 200 * time.Millisecond})
	c := r.open(0)
	p.shop.holdWrites(func(o order) bool { return o.op == block.OpRead })
	k := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
	nbdtest.WaitFor(t, "the connection to be given up", func() bool { return r.sess.Counters().Losses == 1 })
	if k.isDone() {
		t.Error("it was answered while a process could still write to its memory")
	}
	close(letGo)
	if st := k.wait(t); st != block.ETIMEDOUT {
		t.Error(st)
	}
}
