package ublk

import (
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

func TestNoAllocationPerRequest(t *testing.T) {
	moved := func(_ int, b []byte, _ int64) (int, sys.Errno) { return len(b), 0 }
	for name, of := range map[string]func(*testing.T) *rig{
		"kernel":   func(t *testing.T) *rig { return newRig(t) },
		"get-data": func(t *testing.T) *rig { return newRigWith(t, CopyGetData, rigDepth*rigMaxIO) },
		"user":     func(t *testing.T) *rig { return newRigWith(t, CopyUser, rigMaxIO) }, // so that some wait
		"zero": func(t *testing.T) *rig {
			x, s := newZeroRig(t)
			s.fixed = make([]uint16, 0, 1<<16)
			return x.rig
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := of(t)
			x.q.pread, x.q.pwrite = moved, moved
			noAllocations(t, x)
		})
	}
}

func noAllocations(t *testing.T, x *rig) {
	if x.disk != nil {
		x.disk.asked = nil
	}
	descs := []ioDesc{{opFlags: opRead, sectors: 8}, {opFlags: opWrite, sectors: 8, start: 8}, {opFlags: opWrite | descFUA, sectors: 8, start: 16}, {opFlags: opRead, sectors: 1}}
	if x.q.copy == CopyGetData { // writes need a second step
		descs[1], descs[2] = descs[0], descs[3]
	}
	step := make(chan struct{})
	run := reactor.MailFunc(func() {
		for tag := range descs {
			x.q.descs[tag] = descs[tag]
			x.q.reap(iouring.CQE{UserData: uint64(tag)})
		}
		x.q.goOn()
	})
	done := reactor.MailFunc(func() { x.ring.clear(); step <- struct{}{} })
	per := testing.AllocsPerRun(200, func() {
		x.r.Post(run)
		for range 8 { // as many turns as those take that wait
			x.r.Post(done)
			<-step
		}
	})
	if per != 0 {
		t.Errorf("%v allocations for %d requests", per, len(descs))
	}
	if x.q.stats.Ops[block.OpRead].Requests == 0 || x.q.q.InFlight() != 0 || len(x.q.waiting) != 0 {
		t.Error("not all was done")
	}
}
