package vhostuser

import (
	"testing"
	"time"

	"blockengine/internal/vhosttest"
)

// addRegion and remRegion plug memory in and out.
func addRegion(f *vhosttest.Frontend, r region, fd int) error {
	return f.Conn().Acknowledge(vhosttest.Message{Request: vhosttest.AddMemReg, Flags: 1, Payload: u64(0, r.guest, r.size, r.user, r.offset), FDs: []int{fd}})
}

func remRegion(f *vhosttest.Frontend, r region) error {
	return f.Conn().Acknowledge(vhosttest.Message{Request: vhosttest.RemMemReg, Flags: 1, Payload: u64(0, r.guest, r.size, r.user, r.offset)})
}

// Under load rings are stopped and started, disabled and enabled, memory comes
// and goes, and interrupts are moved. No request fails, is lost or comes twice,
// and none hangs.
func TestChurn(t *testing.T) {
	for _, without := range []uint64{0, vhosttest.PInflight} {
		r := newRig(t)
		f := r.open(func(o *vhosttest.Options) { o.WithoutProtocol = without })
		load, err := vhosttest.StartLoad(t.Context(), vhosttest.LoadOptions{Frontend: f, Depth: 16, Length: 8 << 20,
			ReadPercent: 50, FlushEvery: 50, Verify: true, Run: time.Minute, Timeout: patience})
		r.check(err)
		fd := file(t, 4)
		extra := region{guest: 1 << 44, size: 16384, user: 1 << 45}
		for i := range 60 {
			before := load.Progress().Completed
			switch i % 4 {
			case 0:
				r.check(f.Stop())
				r.check(f.Start())
			case 1:
				for _, on := range []uint32{0, 1} {
					r.check(f.Conn().Acknowledge(vhosttest.Message{Request: vhosttest.SetVringEnable, Flags: 1, Payload: u32(uint32(i/4)%2, on)}))
				}
			case 2:
				r.check(addRegion(f, extra, fd))
			case 3:
				r.check(remRegion(f, extra))
			}
			r.eventually("the load goes on", func() bool { return load.Progress().Completed > before })
		}
		res, err := load.Stop()
		r.check(err)
		if res.Bad() != nil {
			t.Errorf("without %#x: %v\n%s", without, res.Bad(), r.log)
		}
		if n := r.stats().Resubmitted; n != 0 {
			t.Errorf("%d requests were submitted twice", n)
		}
	}
}

// The machine hangs up and comes back under load, again and again: with the
// region every request completes, once.
func TestReconnectsUnderLoad(t *testing.T) {
	r := newRig(t)
	f := r.open()
	load, err := vhosttest.StartLoad(t.Context(), vhosttest.LoadOptions{Frontend: f, Depth: 16, Length: 8 << 20,
		ReadPercent: 50, Verify: true, Run: time.Minute, Timeout: patience, Reconnect: true})
	r.check(err)
	for i := range 20 {
		before := load.Progress().Completed
		r.eventually("the load goes on", func() bool { return load.Progress().Completed > before+100 })
		r.check(r.l.Remove(t.Context())) // a planned restart
		if i%2 == 0 {
			time.Sleep(time.Millisecond)
		}
		r.up()
	}
	res, err := load.Stop()
	r.check(err)
	if res.Bad() != nil || len(res.Outages) == 0 {
		t.Errorf("%d outages: %v\n%s", len(res.Outages), res.Bad(), r.log)
	}
}
