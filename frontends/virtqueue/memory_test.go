package virtqueue

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

func TestNewMemoryRefuses(t *testing.T) {
	b := make([]byte, 0x1000)
	for name, c := range map[string]struct {
		regions []Region
		says    string
	}{
		"empty":                {[]Region{{0, nil}}, "empty"},
		"wraps":                {[]Region{{math.MaxUint64 - 10, b}}, "past the end"},
		"overlap":              {[]Region{{0x1000, b}, {0x1fff, b}}, "overlap"},
		"overlap, other order": {[]Region{{0x1fff, b}, {0x1000, b}}, "overlap"},
		"same start":           {[]Region{{0x1000, b}, {0x1000, b[:1]}}, "overlap"},
		"within":               {[]Region{{0x1000, b}, {0x1100, b[:1]}}, "overlap"},
		"at the very end":      {[]Region{{math.MaxUint64 - 0xfff, b}, {math.MaxUint64, b[:1]}}, "overlap"},
	} {
		if _, err := NewMemory(c.regions); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.says)
		}
	}
}

func TestMemoryAppend(t *testing.T) {
	a, b, c := make([]byte, 0x100), make([]byte, 0x100), make([]byte, 0x100)
	m, err := NewMemory([]Region{{0x1100, b}, {0x1000, a}, {math.MaxUint64 - 0xff, c}})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		addr, n uint64
		want    [][]byte // nil: an error
	}{
		{0x1000, 0x100, [][]byte{a}},
		{0x1010, 0x20, [][]byte{a[0x10:0x30]}},
		{0x10ff, 2, [][]byte{a[0xff:], b[:1]}},
		{0x1000, 0x200, [][]byte{a, b}},
		{math.MaxUint64 - 0xff, 0x100, [][]byte{c}},
		{math.MaxUint64, 1, [][]byte{c[0xff:]}},
		{0xfff, 2, nil},
		{0x1000, 0x201, nil},
		{0x1200, 1, nil},
		{math.MaxUint64, 2, nil},
		{0x1000, math.MaxUint64, nil},
		{math.MaxUint64 - 0x100, 1, nil},
	} {
		prefix := [][]byte{{1}}
		got, err := m.Append(prefix, x.addr, x.n)
		if (err == nil) != (x.want != nil) || len(got) != 1+len(x.want) {
			t.Errorf("%#x+%#x: %d pieces, error %v", x.addr, x.n, len(got), err)
			continue
		}
		for i, w := range x.want {
			if g := got[i+1]; len(g) != len(w) || &g[0] != &w[0] || cap(g) != len(w) {
				t.Errorf("%#x+%#x: piece %d is not where it should be", x.addr, x.n, i)
			}
		}
	}
	if got, err := m.Append(nil, 0x9999, 0); err != nil || got != nil {
		t.Errorf("nothing of nowhere: %v %v", got, err)
	}
}

func TestMemorySlice(t *testing.T) {
	a := []byte("0123456789")
	m, err := NewMemory([]Region{{0x10, a}, {0x1a, []byte("abc")}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Slice(0x12, 8); err != nil || !bytes.Equal(got, a[2:]) {
		t.Errorf("%q %v", got, err)
	}
	for _, x := range [][2]uint64{{0x12, 9}, {0xf, 1}, {0x1d, 1}, {0x12, math.MaxUint64}} {
		if got, err := m.Slice(x[0], x[1]); err == nil {
			t.Errorf("%#x+%#x: %q", x[0], x[1], got)
		}
	}
}

func TestEmptyMemory(t *testing.T) {
	m, err := NewMemory(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Append(nil, 0, 1); err == nil {
		t.Error("there is no memory")
	}
	r := newRig(t, 4, false, 0)
	c := r.config()
	c.Memory = m
	q := r.queueOf(c)
	r.set(0, desc{0, 1, 0, 0})
	r.offer(0)
	if _, err := q.Pop(make([]Chain, 1)); err == nil {
		t.Error("a buffer in no memory")
	}
}
