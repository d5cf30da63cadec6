package virtqueue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestInflightSize(t *testing.T) {
	for _, c := range []struct {
		queues int
		size   uint16
		want   uint64
	}{{1, 1, 64}, {1, 3, 64}, {1, 4, 128}, {2, 128, 2 * 2112}, {8, 1024, 8 * 16448}, {0, 8, 0}} {
		if got := InflightSize(c.queues, c.size); got != c.want {
			t.Errorf("%d queues of %d: %d, want %d", c.queues, c.size, got, c.want)
		}
	}
}

func TestOpenInflightRefuses(t *testing.T) {
	b := alignedBytes(int(InflightSize(2, 8)) + 8)
	for name, c := range map[string]struct {
		region []byte
		queue  int
		size   uint16
	}{
		"no size":       {b, 0, 0},
		"queue -1":      {b, -1, 8},
		"third of two":  {b, 2, 8},
		"short":         {b[:InflightSize(2, 8)-1], 1, 8},
		"none":          {nil, 0, 8},
		"crooked":       {b[4:], 0, 8},
		"largest size":  {b, 0, math.MaxUint16},
		"largest queue": {b, math.MaxInt, 8},
	} {
		if f, err := OpenInflight(c.region, c.queue, c.size); f != nil || !errors.Is(err, ErrInflight) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRegionLayout holds what is written against the bytes of the text.
func TestRegionLayout(t *testing.T) {
	r := newRig(t, 4, false, 0)
	r.setUsedIdx(0x1234)
	r.setIdx(0x1234)
	q := r.queueOf(r.tracked())
	r.set(2, desc{r.buffer(0), 1, 0, 0})
	r.set(3, desc{r.buffer(0), 1, 0, 0})
	r.offer(3, 2)
	for _, c := range pop(t, q, 2)[:1] {
		q.Push(c.Head, 0)
	}
	q.Publish()
	want := make([]byte, 128)
	copy(want, []byte{
		0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 3, 0, 0x35, 0x12,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	})
	if !bytes.Equal(r.part(), want) || !bytes.Equal(r.region[:128], make([]byte, 128)) {
		t.Errorf("region\n%x\nwant\n%x", r.part(), want)
	}
}

// TestNewRegion: one that says nothing goes on at the ring's used index,
// whatever the front-end says, and whatever it is filled with.
func TestNewRegion(t *testing.T) {
	for _, fill := range []byte{0, 0xff} {
		r := newRig(t, 4, false, 0)
		for i := range r.region {
			r.region[i] = fill
		}
		r.setRegion(0, 0x5555, 0x5555, 0x5555)
		r.setUsedIdx(700)
		r.setIdx(702)
		c := r.tracked()
		c.LastAvail = 699
		q := r.queueOf(c)
		if q.Avail() != 700 || q.Resubmitted() != 0 {
			t.Errorf("goes on at %d", q.Avail())
		}
		got := binary.LittleEndian.Uint64(r.part()[offVersion:])
		if want := uint64(inflightVersion | 4<<16 | 700<<48); got != want {
			t.Errorf("first fields %#x, want %#x", got, want)
		}
		if !bytes.Equal(r.states()[:64], make([]byte, 64)) {
			t.Errorf("states %x", r.states())
		}
	}
}

// TestRecover: regions as processes leave them, made by hand.
func TestRecover(t *testing.T) {
	const size = 8
	for name, c := range map[string]struct {
		set   func(r *rig)
		used  uint16
		heads []uint16
		next  uint64 // counter
	}{
		"nothing in flight": {func(r *rig) { r.setRegion(1, size, 3, 5) }, 5, nil, 0},
		"order of counters": {func(r *rig) {
			r.setRegion(1, size, 0, 5)
			r.setState(1, 1, 0, 30)
			r.setState(4, 1, 0, 10)
			r.setState(6, 1, 0, 1_000_000)
			r.setState(7, 0, 0, 5)
		}, 5, []uint16{4, 1, 6}, 1_000_001},
		"counters that wrap": {func(r *rig) {
			r.setRegion(1, size, 0, 5)
			r.setState(0, 1, 0, 1)
			r.setState(1, 1, 0, math.MaxUint64)
			r.setState(2, 1, 0, 0)
			r.setState(3, 1, 0, math.MaxUint64-1)
		}, 5, []uint16{3, 1, 2, 0}, 2},
		"the same counters": {func(r *rig) {
			r.setRegion(1, size, 0, 5)
			r.setState(5, 1, 0, 9)
			r.setState(2, 1, 0, 9)
		}, 5, []uint16{2, 5}, 10},
		"batch of three published, one cleared": {func(r *rig) {
			r.setRegion(1, size, 6, 65534)
			r.setState(6, 1, 2, 1)
			r.setState(2, 0, 4, 2)
			r.setState(4, 1, 1, 3) // the first of the batch; 1 was the last of the batch before
			r.setState(1, 1, 0, 4)
		}, 1, []uint16{1}, 5},
		"batch linked and not published": {func(r *rig) {
			r.setRegion(1, size, 6, 9)
			r.setState(6, 1, 2, 1)
			r.setState(2, 1, 0, 0)
		}, 9, []uint16{2, 6}, 2},
		"batch of all": {func(r *rig) {
			r.setRegion(1, size, 0, 100)
			for i := range uint16(size) {
				r.setState(i, 1, (i+1)%size, uint64(i))
			}
		}, 100 + size, nil, 0},
		"a head that links to itself, batch of one": {func(r *rig) {
			r.setRegion(1, size, 3, 9)
			r.setState(3, 1, 3, 1)
			r.setState(2, 1, 0, 0)
		}, 10, []uint16{2}, 1},
		"ring reset, nothing in flight, list is nonsense": {func(r *rig) {
			r.setRegion(1, size, 999, 5000)
		}, 0, nil, 0},
	} {
		r := newRig(t, size, false, 0)
		c.set(r)
		for range 2 { // it is its own result
			f, err := OpenInflight(r.region, 1, size)
			if err != nil {
				t.Fatal(err)
			}
			heads, err := f.Recover(c.used)
			if err != nil || !same(heads, c.heads) || f.counter != c.next {
				t.Errorf("%s: heads %v, counter %d, error %v", name, heads, f.counter, err)
			}
			if got := binary.LittleEndian.Uint16(r.part()[offUsedIdx:]); got != c.used {
				t.Errorf("%s: used_idx %d", name, got)
			}
			for h := range uint16(size) {
				if m := r.mark(h); m != 0 && !containsHead(c.heads, h) {
					t.Errorf("%s: descriptor %d is marked", name, h)
				}
			}
		}
	}
}

func containsHead(heads []uint16, h uint16) bool {
	for _, x := range heads {
		if x == h {
			return true
		}
	}
	return false
}

// TestHostileRegion: a forged region is an error, and is left alone.
func TestHostileRegion(t *testing.T) {
	const size = 8
	for name, c := range map[string]struct {
		set  func(r *rig)
		used uint16
		says string
	}{
		"version 2":      {func(r *rig) { r.setRegion(2, size, 0, 0) }, 0, "version is 2"},
		"features":       {func(r *rig) { r.setRegion(1, size, 0, 0); r.part()[3] = 1 }, 0, "features are 0x1000000"},
		"other size":     {func(r *rig) { r.setRegion(1, size*2, 0, 0) }, 0, "for 16 descriptors"},
		"mark 2":         {func(r *rig) { r.setRegion(1, size, 0, 0); r.setState(7, 2, 0, 0) }, 0, "descriptor 7 has the mark 2"},
		"far ahead":      {func(r *rig) { r.setRegion(1, size, 0, 0); r.setState(0, 1, 1, 0) }, 9, "9 ahead"},
		"behind":         {func(r *rig) { r.setRegion(1, size, 0, 1); r.setState(0, 1, 1, 0) }, 0, "65535 ahead"},
		"list outside":   {func(r *rig) { r.setRegion(1, size, 8, 0); r.setState(0, 1, 1, 0) }, 1, "descriptor 8, there are 8"},
		"list goes away": {func(r *rig) { r.setRegion(1, size, 0, 0); r.setState(0, 1, 0xffff, 0) }, 2, "descriptor 65535"},
		"list in circle": {func(r *rig) { r.setRegion(1, size, 0, 0); r.setState(0, 1, 1, 0); r.setState(1, 1, 0, 0) }, 3, "descriptor 0 twice"},
	} {
		r := newRig(t, size, false, 0)
		c.set(r)
		was := bytes.Clone(r.region)
		r.setUsedIdx(c.used)
		cfg := r.tracked()
		_, err := New(cfg)
		if !errors.Is(err, ErrInflight) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.says)
		}
		if !bytes.Equal(r.region, was) {
			t.Errorf("%s: the region was changed", name)
		}
	}
}

