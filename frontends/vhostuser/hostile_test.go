package vhostuser

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/engine/sys"
	"blockengine/internal/vhosttest"
)

// tolerated are misdeeds that end nothing here though they could.
var tolerated = map[string]string{
	"order: addresses before memory": "what a ring needs may come in any order; it waits",
}

// Whatever a front-end or a guest does wrong ends its own connection at most:
// nobody dies, another machine on the same engine works on, and nothing of it is
// left, see rig.end.
func TestMisdeeds(t *testing.T) {
	r := newRig(t)
	other := newRig(t, func(o *rig) { o.reactors = r.reactors; o.options.Reactors = r.reactors })
	bystander := other.driver(other.open(), 0)
	for _, m := range append(vhosttest.BadMessages(), vhosttest.BadRings()...) {
		t.Run(m.Name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), patience)
			defer stop()
			out, err := m.Commit(ctx, vhosttest.Options{Socket: r.path, Queues: 2, Redial: 2 * time.Millisecond, Timeout: 5 * time.Second})
			if errors.Is(err, sys.Errno(sys.EPIPE)) { // closed a moment ago
				out.Closed, err = true, nil
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, r.log)
			}
			ended := out.Closed || out.Refused != nil || out.Left
			switch {
			case m.Legal && ended && !out.Left:
				t.Errorf("legal, but %+v\n%s", out, r.log)
			case m.Fatal && !ended && tolerated[m.Name] == "":
				t.Errorf("nothing has come of it")
			}
			if err := bystander.Flush(); err != nil {
				t.Fatalf("another machine: %v", err)
			}
			r.log.reset()
		})
	}
	useDisk(t, r, r.open(), 1) // and the export itself serves the next one
}

// A machine whose memory has vanished is cut off with a line that says why.
func TestTruncatedMemory(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	r.check(d.Flush())
	for i := range 2 {
		r.check(f.Memory().Truncate(i, 0))
	}
	f.Ring(0).Kick()
	lost(t, f)
	r.logged("truncated")
	r.logged("guest memory of export")
	f.Close()
	useDisk(t, r, r.open(), 0)
}

// Memory comes and goes while rings run, and requests that are outstanding stay
// where they are until they are finished.
func TestMemoryWhileRunning(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	fd := file(t, 4)
	extra := region{guest: 1 << 44, size: 16384, user: 1 << 45}
	for range 3 {
		r.check(addRegion(f, extra, fd))
		r.check(d.Flush())
		ios := r.hold(d, 3)
		removed := make(chan error, 1)
		go func() { removed <- remRegion(f, extra) }()
		select {
		case err := <-removed:
			t.Fatalf("memory was given back with requests outstanding: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		r.disk.release()
		r.check(<-removed)
		r.check(d.Wait(ios...))
		r.check(d.Flush())
	}
	if n := r.stats().Resubmitted; n != 0 {
		t.Errorf("%d requests were submitted twice", n)
	}
}

// A ring that is disabled takes nothing, and goes on where it was when it is
// enabled, though nobody kicks again.
func TestDisabledRing(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	enable := func(on uint32) {
		t.Helper()
		r.check(f.Conn().Acknowledge(vhosttest.Message{Request: vhosttest.SetVringEnable, Flags: 1, Payload: vringState{0, on}.encode()}))
	}
	for range 3 {
		enable(0)
		r.disk.requests()
		io := &vhosttest.IO{Op: vhosttest.OpFlush}
		r.check(d.Submit(io))
		time.Sleep(5 * time.Millisecond)
		if seen := r.disk.requests(); len(seen) != 0 {
			t.Fatalf("a disabled ring was served: %v", seen)
		}
		enable(1)
		r.check(d.Wait(io))
	}
}

// A front-end that does not kick, and one that does not want to be told.
func TestRingsWithoutEvents(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	for _, m := range []vhosttest.Request{vhosttest.SetVringKick, vhosttest.SetVringCall} {
		r.check(f.Conn().Send(vhosttest.Message{Request: m, Flags: 1, Payload: encodeU64(0 | vringNoFD)}))
	}
	d.Poll = true
	for range 5 {
		r.check(d.Flush())
		time.Sleep(2 * time.Millisecond)
	}
}

func TestStartRefuses(t *testing.T) {
	r := newRig(t)
	for want, change := range map[string]func(*Export){
		"it has no volume": func(e *Export) { e.Volume = nil },
		"257 queues":       func(e *Export) { e.Queues = 257 },
		"-1 queues":        func(e *Export) { e.Queues = -1 },
		"serial number":    func(e *Export) { e.Serial = "more than twenty bytes" },
	} {
		e := r.export
		change(&e)
		l, err := r.s.Listen(r.path + "x")
		r.check(err)
		if err := l.Start(e); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"vm1"`) {
			t.Errorf("%s: %v", want, err)
		}
		r.check(l.Remove(t.Context()))
	}
	if _, err := r.s.Listen(r.path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a path in use: %v", err)
	}
	plain := filepath.Join(filepath.Dir(r.path), "f")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Listen(plain); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
}

// A front-end that redials for ever and is wrong each time does not flood the log.
func TestQuietLog(t *testing.T) {
	r := newRig(t)
	for range 30 {
		c, err := vhosttest.DialConn(r.path, patience)
		r.check(err)
		r.check(c.SendRaw(raw(999, 1, 0, ""), nil))
		select {
		case <-c.Lost():
		case <-time.After(patience):
			t.Fatal("not ended")
		}
		c.Close()
	}
	r.eventually("all are counted", func() bool { return r.stats().Failures == 30 })
	if n := strings.Count(r.log.String(), "message type 999"); n == 0 || n > 3*quietLines {
		t.Errorf("%d lines", n)
	}
}

// The region that we make cannot be truncated by whoever has it.
func TestInflightRegionIsSealed(t *testing.T) {
	r := newRig(t)
	f := r.open()
	info, b, err := f.Inflight()
	r.check(err)
	defer sys.Unmap(b)
	if info.Size == 0 || len(b) != int(info.Size) {
		t.Fatalf("%+v", info)
	}
	if b[8] != 1 { // version, of the first queue's part
		t.Errorf("version %d: the region is not in use", b[8])
	}
}
