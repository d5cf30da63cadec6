package virtqueue

import (
	"slices"
	"testing"
)

// TestModel does random things on both sides and holds each chain and each
// completion against the driver's books, with and without an in-flight region.
func TestModel(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for seed := range uint64(rounds) {
		size := uint16(1) << (seed % 9)
		d := newDriver(t, seed, size, uint16(seed*4111), seed%2 == 0)
		c := d.tracked()
		if seed%3 == 0 {
			c.Inflight, c.LastAvail = nil, d.taken
		}
		v := &device{d: d, q: d.queueOf(c)}
		for range 300 {
			v.act(d.rng.IntN(8))
			if v.q.Outstanding() < len(v.held) {
				t.Fatalf("outstanding %d, held %d", v.q.Outstanding(), len(v.held))
			}
		}
		for v.fetch(5) > 0 {
		}
		v.finish(len(v.held))
		v.q.Publish()
		d.reap()
		if !slices.IsSorted(v.seqs) || uint64(len(v.seqs)) != d.seq || len(d.live) > 0 || v.q.Outstanding() != 0 {
			t.Fatalf("seed %d: %d of %d served, %d left, in order: %v", seed, len(v.seqs), d.seq, len(d.live), slices.IsSorted(v.seqs))
		}
		if d.seq < 5 {
			t.Fatalf("seed %d: only %d requests", seed, d.seq)
		}
	}
}

// act does one thing.
func (v *device) act(what int) {
	d, was := v.d, v.d.usedIdx()
	switch what {
	case 0, 1:
		d.add(1 + d.rng.IntN(8))
	case 2, 3:
		v.fetch(1 + d.rng.IntN(8))
	case 4:
		v.finish(d.rng.IntN(len(v.held) + 1))
		if d.usedIdx() != was {
			d.t.Fatal("visible before Publish")
		}
	case 5:
		v.q.Publish()
		d.reap()
	case 6:
		v.q.Suppress()
	case 7:
		if more := v.q.Arm(); more != (d.idx != v.q.Avail()) || more != v.q.HasWork() {
			d.t.Fatalf("more %v, at %d of %d", more, v.q.Avail(), d.idx)
		}
	}
}
