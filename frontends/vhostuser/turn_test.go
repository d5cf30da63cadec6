package vhostuser

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/internal/vhosttest"
	"blockengine/sdk/block"
)

// Steps come in the order in which a batch passes them, and once for each batch,
// however many requests are in it.
func TestSteps(t *testing.T) {
	var mu sync.Mutex
	var steps []string
	Failpoint = func(s Step) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, s.String())
	}
	t.Cleanup(func() { Failpoint = nil })
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	r.check(d.Flush())
	mu.Lock()
	steps = nil
	mu.Unlock()
	var ios []*vhosttest.IO
	for range 20 {
		ios = append(ios, &vhosttest.IO{Op: vhosttest.OpFlush})
	}
	r.check(d.Submit(ios...))
	r.check(d.Wait(ios...))
	want := "fetch submit complete publish notify notified"
	r.eventually(want, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.HasSuffix(strings.Join(steps, " "), want) // the first flush may be telling yet
	})
	f.Close()
	mu.Lock()
	defer mu.Unlock()
	if n := len(slices.DeleteFunc(steps, func(s string) bool { return s != "fetch" })); n != 1 {
		t.Errorf("20 requests were fetched %d times", n)
	}
	if s := Step(99).String(); s != "unknown" {
		t.Error(s)
	}
}

// homed is a device whose server allows one connection only.
type homed struct {
	volume.Device
	home *reactor.Reactor
}

func (h homed) Home() *reactor.Reactor { return h.home }

// All queues run where the volume lives.
func TestVolumeWithAHome(t *testing.T) {
	r := newRig(t, func(r *rig) {
		v := volume.New(volume.Options{Name: "home", Reactors: r.reactors})
		if err := v.Attach(homed{volume.Store(r.disk), r.reactors[1]}, r.disk.info); err != nil {
			t.Fatal(err)
		}
		r.export.Volume = v
	})
	f := r.open()
	for q := range 2 {
		useDisk(t, r, f, q)
	}
	if a, b := r.s.workers[0].load.Load(), r.s.workers[1].load.Load(); a != 0 || b != 2 {
		t.Errorf("%d queues elsewhere, %d at home", a, b)
	}
}

// Else they are spread.
func TestQueuesAreSpread(t *testing.T) {
	r := newRig(t, func(r *rig) { r.export.Queues = 4 })
	r.open(func(o *vhosttest.Options) { o.Queues = 4 })
	r.eventually("two queues on each reactor", func() bool {
		return r.s.workers[0].load.Load() == 2 && r.s.workers[1].load.Load() == 2
	})
}

// A request of many ranges is carried out one by one, in its head's own memory.
func TestManyRanges(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	var ranges []vhosttest.Range
	for i := range 16 {
		ranges = append(ranges, vhosttest.Range{Sector: uint64(64 * i), Sectors: 8})
	}
	r.disk.requests()
	r.check(d.WriteZeroes(ranges...))
	seen := r.disk.requests()
	if len(seen) != 16 {
		t.Fatalf("%d requests", len(seen))
	}
	for i, s := range seen {
		if s.Op != block.OpWriteZeroes || s.Offset != uint64(64*i*512) || s.Length != 4096 || s.Flags != block.NoHole {
			t.Errorf("request %d: %v", i, fmt.Sprint(s))
		}
	}
}
