package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"blockengine/internal/vhosttest"
	"blockengine/sdk/block"
)

// Every monitor that is known boots from a disk, uses it, stops it if it ever
// does, and goes on.
func TestMonitors(t *testing.T) {
	for _, p := range vhosttest.Personalities() {
		t.Run(p.Name, func(t *testing.T) {
			r := newRig(t)
			n := min(2, p.MaxQueues)
			f := r.open(func(o *vhosttest.Options) { o.Personality, o.Queues = p, n })
			for q := range n {
				useDisk(t, r, f, q)
			}
			if err := f.Stop(); err == nil {
				r.check(f.Start())
				useDisk(t, r, f, n-1)
			} else if p.Name != "firecracker" {
				t.Error(err)
			}
			r.eventually("all queues run", func() bool { return r.stats().Queues == n })
			if st := r.stats(); !st.Connected || st.Failures != 0 || st.Requests.Ops[block.OpWrite].Requests == 0 || st.Requests.InFlight != 0 {
				t.Errorf("%+v", st)
			}
			f.Close()
			r.eventually("it is known that the machine is gone", func() bool { return !r.stats().Connected && r.stats().Queues == 0 })
		})
	}
}

// useDisk makes each kind of request once.
func useDisk(t *testing.T, r *rig, f *vhosttest.Frontend, queue int) {
	t.Helper()
	d := f.Driver(queue)
	defer d.Close()
	sector := uint64(queue * 1024)
	data := pattern(64<<10, uint64(queue))
	r.check(d.Write(sector, data))
	if got := r.disk.content(int(sector)*512, len(data)); !bytes.Equal(got, data) {
		t.Fatal("something else is on the disk")
	}
	got, err := d.Read(sector, len(data))
	r.check(err)
	if !bytes.Equal(got, data) {
		t.Fatal("something else was read")
	}
	r.check(d.Flush())
	id, err := d.ID()
	r.check(err)
	if string(bytes.TrimRight(id, "\x00")) != "disk-1" {
		t.Errorf("serial %q", id)
	}
	if f.Features()&vhosttest.FDiscard != 0 {
		r.check(d.Discard(vhosttest.Range{Sector: sector, Sectors: 8}, vhosttest.Range{Sector: sector + 16, Sectors: 8}))
	}
	if f.Features()&vhosttest.FWriteZeroes != 0 {
		r.check(d.WriteZeroes(vhosttest.Range{Sector: sector + 32, Sectors: 8}))
		if got := r.disk.content(int(sector+32)*512, 4096); !bytes.Equal(got, make([]byte, 4096)) {
			t.Error("no zeroes were written")
		}
	}
	if _, err := d.Read(1<<30, 512); !errors.Is(err, vhosttest.ErrIO) {
		t.Errorf("a read beyond the end: %v", err)
	}
	if err := d.Do(&vhosttest.IO{Op: 99}); !errors.Is(err, vhosttest.ErrUnsupported) {
		t.Errorf("an unknown request: %v", err)
	}
}

// A load over both queues finds what it has written.
func TestLoad(t *testing.T) {
	for name, change := range map[string]func(*vhosttest.LoadOptions){
		"asleep":           func(*vhosttest.LoadOptions) {},
		"polling":          func(o *vhosttest.LoadOptions) { o.Poll = true },
		"indirect":         func(o *vhosttest.LoadOptions) { o.Layout.Indirect = true },
		"without events":   func(o *vhosttest.LoadOptions) { o.Options.Without = vhosttest.FEventIdx },
		"without inflight": func(o *vhosttest.LoadOptions) { o.Options.WithoutProtocol = vhosttest.PInflight },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			o := vhosttest.LoadOptions{Depth: 16, Length: 8 << 20, ReadPercent: 50, FlushEvery: 100, Verify: true, Run: 200 * time.Millisecond}
			o.Options = vhosttest.Options{Socket: r.path, Queues: 2}
			change(&o)
			res, err := vhosttest.Run(t.Context(), o)
			r.check(err)
			if res.Bad() != nil || res.Completed() == 0 {
				t.Errorf("%d requests: %v\n%s", res.Completed(), res.Bad(), r.log)
			}
		})
	}
}

