package virtqueue

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"unsafe"
)

// Region is a piece of guest memory and where it is mapped. Guest is whatever
// addresses the other side uses: guest-physical for buffers, the front-end's own
// for the parts of a ring.
type Region struct {
	Guest uint64
	Host  []byte
}

// span is a Region as the data path reads it.
type span struct {
	start uint64
	size  uint64
	host  unsafe.Pointer
}

// Memory translates guest addresses. It never changes; a queue that runs gets a
// new one by SetMemory.
type Memory struct {
	spans []span // sorted by start, apart
}

// NewMemory makes a Memory of regions in any order. It fails if one is empty,
// goes past the end of the address space or overlaps another.
func NewMemory(regions []Region) (*Memory, error) {
	m := &Memory{spans: make([]span, 0, len(regions))}
	for _, r := range regions {
		n := uint64(len(r.Host))
		if n == 0 {
			return nil, fmt.Errorf("memory region at %#x is empty", r.Guest)
		}
		if n-1 > math.MaxUint64-r.Guest {
			return nil, fmt.Errorf("memory region at %#x of %d bytes goes past the end of the address space", r.Guest, n)
		}
		m.spans = append(m.spans, span{start: r.Guest, size: n, host: unsafe.Pointer(unsafe.SliceData(r.Host))})
	}
	slices.SortFunc(m.spans, func(a, b span) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	for i := 1; i < len(m.spans); i++ {
		if a, b := m.spans[i-1], m.spans[i]; b.start-a.start < a.size {
			return nil, fmt.Errorf("memory regions at %#x (%d bytes) and %#x (%d bytes) overlap", a.start, a.size, b.start, b.size)
		}
	}
	return m, nil
}

// find gives the span that addr lies in, or nil.
func (m *Memory) find(addr uint64) *span {
	i := sort.Search(len(m.spans), func(i int) bool { return m.spans[i].start > addr }) - 1
	if i < 0 || addr-m.spans[i].start >= m.spans[i].size {
		return nil
	}
	return &m.spans[i]
}

// Append appends the n bytes of guest memory at addr to dst, a slice for each
// region that they lie in. If a part of them is not mapped, dst comes back as it
// was, with an error that names the first such address.
func (m *Memory) Append(dst [][]byte, addr, n uint64) ([][]byte, error) {
	was := len(dst)
	for at, left := addr, n; left > 0; {
		s := m.find(at)
		if s == nil {
			return dst[:was], fmt.Errorf("guest memory %#x of %d bytes: nothing is mapped at %#x", addr, n, at)
		}
		part := min(left, s.size-(at-s.start))
		dst = append(dst, s.slice(at, part))
		at, left = at+part, left-part
		if at == 0 && left > 0 {
			return dst[:was], fmt.Errorf("guest memory %#x of %d bytes goes past the end of the address space", addr, n)
		}
	}
	return dst, nil
}

// Slice gives the n bytes of guest memory at addr, which must lie in one region.
func (m *Memory) Slice(addr, n uint64) ([]byte, error) {
	s := m.find(addr)
	if s == nil {
		return nil, fmt.Errorf("guest memory %#x of %d bytes: nothing is mapped there", addr, n)
	}
	if room := s.size - (addr - s.start); n > room {
		return nil, fmt.Errorf("guest memory %#x of %d bytes: its region ends after %d", addr, n, room)
	}
	return s.slice(addr, n), nil
}

// slice gives n bytes at addr; the caller has checked that they lie in s.
func (s *span) slice(addr, n uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(s.host, uintptr(addr-s.start))), int(n))
}

// holds tells whether the n bytes at addr lie in s.
func (s *span) holds(addr, n uint64) bool {
	off := addr - s.start
	return off < s.size && n <= s.size-off
}
