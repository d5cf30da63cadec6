package volume_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// world is a volume on a fake, a model of what its disk must hold, and a guest
// on each reactor that asks at random. Requests in flight never overlap, so
// that the model knows each one's outcome. The fake's mu guards the model too.
type world struct {
	t      testing.TB
	f      *fake
	v      *volume.Volume
	info   block.Info // as Attach was given it
	model  []byte
	acked  []uint64 // version of each block that a guest was told of
	busy   []bool   // blocks that a request in flight touches
	guests []*guest
}

// newWorld makes a volume on the reactors; all randomness comes from rng.
func newWorld(t testing.TB, rs []*reactor.Reactor, info block.Info, readOnly bool, rng *rand.Rand) *world {
	f := newFake(t, info, rng)
	w := &world{t: t, f: f, info: info, model: make([]byte, info.Size),
		acked: make([]uint64, len(f.cached)), busy: make([]bool, len(f.cached))}
	scribble(f.disk, rng)
	copy(w.model, f.disk)
	w.v = volume.New(volume.Options{Name: "w", Reactors: rs, Log: quiet, ReadOnly: readOnly})
	if err := w.v.Attach(f, info); err != nil {
		t.Fatalf("%v: %+v", err, info)
	}
	for _, r := range rs {
		w.guests = append(w.guests, &guest{w: w, r: r, readOnly: readOnly, done: make(chan struct{})})
	}
	return w
}

