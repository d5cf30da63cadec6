package volume_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// TestModel asks at random of disks with every combination of what they can
// do, with random limits, and compares each answer, the disk and what would
// survive a power cut with a model. The device judges what it is given.
func TestModel(t *testing.T) {
	rs := newReactors(t, 2)
	for caps := block.Caps(0); caps < 1<<8; caps++ {
		info := block.Info{Caps: modelCaps(caps)}
		seed := uint64(caps)
		rng := rand.New(rand.NewPCG(seed, 7))
		randomLimits(&info, rng)
		w := newWorld(t, rs[:1+caps%2], info, caps%37 == 0, rng)
		if caps%3 == 0 {
			w.f.fail = sometimes(rng)
		}
		w.run(150)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// modelCaps spreads eight bits over the capabilities that change what the
// volume does.
func modelCaps(bits block.Caps) (c block.Caps) {
	for i, one := range [...]block.Caps{
		block.CapFlush, block.CapFUA, block.CapDiscard, block.CapWriteZeroes,
		block.CapFastZero, block.CapBlockStatus, block.CapCache, block.CapFlushCoversAll,
	} {
		if bits>>i&1 != 0 {
			c |= one
		}
	}
	return c
}

// randomLimits gives a disk of up to a few hundred blocks limits of some of them.
func randomLimits(i *block.Info, rng *rand.Rand) {
	i.BlockSize = [...]uint32{1, 512, 4096}[rng.IntN(3)]
	unit := uint64(i.BlockSize)
	limit := func() uint64 { return unit * [...]uint64{0, 1, 2, 3, 5, 8, 40}[rng.IntN(7)] }
	i.Size = unit * uint64(100+rng.IntN(200))
	i.MaxTransfer, i.MaxZeroes, i.MaxDiscard = uint32(limit()), limit(), limit()
	if rng.IntN(16) == 0 {
		i.Caps |= block.CapReadOnly
	}
}

// sometimes has one request in ten fail, flushes never.
func sometimes(rng *rand.Rand) func(*volume.IO) block.Status {
	errs := [...]block.Status{block.EIO, block.ENOSPC, block.ESTALE, block.MaxStatus, block.MaxStatus + 1, 1 << 31}
	return func(io *volume.IO) block.Status {
		if io.Op == block.OpFlush || rng.IntN(10) != 0 {
			return block.OK
		}
		return errs[rng.IntN(len(errs))]
	}
}

// TestModelOfBigZeroes has write-zeroes emulated over several of the pieces
// that the volume writes.
func TestModelOfBigZeroes(t *testing.T) {
	rs := newReactors(t, 1)
	for _, max := range []uint32{0, 64 << 10, 1 << 20, 300 << 10} {
		t.Run(fmt.Sprint(max), func(t *testing.T) {
			info := block.Info{Size: 8 << 20, BlockSize: 4096, MaxTransfer: max, Caps: block.CapFlush}
			w := newWorld(t, rs, info, false, rand.New(rand.NewPCG(3, uint64(max))))
			w.run(200)
		})
	}
}
