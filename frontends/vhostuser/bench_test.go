package vhostuser

import (
	"runtime"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/internal/vhosttest"
)

// pump keeps requests ready in a ring's descriptor table and sends them again
// and again. It allocates nothing.
type pump struct {
	t    testing.TB
	ring *vhosttest.Ring
	done [128]vhosttest.Completion
}

// newPump makes reads of 4 KiB, laid out as Linux does, for half of a ring of
// 256 descriptors.
func newPump(t testing.TB, f *vhosttest.Frontend, depth int) *pump {
	p := &pump{t: t, ring: f.Ring(0)}
	for i := range depth {
		head, err := f.Memory().Alloc(1, 64, 64)
		if err != nil {
			t.Fatal(err)
		}
		data, err := f.Memory().Alloc(1, 4096, 4096)
		if err != nil {
			t.Fatal(err)
		}
		n := uint16(3 * i)
		ne.PutUint64(head.B[8:], uint64(8*i))
		p.ring.SetDesc(n, vhosttest.Desc{Addr: head.Addr, Len: 16, Flags: vhosttest.DescNext, Next: n + 1})
		p.ring.SetDesc(n+1, vhosttest.Desc{Addr: data.Addr, Len: 4096, Flags: vhosttest.DescNext | vhosttest.DescWrite, Next: n + 2})
		p.ring.SetDesc(n+2, vhosttest.Desc{Addr: head.Addr + 16, Len: 1, Flags: vhosttest.DescWrite})
	}
	return p
}

// exchange sends depth requests and takes their completions.
func (p *pump) exchange(depth int) {
	p.ring.Quiet()
	for i := range depth {
		p.ring.Offer(uint16(3 * i))
	}
	p.ring.Publish()
	spins := 0
	for got := 0; got < depth; {
		n, err := p.ring.Reap(p.done[:])
		if err != nil {
			p.t.Fatal(err)
		}
		if got += n; n == 0 {
			if spins++; spins%1000 == 0 {
				runtime.Gosched()
			}
		}
	}
}

// newNullRig serves a disk that answers at once.
func newNullRig(t testing.TB, spin time.Duration, without uint64) (*rig, *vhosttest.Frontend) {
	r := newRig(t, func(r *rig) {
		r.reactors = newReactors(t, 1, spin)
		r.options.Reactors = r.reactors
		null := newNullDisk(1 << 30)
		r.export.Volume = volume.New(volume.Options{Name: "null", Reactors: r.reactors})
		if err := r.export.Volume.Attach(volume.Store(null), null.info); err != nil {
			t.Fatal(err)
		}
		r.export.Queues = 1
	})
	return r, r.open(func(o *vhosttest.Options) { o.Queues, o.QueueSize, o.WithoutProtocol = 1, 256, without })
}

// BenchmarkRequests is both sides together; an operation is one request.
func BenchmarkRequests(b *testing.B) {
	for _, c := range []struct {
		name    string
		depth   int
		spin    time.Duration
		without uint64
	}{
		{"64", 64, time.Millisecond, 0}, {"64-untracked", 64, time.Millisecond, vhosttest.PInflight},
		{"1", 1, time.Millisecond, 0}, {"1-asleep", 1, 0, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			_, f := newNullRig(b, c.spin, c.without)
			p := newPump(b, f, c.depth)
			p.exchange(c.depth)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += c.depth {
				p.exchange(c.depth)
			}
		})
	}
}

// A request costs no allocation, on any goroutine.
func TestNoAllocations(t *testing.T) {
	_, f := newNullRig(t, 0, 0)
	p := newPump(t, f, 64)
	for range 10 {
		p.exchange(64)
	}
	if n := testing.AllocsPerRun(200, func() { p.exchange(64) }); n >= 1 {
		t.Errorf("%v allocations for 64 requests", n)
	}
}