// hold has the disk keep n writes of the driver's.
func (r *rig) hold(d *vhosttest.Driver, n int) []*vhosttest.IO {
	r.t.Helper()
	r.disk.setHold(true)
	var ios []*vhosttest.IO
	for i := range n {
		ios = append(ios, &vhosttest.IO{Op: vhosttest.OpOut, Sector: uint64(100 + i), Data: pattern(512, uint64(i))})
	}
	r.check(d.Submit(ios...))
	r.eventually("the requests are at the disk", func() bool { return r.disk.holding() == n })
	return ios
}

// A ring stops when nothing of it is outstanding any more, and not before.
func TestStopWaits(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 1)
	ios := r.hold(d, 5)
	stopped := make(chan error, 1)
	go func() { stopped <- f.Stop() }()
	r.eventually("queue 0 has stopped", func() bool { return r.stats().Queues == 1 })
	select {
	case err := <-stopped:
		t.Fatalf("stopped with requests outstanding: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	r.disk.release()
	r.check(d.Wait(ios...))
	r.check(<-stopped)
	r.check(f.Start())
	r.check(d.Flush())
}

// A ring that does not stop in time ends the connection, and still its memory
// stays until the volume has given it back.
func TestStopTakesTooLong(t *testing.T) {
	r := newRig(t, func(r *rig) { r.options.StopTimeout = 10 * time.Millisecond })
	f := r.open()
	d := r.driver(f, 0)
	ios := r.hold(d, 3)
	if err := f.Stop(); !errors.Is(err, vhosttest.ErrLost) {
		t.Fatalf("stopped: %v", err)
	}
	r.logged("still outstanding")
	if r.stats().Queues == 0 {
		t.Fatal("the queue is gone, and the disk has its memory")
	}
	r.disk.release()
	r.check(d.Wait(ios...))
	r.redial(f)
	r.check(d.Flush())
	if n := r.stats().Resubmitted; n != 0 {
		t.Errorf("%d requests were submitted again that had been finished", n)
	}
}

// A machine that hangs up and comes back finds its requests finished, once; the
// next connection waits for them.
func TestHangUp(t *testing.T) {
	for _, without := range []uint64{0, vhosttest.PInflight} {
		t.Run(fmt.Sprintf("without %#x", without), func(t *testing.T) {
			r := newRig(t)
			f := r.open(func(o *vhosttest.Options) { o.WithoutProtocol = without })
			d := r.driver(f, 0)
			ios := r.hold(d, 7)
			r.disk.requests()
			f.Hangup()
			r.eventually("the end is seen", func() bool { return strings.Contains(r.log.String(), "front-end disconnected") })
			r.disk.release()
			r.check(d.Wait(ios...))
			r.redial(f)
			r.check(d.Flush())
			if seen := r.disk.requests(); len(seen) != 1 || seen[0].Op != block.OpFlush {
				t.Errorf("the disk has seen %v", seen)
			}
		})
	}
}

// kill ends the server as SIGKILL would: from one moment to the next it touches
// nothing of the guest's any more.
func (r *rig) kill() {
	r.t.Helper()
	x := r.l.export.Load()
	for _, w := range r.s.workers {
		w.r.Do(func() {
			for q := range w.queues {
				if q.x == x {
					q.fail(errors.New("killed"))
				}
			}
		})
	}
	r.logged("killed")
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	old := r.l
	r.eventually("the connection is closed", func() bool { old.mu.Lock(); defer old.mu.Unlock(); return old.sock == nil })
	old.close()
	r.t.Cleanup(func() { _ = old.Remove(ctx) })
}

// What was in flight when the engine died is submitted again by the next one, in
// order, before anything new, and completes once.
func TestResubmission(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	ios := r.hold(d, 9)
	r.disk.requests()
	r.kill()
	lost(t, f)
	// Something new comes while nobody is there.
	late := &vhosttest.IO{Op: vhosttest.OpFlush}
	r.check(d.Submit(late))
	before := r.disk
	r.disk = newDisk(16 << 20)
	r.volume = newVolume(t, r.reactors, r.disk)
	r.export.Volume = r.volume
	r.up()
	r.redial(f)
	r.check(d.Wait(append(ios, late)...))
	seen := r.disk.requests()
	if len(seen) != 10 || r.stats().Resubmitted != 9 {
		t.Fatalf("%d requests, %d submitted again", len(seen), r.stats().Resubmitted)
	}
	for i := range ios {
		if seen[i].Op != block.OpWrite || seen[i].Offset != uint64(100+i)*512 || !bytes.Equal(r.disk.content((100+i)*512, 512), ios[i].Data) {
			t.Errorf("request %d: %v at %d", i, seen[i].Op, seen[i].Offset)
		}
	}
	if seen[9].Op != block.OpFlush {
		t.Errorf("the last one is %v", seen[9].Op)
	}
	before.release() // the dead engine's copies end in nothing
	r.check(d.Flush())
}

// Remove finishes and tells what is outstanding, and the next engine goes on
// with what has come meanwhile.
func TestRestart(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 1)
	ios := r.hold(d, 4)
	removed := make(chan error, 1)
	go func() { removed <- r.l.Remove(t.Context()) }()
	r.eventually("the queues take no more", func() bool { return r.stats().Queues <= 1 })
	late := &vhosttest.IO{Op: vhosttest.OpOut, Sector: 7, Data: pattern(512, 7)}
	r.eventually("it is stopping", func() bool {
		all := true
		for _, w := range r.s.workers {
			w.r.Do(func() {
				for q := range w.queues {
					all = all && q.phase != running
				}
			})
		}
		return all
	})
	r.check(d.Submit(late))
	r.disk.release()
	r.check(<-removed)
	lost(t, f)
	r.check(d.Wait(ios...))
	if late.Done {
		t.Error("a request was taken after the end")
	}
	if n := len(r.s.Stats().Exports); n != 0 {
		t.Errorf("%d exports are left", n)
	}
	r.up()
	r.redial(f)
	r.check(d.Wait(late))
	if st := r.stats(); st.Resubmitted != 0 {
		t.Errorf("%d requests were submitted again that had been finished", st.Resubmitted)
	}
}

