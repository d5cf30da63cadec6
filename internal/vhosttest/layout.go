package vhosttest

import "fmt"

// headerLen is the length of a request's header: type, reserved, sector
// (virtio 1.2, 5.2.6).
const headerLen = 16

// Layout says how a request's bytes are cut into descriptors; virtio 1.2, 2.7.4.1
// leaves that to the driver. The readable bytes are the header and what is
// written, the writable ones what is read and the status. Its zero value is what
// Linux does: one descriptor each for header, data and status.
type Layout struct {
	// Readable and Writable are lengths of descriptors, in bytes. What is left
	// behind them is one more. nil cuts between header, data and status.
	Readable, Writable []int
	Piece              int  // no descriptor is longer than this; 0: no limit
	Indirect           bool // a table of its own, if the device has INDIRECT_DESC
}

// area is the memory of one request: header, data and status one behind the
// other, so that any cut is possible, and the data page-aligned. A compact area
// has header and status together on a cache line of their own instead, as
// drivers do that care, and takes no cuts.
type area struct {
	head Buffer
	body Buffer // data, and in an area that is not compact the status behind them
	stat Buffer // of a compact area
}

const pageSize = 4096

// newArea takes guest memory for a request with at most n bytes of data.
func newArea(m *Memory, region, n int) (area, error) {
	b, err := m.Alloc(region, pageSize+n+1, pageSize)
	if err != nil {
		return area{}, err
	}
	head := b.B[pageSize-headerLen : pageSize : pageSize+n+1] // reaches over the whole
	return area{head: Buffer{b.Addr + pageSize - headerLen, head}, body: b.Slice(pageSize, pageSize+n+1)}, nil
}

// newCompactArea does the same for the layout of Linux.
func newCompactArea(m *Memory, region, n int) (area, error) {
	meta, err := m.Alloc(region, 64, 64)
	if err != nil {
		return area{}, err
	}
	body, err := m.Alloc(region, n, pageSize)
	return area{head: meta.Slice(0, headerLen), body: body, stat: meta.Slice(headerLen, headerLen+1)}, err
}

// capacity for data, in bytes.
func (a *area) capacity() int {
	if a.stat.B != nil {
		return len(a.body.B)
	}
	return len(a.body.B) - 1
}

// payload of n bytes.
func (a *area) payload(n int) []byte { return a.body.B[:n] }

// status of a request with n bytes of data.
func (a *area) status(n int) *byte {
	if a.stat.B != nil {
		return &a.stat.B[0]
	}
	return &a.body.B[n]
}

// encode writes a header (virtio 1.2, 5.2.6) and makes the status one that the
// device has not written.
func (a *area) encode(op uint32, sector uint64, n int) {
	h := a.head.B
	le.PutUint32(h, op)
	le.PutUint32(h[4:], 0)
	le.PutUint64(h[8:], sector)
	*a.status(n) = statusUnset
}

// deviceWrites says whether an operation's data go to the driver.
func deviceWrites(op uint32) bool { return op == OpIn || op == OpGetID }

// chain appends the descriptors of a request with n bytes of data, without next.
func (l *Layout) chain(dst []Desc, a *area, op uint32, n int) ([]Desc, error) {
	if a.stat.B != nil {
		return compactChain(dst, a, op, n), nil
	}
	readable, writable := headerLen, n+1
	cutR, cutW := l.Readable, l.Writable
	if !deviceWrites(op) {
		readable, writable = headerLen+n, 1
	}
	if cutR == nil {
		cutR = []int{headerLen}
	}
	if cutW == nil {
		cutW = []int{writable - 1}
	}
	all := Buffer{a.head.Addr, a.head.B[: headerLen+n+1 : headerLen+len(a.body.B)]}
	dst, err := l.cut(dst, all.Slice(0, readable), cutR, 0)
	if err == nil {
		dst, err = l.cut(dst, all.Slice(readable, readable+writable), cutW, DescWrite)
	}
	return dst, err
}

// compactChain is one descriptor each for header, data and status.
func compactChain(dst []Desc, a *area, op uint32, n int) []Desc {
	dst = append(dst, Desc{Addr: a.head.Addr, Len: headerLen})
	if n > 0 {
		d := Desc{Addr: a.body.Addr, Len: uint32(n)}
		if deviceWrites(op) {
			d.Flags = DescWrite
		}
		dst = append(dst, d)
	}
	return append(dst, Desc{Addr: a.stat.Addr, Len: 1, Flags: DescWrite})
}

// cut appends descriptors of the given lengths for b.
func (l *Layout) cut(dst []Desc, b Buffer, lengths []int, flags uint16) ([]Desc, error) {
	at := 0
	take := func(n int) {
		for n > 0 {
			piece := n
			if l.Piece > 0 {
				piece = min(n, l.Piece)
			}
			dst = append(dst, Desc{Addr: b.Addr + uint64(at), Len: uint32(piece), Flags: flags})
			at, n = at+piece, n-piece
		}
	}
	for _, n := range lengths {
		if n < 0 || n > len(b.B)-at {
			return dst, fmt.Errorf("vhosttest: layout: a descriptor of %d bytes where %d are left", n, len(b.B)-at)
		}
		take(n)
	}
	take(len(b.B) - at)
	return dst, nil
}

// link sets the next fields of a chain whose descriptors are numbered from
// first on.
func link(chain []Desc, first uint16) {
	for i := range chain[:len(chain)-1] {
		chain[i].Flags |= DescNext
		chain[i].Next = first + uint16(i) + 1
	}
}