// TestLargerRegion: a driver may make the ring smaller than the region was made
// for; what is in flight beyond it was not this ring's.
func TestLargerRegion(t *testing.T) {
	r := newRig(t, 8, false, 0)
	r.region = alignedBytes(int(InflightSize(2, 16)))
	open := func() Config {
		c := r.config()
		f, err := OpenInflight(r.region, 1, 16)
		if err != nil {
			t.Fatal(err)
		}
		c.Inflight = f
		return c
	}
	q := r.queueOf(open())
	r.set(5, desc{r.buffer(5), 1, 0, 0})
	r.offer(5)
	pop(t, q, 1)
	if got := pop(t, r.queueOf(open()), 2); len(got) != 1 || got[0].Head != 5 {
		t.Errorf("%+v", got)
	}
	part := r.region[inflightPart(16):]
	part[inflightHeader+8*inflightState] = 1
	if _, err := New(open()); !errors.Is(err, ErrInflight) || !strings.Contains(err.Error(), "descriptor 8") {
		t.Errorf("error %v", err)
	}
}

// TestResubmitted: what was in flight comes first, in pieces as the caller asks,
// and its heads cannot come from the ring at the same time.
func TestResubmitted(t *testing.T) {
	r := newRig(t, 8, false, 0)
	for i := range uint16(8) {
		r.set(i, desc{r.buffer(i), 1, 0, 0})
	}
	q := r.queueOf(r.tracked())
	r.offer(4, 3, 7)
	pop(t, q, 3)
	r.offer(1)
	q = r.queueOf(r.tracked())
	if q.Resubmitted() != 3 || q.Outstanding() != 0 || q.Avail() != 3 || !q.HasWork() {
		t.Fatalf("%d to do, %d out, next %d", q.Resubmitted(), q.Outstanding(), q.Avail())
	}
	if got := heads(pop(t, q, 2)); !same(got, []uint16{4, 3}) || q.Outstanding() != 2 {
		t.Fatal(got)
	}
	if got := heads(pop(t, q, 9)); !same(got, []uint16{7, 1}) || q.Outstanding() != 4 {
		t.Fatal(got)
	}
	r.offer(0, 5, 2, 6)
	q = r.queueOf(r.tracked())
	if got := heads(pop(t, q, 9)); !same(got, []uint16{4, 3, 7, 1, 0, 5, 2, 6}) {
		t.Fatal(got)
	}
	q = r.queueOf(r.tracked())
	r.offer(4)
	if n, err := q.Pop(make([]Chain, 9)); n != 8 || !errors.Is(err, ErrRing) {
		t.Errorf("%d chains, error %v", n, err)
	}
}

// TestBadChainResubmitted: the guest may have spoilt a chain in the meantime.
func TestBadChainResubmitted(t *testing.T) {
	r := newRig(t, 8, false, 0)
	for i := range uint16(3) {
		r.set(i, desc{r.buffer(i), 1, 0, 0})
	}
	q := r.queueOf(r.tracked())
	r.offer(0, 1, 2)
	pop(t, q, 3)
	q = r.queueOf(r.tracked())
	r.set(1, desc{5, 1, 0, 0})
	if n, err := q.Pop(make([]Chain, 9)); n != 1 || !errors.Is(err, ErrRing) || q.Outstanding() != 1 {
		t.Errorf("%d chains, error %v", n, err)
	}
}
