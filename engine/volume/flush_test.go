package volume_test

import (
	"testing"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

const mib = 1 << 20

func flushInfo(caps block.Caps) block.Info {
	return block.Info{Size: mib, BlockSize: 512, Caps: block.CapFlush | caps}
}

func TestFlushVisitsEveryLane(t *testing.T) {
	g := newRig(t, 3, flushInfo(0))
	io := request(block.OpFlush, 0, 0, 0)
	g.clients[1].submit(io)
	for i := range g.rs {
		g.awaitHeld(i, 1)
	}
	for _, i := range []int{1, 0} {
		g.finish(i, block.OK)
		g.clients[1].none()
	}
	g.finish(2, block.OK)
	if g.clients[1].wait() != io || io.Status != block.OK {
		t.Errorf("the flush ended with %v", io.Status)
	}
}

func TestFlushVisitsOneLaneWhereThatCoversAll(t *testing.T) {
	g := newRig(t, 3, flushInfo(block.CapFlushCoversAll))
	io := request(block.OpFlush, 0, 0, 0)
	g.clients[2].submit(io)
	g.awaitHeld(2, 1)
	g.finish(2, block.OK)
	g.clients[2].wait()
	for i := range g.rs {
		g.on(i, func() {
			if n, want := g.f.chans[i].flushes, i/2; n != want {
				t.Errorf("%d flushes on reactor %d, want %d", n, i, want)
			}
		})
	}
}

// A failure on any lane is the flush's, whichever answers last.
func TestFlushFailsIfAnyLaneFails(t *testing.T) {
	for bad := range 3 {
		g := newRig(t, 3, flushInfo(0))
		io := request(block.OpFlush, 0, 0, 0)
		g.clients[0].submit(io)
		for i := range g.rs {
			g.awaitHeld(i, 1)
			st := block.OK
			if i == bad {
				st = block.ENOSPC
			}
			g.finish(i, st)
		}
		if g.clients[0].wait(); io.Status != block.ENOSPC {
			t.Errorf("lane %d failed, the flush ended with %v", bad, io.Status)
		}
	}
}

// FUA on a disk without it: the flush goes down when the write is done, to all
// lanes, and the write completes when the flush has.
func TestFUAByFlush(t *testing.T) {
	for name, op := range map[string]block.Op{"write": block.OpWrite, "zeroes": block.OpWriteZeroes, "discard": block.OpDiscard} {
		t.Run(name, func(t *testing.T) {
			info := flushInfo(block.CapWriteZeroes | block.CapDiscard)
			info.MaxTransfer, info.MaxZeroes, info.MaxDiscard = 4096, 4096, 4096
			g := newRig(t, 2, info)
			io := request(op, block.FUA, 0, 8192) // two parts
			g.clients[0].submit(io)
			g.awaitHeld(0, 2)
			g.finish(0, block.OK)
			if g.heldOn(0) != 1 || g.heldOn(1) != 0 {
				t.Fatal("the flush went down before the last part was done")
			}
			g.finish(0, block.OK)
			g.awaitHeld(0, 1)
			g.awaitHeld(1, 1)
			g.finish(1, block.OK)
			g.clients[0].none()
			g.finish(0, block.OK)
			if g.clients[0].wait(); io.Status != block.OK {
				t.Errorf("ended with %v", io.Status)
			}
		})
	}
}

func TestFUAByFlushOfAFailedWrite(t *testing.T) {
	g := newRig(t, 1, flushInfo(0))
	io := request(block.OpWrite, block.FUA, 0, 512)
	g.clients[0].submit(io)
	g.finish(0, block.ENOSPC)
	if g.clients[0].wait(); io.Status != block.ENOSPC || g.heldOn(0) != 0 {
		t.Errorf("ended with %v, and the device holds %d", io.Status, g.heldOn(0))
	}
}

// guestFlush has a client flush with an outcome of the device's.
func guestFlush(g *rig, c *client, st block.Status) block.Status {
	g.t.Helper()
	io := request(block.OpFlush, 0, 0, 0)
	c.submit(io)
	g.finish(c.i, st)
	c.wait()
	return io.Status
}

// Each queue is told once of a failed flush; one that opens when somebody has
// been told starts clean.
func TestFailedFlushIsToldToEveryQueueOnce(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	a, b := g.clients[0], g.open(0, volume.QueueOptions{})
	steps := []struct {
		who  *client
		disk block.Status
		want block.Status
	}{
		{a, block.OK, block.OK}, {a, block.EIO, block.EIO}, {a, block.OK, block.OK},
		{b, block.OK, block.EIO}, {b, block.OK, block.OK},
		{b, block.ENOSPC, block.ENOSPC}, {a, block.OK, block.ENOSPC}, {a, block.OK, block.OK}, {b, block.OK, block.OK},
		{a, block.EIO, block.EIO}, {b, block.ENOSPC, block.ENOSPC}, {a, block.OK, block.ENOSPC}, {b, block.OK, block.OK},
	}
	for i, s := range steps {
		if got := guestFlush(g, s.who, s.disk); got != s.want {
			t.Errorf("step %d: the flush gave %v, want %v", i, got, s.want)
		}
	}
	if late := g.open(0, volume.QueueOptions{}); guestFlush(g, late, block.OK) != block.OK {
		t.Error("a queue was told of a failure that others had been told of before it was there")
	}
}

// A failure that nobody has been told of is a later queue's to report, and
// reporting it there does not hide it from those that were there.
func TestUnreportedFailureWaitsForALaterQueue(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	g.v.LatchFlushError(block.ESTALE)
	late := g.open(0, volume.QueueOptions{})
	for _, c := range []*client{late, g.clients[0]} {
		if st := guestFlush(g, c, block.OK); st != block.ESTALE {
			t.Errorf("the flush gave %v, want the latched ESTALE", st)
		}
		if st := guestFlush(g, c, block.OK); st != block.OK {
			t.Errorf("the flush after it gave %v", st)
		}
	}
}

func TestLatchedErrorOnADiskWithoutFlush(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: mib, BlockSize: 512})
	g.v.LatchFlushError(block.EIO)
	if st := g.clients[0].ask(request(block.OpFlush, 0, 0, 0)); st != block.EIO {
		t.Errorf("the flush gave %v", st)
	}
	if st := g.clients[0].ask(request(block.OpFlush, 0, 0, 0)); st != block.OK {
		t.Errorf("the second flush gave %v", st)
	}
}

// A flush of the volume's own that fails also stood for all other writes.
func TestFailedInternalFlushIsLatched(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	io := request(block.OpWrite, block.FUA, 0, 512)
	g.clients[0].submit(io)
	g.finish(0, block.OK)
	g.finish(0, block.EIO)
	if g.clients[0].wait(); io.Status != block.EIO {
		t.Errorf("the write ended with %v", io.Status)
	}
	if st := guestFlush(g, g.clients[0], block.OK); st != block.EIO {
		t.Errorf("the flush after it gave %v", st)
	}
}

// A flush under way when a failure is latched may have begun before it: it
// tells of it.
func TestFailureWhileAFlushIsUnderWay(t *testing.T) {
	g := newRig(t, 1, flushInfo(block.CapFlushCoversAll))
	io := request(block.OpFlush, 0, 0, 0)
	g.clients[0].submit(io)
	g.v.LatchFlushError(block.ETIMEDOUT)
	g.finish(0, block.OK)
	if g.clients[0].wait(); io.Status != block.ETIMEDOUT {
		t.Errorf("the flush gave %v", io.Status)
	}
}
