package ring

import (
	"fmt"
	"unsafe"
)

// Region is a mapped region as one of the two sides sees it.
type Region struct {
	Layout Layout
	*Header
	Submissions []Submission // Store
	Completions []Completion // Store
	In, Out     []byte       // Machine
	payload     []byte       // Store
}

// Format lays a new region over mem, which is all zero and l.Size() bytes long,
// and writes its header. It is the engine's.
func Format(l Layout, mem []byte) (*Region, error) {
	r, err := view(l, mem)
	if err != nil {
		return nil, err
	}
	r.Shape = l.shape()
	return r, nil
}

// Attach lays a region over mem that the engine has formatted. It is the process's.
func Attach(l Layout, mem []byte) (*Region, error) {
	r, err := view(l, mem)
	if err != nil {
		return nil, err
	}
	if got, want := r.Shape, l.shape(); got != want {
		return nil, fmt.Errorf("the shared memory's header says %+v, the engine said %+v", got, want)
	}
	return r, nil
}

// view lays the parts of a region over mem.
func view(l Layout, mem []byte) (*Region, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	h := l.shape()
	if uint64(len(mem)) != h.Size {
		return nil, fmt.Errorf("the shared memory has %d bytes, its layout %d", len(mem), h.Size)
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%page != 0 {
		return nil, fmt.Errorf("the shared memory does not start at a page")
	}
	r := &Region{Layout: l, Header: (*Header)(unsafe.Pointer(unsafe.SliceData(mem)))}
	if l.Kind == KindMachine {
		r.In, r.Out = mem[h.First:h.Second:h.Second], mem[h.Second:h.Size:h.Size]
		return r, nil
	}
	r.Submissions = unsafe.Slice((*Submission)(unsafe.Pointer(&mem[h.First])), l.Depth)
	r.Completions = unsafe.Slice((*Completion)(unsafe.Pointer(&mem[h.Second])), l.Depth)
	r.payload = mem[h.Payload:]
	return r, nil
}

// Buffer is a slot's buffer, Layout.Transfer bytes.
func (r *Region) Buffer(slot int) []byte {
	n := int(r.Layout.Transfer)
	return r.payload[slot*n : slot*n+n : slot*n+n]
}

// Extents are the places for extents in a slot's buffer.
func (r *Region) Extents(slot int) []Extent {
	b := r.Buffer(slot)
	return unsafe.Slice((*Extent)(unsafe.Pointer(unsafe.SliceData(b))), min(len(b)/int(unsafe.Sizeof(Extent{})), MaxExtents))
}

// Pieces are the places for pieces in a slot's buffer.
func (r *Region) Pieces(slot int) []Piece {
	return unsafe.Slice((*Piece)(unsafe.Pointer(unsafe.SliceData(r.Buffer(slot)))), MaxPieces)
}
