package virtqueue

import (
	"errors"
	"strings"
	"testing"
)

// lengths of the pieces of b.
func lengths(b [][]byte) []int {
	var n []int
	for _, p := range b {
		n = append(n, len(p))
	}
	return n
}

func same[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestChainLayouts: what a chain with each legal layout is read as.
func TestChainLayouts(t *testing.T) {
	const N, W, I = descNext, descWrite, descIndirect
	for name, c := range map[string]struct {
		set         func(r *rig, b uint64)
		read, write []int
	}{
		"one to read":  {func(r *rig, b uint64) { r.set(3, desc{b, 7, 0, 9}) }, []int{7}, nil},
		"one to write": {func(r *rig, b uint64) { r.set(3, desc{b, 7, W, 9}) }, nil, []int{7}},
		"header, data, status": {func(r *rig, b uint64) {
			r.set(3, desc{b, 16, N, 1})
			r.set(1, desc{b + 16, 512, N | W, 7})
			r.set(7, desc{b + 528, 1, W, 3})
		}, []int{16}, []int{512, 1}},
		"all of the queue": {func(r *rig, b uint64) {
			for i := range uint16(8) {
				r.set(i, desc{b, 1, N, (i + 1) & 7})
			}
			r.set(2, desc{b, 1, W, 3})
		}, []int{1, 1, 1, 1, 1, 1, 1}, []int{1}},
		"empty ones, wherever they point": {func(r *rig, b uint64) {
			r.set(3, desc{0, 0, N, 4}, desc{b, 5, N, 5}, desc{^uint64(0), 0, N | W, 6}, desc{b, 6, W, 0})
		}, []int{5}, []int{6}},
		"nothing but an empty one": {func(r *rig, b uint64) { r.set(3, desc{0, 0, 0, 0}) }, nil, nil},
		"indirect": {func(r *rig, b uint64) {
			r.set(3, r.indirect(b+64, desc{b, 16, N, 2}, desc{b, 1, W, 0}, desc{b, 512, N | W, 1}))
		}, []int{16}, []int{512, 1}},
		"indirect, said to be for writing": {func(r *rig, b uint64) {
			d := r.indirect(b+64, desc{b, 16, 0, 0})
			d.flags |= W
			r.set(3, d)
		}, []int{16}, nil},
		"direct ones, then indirect": {func(r *rig, b uint64) {
			r.set(3, desc{b, 16, N, 5})
			r.set(5, r.indirect(b+64, desc{b, 3, N, 1}, desc{b, 1, W, 0}))
		}, []int{16, 3}, []int{1}},
		"indirect, not aligned": {func(r *rig, b uint64) {
			r.set(3, r.indirect(b+61, desc{b, 16, N, 1}, desc{b, 1, W, 0}))
		}, []int{16}, []int{1}},
		"indirect, over two regions": {func(r *rig, b uint64) {
			r.set(3, r.indirect(r.extra-24, desc{b, 16, N, 1}, desc{b, 1, N | W, 2}, desc{b, 2, W, 2}))
		}, []int{16}, []int{1, 2}},
		"buffer over two regions": {func(r *rig, b uint64) {
			r.set(3, desc{r.extra - 10, 16, N, 4}, desc{r.extra - 1, 3, W, 0})
		}, []int{10, 6}, []int{1, 2}},
		"as long as the memory": {func(r *rig, b uint64) {
			r.set(3, desc{ramBase, uint32(len(r.ram)), W, 0})
		}, nil, []int{0, 1}}, // filled in below
	} {
		r := newRig(t, 8, false, 0)
		cut := r.extra - ramBase
		m, err := NewMemory([]Region{{ramBase, r.ram[:cut]}, {r.extra, r.ram[cut:]}})
		if err != nil {
			t.Fatal(err)
		}
		cfg := r.config()
		cfg.Memory = m
		q := r.queueOf(cfg)
		c.set(r, r.buffer(0))
		head := uint16(3)
		r.offer(head)
		got := pop(t, q, 2)
		if len(got) != 1 || got[0].Head != head {
			t.Fatalf("%s: %+v", name, got)
		}
		want := c.write
		if name == "as long as the memory" {
			want = []int{int(cut), len(r.ram) - int(cut)}
		}
		sum := func(n []int) (s uint64) {
			for _, x := range n {
				s += uint64(x)
			}
			return s
		}
		if g := &got[0]; !same(lengths(g.Read), c.read) || !same(lengths(g.Write), want) || g.ReadLen != sum(c.read) || g.WriteLen != sum(want) {
			t.Errorf("%s: read %v (%d), write %v (%d)", name, lengths(g.Read), g.ReadLen, lengths(g.Write), g.WriteLen)
		}
	}
}

// TestChainRefused: each break of the rules ends the queue with an error that
// says which, and gives the chains before it.
func TestChainRefused(t *testing.T) {
	const N, W, I = descNext, descWrite, descIndirect
	table := func(r *rig, b uint64, ds ...desc) desc { return r.indirect(b+64, ds...) }
	for name, c := range map[string]struct {
		set  func(r *rig, b uint64)
		says string
	}{
		"circle of one":           {func(r *rig, b uint64) { r.set(3, desc{b, 1, N, 3}) }, "circle"},
		"circle of two":           {func(r *rig, b uint64) { r.set(3, desc{b, 1, N, 4}, desc{b, 1, N, 3}) }, "circle"},
		"circle of empty ones":    {func(r *rig, b uint64) { r.set(3, desc{b, 0, N, 3}) }, "circle"},
		"goes on outside":         {func(r *rig, b uint64) { r.set(3, desc{b, 1, N, 8}) }, "goes on at descriptor 8"},
		"write, then read":        {func(r *rig, b uint64) { r.set(3, desc{b, 1, N | W, 4}, desc{b, 1, 0, 0}) }, "comes after"},
		"empty write, then read":  {func(r *rig, b uint64) { r.set(3, desc{b, 0, N | W, 4}, desc{b, 1, 0, 0}) }, "comes after"},
		"buffer outside":          {func(r *rig, b uint64) { r.set(3, desc{5, 1, 0, 0}) }, "nothing is mapped at 0x5"},
		"buffer ends outside":     {func(r *rig, b uint64) { r.set(3, desc{ramBase, 0xffffffff, W, 0}) }, "nothing is mapped"},
		"buffer begins before":    {func(r *rig, b uint64) { r.set(3, desc{ramBase - 1, 8, W, 0}) }, "nothing is mapped"},
		"buffer wraps":            {func(r *rig, b uint64) { r.set(3, desc{^uint64(0), 8, W, 0}) }, "nothing is mapped"},
		"table in table":          {func(r *rig, b uint64) { r.set(3, table(r, b, desc{b, 16, I, 0})) }, "within"},
		"table with a next":       {func(r *rig, b uint64) { d := table(r, b, desc{b, 1, 0, 0}); d.flags |= N; r.set(3, d) }, "after it"},
		"table of 15 bytes":       {func(r *rig, b uint64) { r.set(3, desc{b, 15, I, 0}) }, "15 bytes"},
		"table of no bytes":       {func(r *rig, b uint64) { r.set(3, desc{b, 0, I, 0}) }, "0 bytes"},
		"table too long":          {func(r *rig, b uint64) { r.set(3, desc{b, 9 * 16, I, 0}) }, "9 descriptors"},
		"table of 4 GiB":          {func(r *rig, b uint64) { r.set(3, desc{b, 0xfffffff0, I, 0}) }, "descriptors"},
		"table outside":           {func(r *rig, b uint64) { r.set(3, desc{7, 16, I, 0}) }, "indirect table: guest memory 0x7"},
		"table ends outside":      {func(r *rig, b uint64) { r.set(3, desc{ramBase + uint64(len(r.ram)) - 16, 32, I, 0}) }, "indirect table"},
		"table's next is outside": {func(r *rig, b uint64) { r.set(3, table(r, b, desc{b, 1, N, 1})) }, "there are 1"},
		"table runs in a circle":  {func(r *rig, b uint64) { r.set(3, table(r, b, desc{b, 1, N, 0})) }, "circle"},
		"too long with its table": {func(r *rig, b uint64) {
			r.set(3, desc{b, 1, N, 4}, table(r, b, desc{b, 1, N, 1}, desc{b, 1, N, 2}, desc{b, 1, N, 3}, desc{b, 1, N, 4},
				desc{b, 1, N, 5}, desc{b, 1, N, 6}, desc{b, 1, N, 7}, desc{b, 1, 0, 0}))
		}, "more than 8"},
	} {
		r := newRig(t, 8, false, 2)
		q := r.queueOf(r.tracked())
		c.set(r, r.buffer(0))
		r.set(1, desc{r.buffer(1), 9, 0, 0})
		r.offer(1, 3, 1)
		got := make([]Chain, 3)
		n, err := q.Pop(got)
		if n != 1 || got[0].Head != 1 || !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "descriptor 3") {
			t.Errorf("%s: %d chains, error %v, want one that says %q", name, n, err, c.says)
		}
		if n, again := q.Pop(got); n != 0 || again != err || q.Err() != err || q.HasWork() || q.Arm() {
			t.Errorf("%s: the queue goes on: %d, %v", name, n, again)
		}
		if q.Outstanding() != 1 || q.Avail() != 1 || r.mark(1) != 1 || r.mark(3) != 0 {
			t.Errorf("%s: outstanding %d, next %d, marks %d %d", name, q.Outstanding(), q.Avail(), r.mark(1), r.mark(3))
		}
		if !panics(func() { q.Push(3, 0) }) {
			t.Errorf("%s: Push of the bad chain passed", name)
		}
		q.Push(1, 0)
		if !q.Publish() || r.usedIdx() != 1 {
			t.Errorf("%s: the good chain cannot be finished", name)
		}
	}
}