// run has every guest ask n requests and waits for them all.
func (w *world) run(n int) {
	w.t.Helper()
	for _, g := range w.guests {
		g.left = n
		g.r.Do(g.start)
	}
	for _, g := range w.guests {
		select {
		case <-g.done:
		case <-time.After(patience):
			w.t.Fatalf("requests are missing: %s", g.missing())
		}
	}
	for _, g := range w.guests {
		g.r.Do(g.q.Close)
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if !bytes.Equal(w.f.disk, w.model) {
		w.t.Error("the disk holds something else than the model in the end")
	}
}

// guest asks at random on one reactor.
type guest struct {
	w        *world
	r        *reactor.Reactor
	q        *volume.Queue
	readOnly bool
	left     int
	flying   []*ask
	done     chan struct{}
}

// ask is a request with what is expected of it.
type ask struct {
	io     volume.IO
	want   block.Status // of a request that must be refused
	first  uint64       // blocks [first, last) are busy
	last   uint64
	flags  block.Flags // as asked for
	length uint64
	buf    []byte   // what Data points into
	need   []uint64 // versions that a flush must have made durable
}

func (g *guest) start() {
	var err error
	if g.q, err = g.w.v.Open(g.r, g, volume.QueueOptions{}); err != nil {
		g.w.t.Errorf("open a queue: %v", err)
		close(g.done)
		return
	}
	g.more()
}

func (g *guest) missing() (s string) {
	g.r.Do(func() {
		for _, a := range g.flying {
			s += fmt.Sprintf("%v [%d,+%d) ", a.io.Op, a.io.Offset, a.length)
		}
		s += fmt.Sprintf("%d not asked yet", g.left)
	})
	return s
}

// more submits a batch.
func (g *guest) more() {
	w := g.w
	w.f.mu.Lock()
	var batch []*volume.IO
	for range min(g.left, 1+w.f.rng.IntN(6)) {
		a := g.compose()
		g.left--
		g.flying = append(g.flying, a)
		batch = append(batch, &a.io)
	}
	w.f.mu.Unlock()
	g.q.Submit(batch)
	clear(batch) // the slice is ours again
}

// Completed checks every outcome and asks on.
func (g *guest) Completed(batch []*volume.IO) {
	for _, io := range batch {
		i := slices.IndexFunc(g.flying, func(a *ask) bool { return &a.io == io })
		if i < 0 {
			g.w.t.Errorf("%v [%d,+%d) completed twice", io.Op, io.Offset, io.Length)
			continue
		}
		a := g.flying[i]
		g.flying = slices.Delete(g.flying, i, i+1)
		g.w.f.mu.Lock()
		g.check(a)
		g.w.f.mu.Unlock()
	}
	switch {
	case g.left > 0 && len(g.flying) < 12:
		g.more()
	case g.left == 0 && len(g.flying) == 0:
		if n := g.q.InFlight(); n != 0 {
			g.w.t.Errorf("the queue says that %d requests are in flight, and all have come back", n)
		}
		close(g.done)
	}
}

// compose makes a request, most often a good one.
func (g *guest) compose() *ask {
	rng := g.w.f.rng
	a := &ask{flags: block.Flags(rng.IntN(16))}
	a.io.Op = block.Op(1 + rng.IntN(int(block.MaxOp)))
	a.io.Flags = a.flags
	a.io.Tag = rng.Uint64()
	switch {
	case rng.IntN(8) == 0:
		g.spoil(a)
	case a.io.Op == block.OpFlush:
		a.io.Offset, a.io.Length = rng.Uint64(), rng.Uint64() // mean nothing
		a.need = slices.Clone(g.w.acked)
	case !g.place(a):
		a.io.Op, a.need = block.OpFlush, slices.Clone(g.w.acked)
	}
	if a.io.Op.Modifies() && (g.readOnly || g.w.info.Has(block.CapReadOnly)) {
		a.want = block.EPERM
	}
	a.length = a.io.Length
	return a
}

// place gives a request a range that no other one in flight touches.
func (g *guest) place(a *ask) bool {
	w, rng := g.w, g.w.f.rng
	unit := uint64(w.info.BlockSize)
	for range 8 {
		first := uint64(rng.IntN(len(w.busy)))
		last := min(first+1+uint64(rng.IntN(1<<rng.IntN(8))), uint64(len(w.busy)))
		if slices.Contains(w.busy[first:last], true) {
			continue
		}
		for b := first; b < last; b++ {
			w.busy[b] = true
			delete(w.f.failed, b)
		}
		a.first, a.last = first, last
		a.io.Offset, a.io.Length = first*unit, (last-first)*unit
		g.equip(a)
		return true
	}
	return false
}

// equip gives a request its payload, in odd pieces, or its room for extents.
func (g *guest) equip(a *ask) {
	rng := g.w.f.rng
	if a.io.Op == block.OpBlockStatus {
		a.io.Extents = make([]block.Extent, 0, 1+rng.IntN(6))
	}
	if !a.io.Op.HasPayload() {
		return
	}
	a.buf = make([]byte, a.io.Length)
	scribble(a.buf, rng)
	pieces := 1 + rng.IntN(1<<rng.IntN(5)) // one to sixteen, some of them empty
	rest := a.buf
	for range pieces - 1 {
		n := rng.IntN(len(rest) + 1)
		a.io.Data = append(a.io.Data, rest[:n:n])
		rest = rest[n:]
	}
	a.io.Data = append(a.io.Data, rest)
}

// scribble fills b with bytes that differ from those of any other time and, by
// place, from each other.
func scribble(b []byte, rng *rand.Rand) {
	x := rng.Uint64() | 1
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
}

// spoil makes a request that must be refused, and says how.
func (g *guest) spoil(a *ask) {
	rng, info := g.w.f.rng, g.w.info
	unit := uint64(info.BlockSize)
	beyond := block.EINVAL
	if a.io.Op == block.OpWrite || a.io.Op == block.OpWriteZeroes {
		beyond = block.ENOSPC
	}
	if a.io.Op.HasPayload() {
		a.io.Data = [][]byte{make([]byte, unit)}
	}
	a.io.Extents = make([]block.Extent, 0, 1)
	a.io.Offset, a.io.Length, a.want = 0, unit, block.EINVAL
	if a.io.Op == block.OpFlush {
		a.io.Op = block.MaxOp + 1 + block.Op(rng.IntN(200))
		return
	}
	switch rng.IntN(6) {
	case 0: // begins beyond the end
		a.io.Offset, a.want = info.Size+unit*uint64(1+rng.IntN(9)), beyond
	case 1: // reaches beyond the end
		a.io.Offset, a.io.Length, a.want = info.Size-unit, 2*unit, beyond
	case 2: // wraps around
		a.io.Offset, a.io.Length, a.want = unit, -unit, beyond
	case 3: // nothing
		a.io.Length = 0
	case 4: // not a multiple of the block size, if that is possible
		if unit == 1 {
			a.io.Op = 0
			return
		}
		a.io.Offset, a.io.Length = uint64(rng.IntN(2))*unit, unit-1
	case 5: // another payload than it says, or no room for the answer
		switch {
		case a.io.Op.HasPayload():
			a.io.Data = append(a.io.Data, make([]byte, 1+rng.IntN(3)))
		case a.io.Op == block.OpBlockStatus:
			a.io.Extents = nil
		default:
			a.io.Op = 0
		}
	}
}
