package volume_test

import (
	"testing"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// bigSegments is a payload of n MiB out of one MiB of memory.
func bigSegments(n int) [][]byte {
	one := make([]byte, mib)
	segs := make([][]byte, n)
	for i := range segs {
		segs[i] = one
	}
	return segs
}

func TestTransferOfTheLargestSize(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: 1 << 40, BlockSize: 512})
	io := &volume.IO{Request: block.Request{Op: block.OpRead, Offset: 1 << 39, Length: volume.MaxTransfer, Data: bigSegments(32)}}
	g.clients[0].submit(io)
	g.finish(0, block.OK)
	if g.clients[0].wait(); io.Status != block.OK || io.Filled != volume.MaxTransfer {
		t.Errorf("ended with %v, %d filled", io.Status, io.Filled)
	}
	io = &volume.IO{Request: block.Request{Op: block.OpRead, Length: volume.MaxTransfer + mib, Data: bigSegments(33)}}
	if st := g.clients[0].ask(io); st != block.EINVAL {
		t.Errorf("one MiB more ended with %v", st)
	}
}

// What carries no payload has no largest size: a whole disk may be discarded.
func TestHugeRanges(t *testing.T) {
	const size = 1 << 50
	info := block.Info{Size: size, BlockSize: 512, Caps: block.CapDiscard | block.CapWriteZeroes | block.CapBlockStatus, MaxDiscard: 1 << 40}
	g := newRig(t, 1, info)
	c := g.clients[0]
	discard := request(block.OpDiscard, 0, 0, size)
	c.submit(discard)
	for parts := 1024; parts > 0; parts-- {
		if n := g.heldOn(0); n != min(parts, 8) {
			t.Fatalf("%d parts are under way, with %d to go", n, parts)
		}
		g.finish(0, block.OK)
	}
	c.wait()
	zeroes, status := request(block.OpWriteZeroes, 0, 0, size), request(block.OpBlockStatus, 0, 0, size)
	c.submit(zeroes, status)
	g.on(0, func() {
		held := g.f.chans[0].held
		if len(held) != 2 || held[0].io.Length != size || held[1].io.Length != 1<<30 {
			t.Errorf("%d requests are held, want the whole write-zeroes and a shortened block status", len(held))
		}
	})
	g.finish(0, block.OK)
	g.finish(0, block.OK)
	c.wait()
	c.wait()
}

// The first error ends a request early, but not while parts are under way, and
// no further parts are begun.
func TestFirstErrorWins(t *testing.T) {
	info := block.Info{Size: mib, BlockSize: 512, MaxTransfer: 4096}
	g := newRig(t, 1, info)
	io := request(block.OpRead, 0, 0, 20*4096)
	g.clients[0].submit(io)
	for i, st := range []block.Status{block.OK, block.ENOSPC, block.EIO, block.OK, block.EIO, block.OK, block.OK, block.OK} {
		if n := g.heldOn(0); i >= 2 && n != 9-i {
			t.Fatalf("after the first error %d parts are held, want %d", n, 9-i)
		}
		g.finish(0, st)
		g.clients[0].none()
	}
	g.finish(0, block.OK)
	if g.clients[0].wait(); io.Status != block.ENOSPC {
		t.Errorf("ended with %v, want the first error", io.Status)
	}
}

func TestReadWithAGap(t *testing.T) {
	for _, filled := range []uint64{0, 511, 513} {
		info := block.Info{Size: mib, BlockSize: 512, MaxTransfer: 512}
		for _, length := range []uint64{512, 1024} { // whole, and in parts
			g := newRig(t, 1, info)
			io := request(block.OpRead, 0, 0, length)
			g.clients[0].submit(io)
			g.on(0, func() {
				c := g.f.chans[0]
				h := c.held[0]
				c.held = c.held[1:]
				h.io.Filled = filled
				c.done.Complete(h.io)
			})
			if length > 512 {
				g.finish(0, block.OK)
			}
			if g.clients[0].wait(); io.Status != block.EIO {
				t.Errorf("a read of %d, %d of a part filled, ended with %v", length, filled, io.Status)
			}
		}
	}
}

func TestStatusThatIsNoErrno(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	for st, want := range map[block.Status]block.Status{4095: 4095, 4096: block.EIO, ^block.Status(0): block.EIO} {
		for _, io := range []*volume.IO{request(block.OpRead, 0, 0, 512), request(block.OpFlush, 0, 0, 0)} {
			g.clients[0].submit(io)
			g.finish(0, st)
			if g.clients[0].wait(); io.Status != want {
				t.Errorf("%v: the device said %d, the guest is told %v", io.Op, uint32(st), io.Status)
			}
		}
	}
}

func TestReadOnlyQueue(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: mib, BlockSize: 512, Caps: allCaps})
	ro := g.open(0, volume.QueueOptions{ReadOnly: true})
	for _, op := range []block.Op{block.OpWrite, block.OpWriteZeroes, block.OpDiscard} {
		if st := ro.ask(request(op, 0, 0, 512)); st != block.EPERM {
			t.Errorf("%v ended with %v", op, st)
		}
	}
	for _, op := range []block.Op{block.OpRead, block.OpFlush, block.OpCache, block.OpBlockStatus} {
		io := request(op, 0, 0, 512)
		ro.submit(io)
		g.finish(0, block.OK)
		if ro.wait(); io.Status != block.OK {
			t.Errorf("%v ended with %v", op, io.Status)
		}
	}
	rw := request(block.OpWrite, 0, 0, 512)
	g.clients[0].submit(rw)
	g.finish(0, block.OK)
	if g.clients[0].wait(); rw.Status != block.OK {
		t.Errorf("the other queue's write ended with %v", rw.Status)
	}
}

// A stopped volume takes nothing new; what the device has, comes back.
func TestStopped(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: mib, BlockSize: 512, Caps: allCaps})
	old := request(block.OpWrite, 0, 0, 512)
	g.clients[0].submit(old)
	g.v.SetState(volume.Stopped, "another disk")
	for op := block.OpRead; op <= block.MaxOp; op++ {
		if st := g.clients[0].ask(request(op, 0, 0, 512)); st != block.EIO {
			t.Errorf("%v ended with %v", op, st)
		}
	}
	g.finish(0, block.OK)
	if g.clients[0].wait() != old || old.Status != block.OK {
		t.Errorf("the write under way ended with %v", old.Status)
	}
}

// An IO may be submitted again, from within Completed too, and carries nothing
// over from its last time.
func TestReuse(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: mib, BlockSize: 512, MaxTransfer: 512})
	c := g.clients[0]
	io := request(block.OpRead, 0, 0, 1024)
	c.submit(io)
	g.finish(0, block.EIO)
	g.finish(0, block.OK)
	if c.wait(); io.Status != block.EIO {
		t.Fatalf("ended with %v", io.Status)
	}
	for range 3 {
		c.submit(io)
		g.finish(0, block.OK)
		g.finish(0, block.OK)
		if c.wait(); io.Status != block.OK || io.Filled != 1024 || io.Owner != nil {
			t.Fatalf("again: ended with %v, %d filled", io.Status, io.Filled)
		}
	}
	g.on(0, func() {
		if n := c.q.InFlight(); n != 0 {
			t.Errorf("%d are in flight", n)
		}
	})
}