func TestRemoveRunsOutOfTime(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	r.hold(d, 2)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := r.l.Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("removed: %v", err)
	}
	lost(t, f)
	r.disk.release()
	select {
	case <-r.l.left:
	case <-time.After(patience):
		t.Error("it does not end")
	}
	r.l.forgetTallies()
}

func TestRemoveBeforeAnything(t *testing.T) {
	r := newRig(t)
	s := NewServer(r.options)
	l, err := s.Listen(r.path + "2")
	r.check(err)
	r.check(l.Remove(t.Context()))
	r.check(l.Remove(t.Context()))
	if err := l.Start(r.export); err == nil {
		t.Error("it was started after its end")
	}
	r.check(s.Shutdown(t.Context()))
	if _, err := s.Listen(r.path + "3"); err == nil {
		t.Error("a server that is shut down listens")
	}
	if err := r.l.Start(r.export); err == nil || !strings.Contains(err.Error(), "another export") {
		t.Errorf("a second export: %v", err)
	}
}

// In client mode the machine listens, and the engine comes to it again and again.
func TestClientMode(t *testing.T) {
	r := newRig(t, func(r *rig) { r.client = true })
	f := r.open(func(o *vhosttest.Options) { o.Listen = true })
	useDisk(t, r, f, 0)
	f.Hangup()
	r.redial(f)
	useDisk(t, r, f, 1)
	if n := r.stats().Connections; n < 2 {
		t.Errorf("%d connections", n)
	}
}