func TestIndirectNotNegotiated(t *testing.T) {
	r := newRig(t, 8, false, 0)
	c := r.config()
	c.Indirect = false
	q := r.queueOf(c)
	r.set(0, r.indirect(r.buffer(1), desc{r.buffer(0), 1, 0, 0}))
	r.offer(0)
	if _, err := q.Pop(make([]Chain, 1)); err == nil || !strings.Contains(err.Error(), "not negotiated") {
		t.Errorf("error %v", err)
	}
}

// TestEdges: a chain cannot have more pieces than buffers and edges to go over.
func TestEdges(t *testing.T) {
	r := newRig(t, 16, false, 0)
	var regions []Region
	for i := range 10 {
		regions = append(regions, Region{r.extra + uint64(i), r.at(r.extra+uint64(i), 1)})
	}
	m, err := NewMemory(regions)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		each []uint32 // length of each buffer
		ok   bool
	}{{[]uint32{10}, true}, {[]uint32{6, 6}, true}, {[]uint32{6, 7}, false}, {[]uint32{10, 10, 10}, false}} {
		cfg := r.config()
		cfg.Memory = m
		cfg.LastAvail = r.idx
		q := r.queueOf(cfg)
		for i, n := range c.each {
			r.set(uint16(i), desc{r.extra, n, descNext, uint16(i + 1)})
		}
		r.set(uint16(len(c.each)), desc{r.extra, 1, 0, 0})
		r.offer(0)
		got := make([]Chain, 1)
		n, err := q.Pop(got)
		if c.ok && (n != 1 || len(got[0].Read) > 1+len(c.each)+len(regions)) || c.ok != (err == nil) {
			t.Errorf("%v: %d chains, error %v", c.each, n, err)
		}
	}
}

