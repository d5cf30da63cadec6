package ublk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// Any mix of requests and answers in any order: every request is answered once,
// with its own payload, and all buffers come back.
func TestSharedBuffersModel(t *testing.T) {
	for _, way := range []Copy{CopyUser, CopyGetData} {
		for seed := range uint64(30) {
			t.Run(fmt.Sprintf("%v/%d", way, seed), func(t *testing.T) { model(t, way, seed) })
		}
	}
}

func model(t *testing.T, way Copy, seed uint64) {
	x := newCopyRig(t, way, rigMaxIO*2)
	x.disk.hold = true
	rnd := rand.New(rand.NewPCG(seed, uint64(way)))
	mine := [rigDepth]bool{} // tags that the driver has
	want := [rigDepth][]byte{}
	for i := range mine {
		mine[i] = true
	}
	answered, offered := 0, 0
	orders := func() {
		for _, o := range x.h.orders(x.ring) {
			if o.op == x.q.op.getData {
				x.q.reap(iouring.CQE{UserData: uint64(o.tag)})
				continue
			}
			d := x.q.descs[o.tag]
			if mine[o.tag] || o.res != int32(d.sectors)<<9 {
				t.Errorf("%+v for %+v", o, d)
			}
			if !bytes.Equal(x.h.pages[o.tag], want[o.tag]) {
				t.Errorf("%+v: another payload", d)
			}
			mine[o.tag] = true
			answered++
		}
		x.q.goOn()
	}
	offer := func(tag int) {
		d := ioDesc{opFlags: uint32(rnd.IntN(2)), sectors: uint32(1 + rnd.IntN(16)), start: uint64(rnd.IntN(1000))}
		x.q.descs[tag], mine[tag] = d, false
		want[tag] = pattern(int(d.sectors)<<9, byte(offered))
		x.h.pages[tag] = slices.Clone(want[tag])
		res := int32(resOK)
		if d.opFlags == opRead {
			clear(x.h.pages[tag])
		} else if way == CopyGetData {
			res = resNeedData
		}
		x.q.reap(iouring.CQE{UserData: uint64(tag), Res: res})
		offered++
	}
	answer := func(io *volume.IO) {
		if !bytes.Equal(io.Data[0], want[io.Tag]) && io.Op == block.OpWrite {
			t.Errorf("tag %d: another payload at the disk", io.Tag)
		}
		if io.Op == block.OpRead {
			copy(io.Data[0], want[io.Tag])
		}
		x.disk.answer(io)
	}
	for range 200 {
		x.do(func() {
			if tag := rnd.IntN(rigDepth); mine[tag] {
				offer(tag)
			}
			x.q.goOn()
		})
		x.do(orders)
		x.do(func() {
			if n := len(x.disk.held); n > 0 && rnd.IntN(2) == 0 {
				i := rnd.IntN(n)
				io := x.disk.held[i]
				x.disk.held = slices.Delete(x.disk.held, i, i+1)
				answer(io)
			}
		})
	}
	for answered < offered {
		before := answered
		x.do(func() {
			all := x.disk.held
			x.disk.held = nil
			for _, io := range all {
				answer(io)
			}
		})
		for range 3 {
			x.do(orders)
		}
		if answered == before {
			t.Fatalf("%d of %d were answered, and nothing goes on", answered, offered)
		}
	}
	x.empty()
}
