package virtqueue

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(c *Config)
		says string
	}{
		"no size":         {func(c *Config) { c.Size = 0 }, "size 0"},
		"size 3":          {func(c *Config) { c.Size = 3 }, "power of two"},
		"size 2048":       {func(c *Config) { c.Size = 2048 }, "at most 1024"},
		"no memory":       {func(c *Config) { c.Memory = nil }, "no guest memory"},
		"short table":     {func(c *Config) { c.Desc = c.Desc[:len(c.Desc)-1] }, "descriptor table has 127 bytes"},
		"short avail":     {func(c *Config) { c.Avail = c.Avail[:21] }, "available ring has 21 bytes"},
		"short used":      {func(c *Config) { c.Used = c.Used[:69] }, "used ring has 69 bytes"},
		"no used":         {func(c *Config) { c.Used = nil }, "used ring"},
		"crooked table":   {func(c *Config) { c.Desc = alignedBytes(200)[8:] }, "descriptor table is not aligned to 16"},
		"crooked avail":   {func(c *Config) { c.Avail = alignedBytes(200)[1:] }, "available ring is not aligned to 2"},
		"crooked used":    {func(c *Config) { c.Used = alignedBytes(200)[2:] }, "used ring is not aligned to 4"},
		"chain too short": {func(c *Config) { c.MaxChain = 7 }, "longest chain 7"},
		"chain too long":  {func(c *Config) { c.MaxChain = MaxSize + 1 }, "longest chain 1025"},
		"small region": {func(c *Config) {
			c.Inflight, _ = OpenInflight(alignedBytes(1000), 0, 4)
		}, "region is for 4"},
	} {
		r := newRig(t, 8, true, 0)
		cfg := r.config()
		cfg.Index = 5
		c.set(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "virtqueue 5") {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.says)
		}
	}
}

func TestRingSizes(t *testing.T) {
	for _, c := range []struct {
		size  uint16
		event bool
		want  [3]uint64
	}{{1, false, [3]uint64{16, 6, 12}}, {8, true, [3]uint64{128, 22, 70}}, {1024, true, [3]uint64{16384, 2054, 8198}}} {
		d, a, u := RingSizes(c.size, c.event)
		if got := [3]uint64{d, a, u}; got != c.want {
			t.Errorf("%d: %v, want %v", c.size, got, c.want)
		}
	}
}

func TestHalf(t *testing.T) {
	b := alignedBytes(16)
	copy(b[4:], []byte{1, 2, 3, 4, 5, 6})
	for off, want := range map[int]uint16{4: 0x0201, 6: 0x0403, 8: 0x0605} {
		if got := halfAt(ptr(&b[off])).load(); got != want {
			t.Errorf("at %d: %#x, want %#x", off, got, want)
		}
	}
}

// TestRingRefused: an available ring that breaks the rules.
func TestRingRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(r *rig)
		n    int
		says string
	}{
		"index too far ahead":   {func(r *rig) { r.setIdx(9) }, 0, "index is 9, 9 ahead"},
		"index behind":          {func(r *rig) { r.setIdx(math.MaxUint16) }, 0, "65535 ahead"},
		"no such descriptor":    {func(r *rig) { r.offer(0, 8) }, 1, "is descriptor 8, there are 8"},
		"twice in a batch":      {func(r *rig) { r.offer(0, 1, 0) }, 2, "is descriptor 0, which the device still has"},
		"huge descriptor":       {func(r *rig) { r.offer(0xffff) }, 0, "is descriptor 65535"},
		"twice, then a bad one": {func(r *rig) { r.offer(2, 2, 99) }, 1, "is descriptor 2, which the device still has"},
	} {
		for _, shift := range []int{0, 2} {
			r := newRig(t, 8, true, shift)
			q := r.queue()
			for i := range uint16(8) {
				r.set(i, desc{r.buffer(i), 1, 0, 0})
			}
			c.set(r)
			n, err := q.Pop(make([]Chain, 8))
			if n != c.n || !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %d chains, error %v, want one that says %q", name, n, err, c.says)
			}
		}
	}
}

// TestHeadStillOut: a head that the device has, pushed or not, cannot come again.
func TestHeadStillOut(t *testing.T) {
	for _, push := range []bool{false, true} {
		r := newRig(t, 8, false, 0)
		q := r.queue()
		r.set(0, desc{r.buffer(0), 1, 0, 0})
		r.offer(0)
		pop(t, q, 4)
		if push {
			q.Push(0, 0)
		}
		r.offer(0)
		if n, err := q.Pop(make([]Chain, 4)); n != 0 || !errors.Is(err, ErrRing) {
			t.Errorf("pushed %v: %d %v", push, n, err)
		}
	}
}

func TestPushOfAStranger(t *testing.T) {
	r := newRig(t, 8, false, 0)
	q := r.queue()
	r.set(0, desc{r.buffer(0), 1, 0, 0})
	r.offer(0)
	pop(t, q, 1)
	q.Push(0, 0)
	for _, h := range []uint16{0, 1, 8, 0xffff} {
		if !panics(func() { q.Push(h, 0) }) {
			t.Errorf("Push of %d passed", h)
		}
	}
	if q.Publish(); r.usedIdx() != 1 {
		t.Error("used index", r.usedIdx())
	}
}

// TestEverySize passes three times the ring's size, and over the end of the
// indices, in full batches.
func TestEverySize(t *testing.T) {
	for size := uint16(1); size <= MaxSize; size *= 2 {
		r := newRig(t, size, true, int(size)&2)
		start := uint16(0xffff - size)
		r.setIdx(start)
		r.setUsedIdx(start)
		c := r.config()
		if c.LastAvail = start; size&0x155 != 0 {
			c = r.tracked()
		}
		q := r.queueOf(c)
		all := make([]uint16, size)
		for i := range all {
			all[i] = uint16(i)
			r.set(uint16(i), desc{r.buffer(uint16(i)), uint32(i + 1), descWrite, 0})
		}
		for range 3 {
			r.offer(all...)
			if !q.HasWork() {
				t.Fatal("no work")
			}
			got := pop(t, q, int(size)+1)
			if !same(heads(got), all) || q.HasWork() || q.Outstanding() != int(size) || q.Avail() != r.idx {
				t.Fatalf("size %d: %v", size, heads(got))
			}
			at := r.usedIdx()
			for _, g := range got {
				q.Push(g.Head, uint32(g.WriteLen))
			}
			if r.usedIdx() != at {
				t.Fatal("visible before Publish")
			}
			q.Publish()
			if r.usedIdx() != r.idx || q.Outstanding() != 0 {
				t.Fatalf("size %d: used index %d, want %d", size, r.usedIdx(), r.idx)
			}
			for i := range size {
				if id, n := r.element(at + i); id != uint32(i) || n != uint32(i)+1 {
					t.Fatalf("size %d: element %d is %d, %d", size, i, id, n)
				}
			}
		}
	}
}

func TestUsedIndex(t *testing.T) {
	r := newRig(t, 4, false, 0)
	r.setUsedIdx(0xabcd)
	if got := UsedIndex(r.used); got != 0xabcd {
		t.Errorf("%#x", got)
	}
}
