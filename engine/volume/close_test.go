package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// closeVolume closes while the test answers the last flush.
func closeVolume(g *rig, answer func()) error {
	g.t.Helper()
	for _, c := range g.clients {
		g.on(c.i, c.q.Close)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- g.v.Close(ctx) }()
	answer()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		g.t.Fatal("Close does not return")
		return nil
	}
}

func TestCloseFlushesEveryLane(t *testing.T) {
	g := newRig(t, 2, flushInfo(0))
	err := closeVolume(g, func() {
		for i := range g.rs {
			g.awaitHeld(i, 1)
			g.finish(i, block.OK)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if s, why := g.v.State(); s != volume.Stopped || why != "closed" {
		t.Errorf("the volume is %v: %s", s, why)
	}
	for i, c := range g.f.chans {
		if !c.closed || c.flushes != 1 {
			t.Errorf("channel %d: closed %v after %d flushes", i, c.closed, c.flushes)
		}
	}
	if g.f.closes != 1 {
		t.Errorf("the device was closed %d times", g.f.closes)
	}
}

func TestCloseTellsOfFailures(t *testing.T) {
	g := newRig(t, 1, flushInfo(0))
	g.f.shutErr = errors.New("cannot let go")
	err := closeVolume(g, func() { g.awaitHeld(0, 1); g.finish(0, block.ENOSPC) })
	if !errors.Is(err, block.ENOSPC) || !errors.Is(err, g.f.shutErr) || !strings.Contains(err.Error(), `"vol"`) {
		t.Errorf("%v", err)
	}
}

// A failure that no guest has been told of is the operator's to hear.
func TestCloseTellsOfLatchedFailure(t *testing.T) {
	g := newRig(t, 1, flushInfo(0))
	g.v.LatchFlushError(block.ESTALE)
	if err := closeVolume(g, func() { g.awaitHeld(0, 1); g.finish(0, block.OK) }); !errors.Is(err, block.ESTALE) {
		t.Errorf("%v", err)
	}
}

func TestCloseOfAVolumeThatIsAway(t *testing.T) {
	g := newRig(t, 1, flushInfo(0))
	g.v.SetState(volume.Away, "gone")
	if err := closeVolume(g, func() {}); err != nil || g.f.chans[0].flushes != 0 || g.f.closes != 1 {
		t.Errorf("%v, with %d flushes and closed %d times", err, g.f.chans[0].flushes, g.f.closes)
	}
}

func TestCloseOfAVolumeNobodyUsed(t *testing.T) {
	v := volume.New(volume.Options{Name: "v", Log: quiet})
	if err := v.Close(context.Background()); err != nil {
		t.Errorf("without a disk: %v", err)
	}
	v = volume.New(volume.Options{Name: "v", Log: quiet})
	f := newFake(t, block.Info{}, nil)
	if err := v.Attach(f, block.Info{Size: mib, Caps: block.CapFlush}); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(context.Background()); err != nil || f.closes != 1 {
		t.Errorf("without a queue: %v, closed %d times", err, f.closes)
	}
}

// panics reports whether f does.
func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestQueueUsedWrongly(t *testing.T) {
	g := newRig(t, 1, block.Info{Size: mib, BlockSize: 512})
	c := g.clients[0]
	c.submit(request(block.OpRead, 0, 0, 512))
	g.on(0, func() {
		if !panics(c.q.Close) {
			t.Error("a queue was closed with a request in flight")
		}
	})
	g.finish(0, block.OK)
	c.wait()
	g.on(0, func() {
		c.q.Close()
		if !panics(func() { c.q.Submit([]*volume.IO{request(block.OpRead, 0, 0, 512)}) }) {
			t.Error("a closed queue took a request")
		}
	})
}