// TestMaxChain: Linux fills tables up to the segment limit, whatever the size of
// the queue.
func TestMaxChain(t *testing.T) {
	for n, ok := range map[int]bool{20: true, 21: false} {
		r := newRig(t, 8, false, 0)
		c := r.config()
		c.MaxChain = 20
		q := r.queueOf(c)
		ds := make([]desc, n)
		for i := range ds {
			ds[i] = desc{r.buffer(0), 1, descNext, uint16(i + 1)}
		}
		ds[n-1].flags = 0
		r.set(0, r.indirect(r.extra, ds...))
		r.offer(0)
		got := make([]Chain, 1)
		k, err := q.Pop(got)
		if ok && (err != nil || k != 1 || len(got[0].Read) != n) || !ok && err == nil {
			t.Errorf("%d: %d %v", n, k, err)
		}
	}
}

// TestSetMemory: buffers are looked up in the new memory, chains that are out
// stay where they were.
func TestSetMemory(t *testing.T) {
	r := newRig(t, 4, false, 0)
	q := r.queue()
	r.set(0, desc{r.buffer(0), 1, 0, 0}, desc{0x10, 1, 0, 0}, desc{r.buffer(0), 1, 0, 0})
	r.offer(0)
	old := pop(t, q, 1)[0]
	other := []byte{42}
	m, err := NewMemory([]Region{{0x10, other}})
	if err != nil {
		t.Fatal(err)
	}
	q.SetMemory(m)
	r.offer(1)
	if got := pop(t, q, 1)[0]; &got.Read[0][0] != &other[0] || &old.Read[0][0] != &r.at(r.buffer(0), 1)[0] {
		t.Error("a piece is not where it should be")
	}
	r.offer(2)
	if _, err := q.Pop(make([]Chain, 1)); err == nil {
		t.Error("the old memory is still looked at")
	}
}
