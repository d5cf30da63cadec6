package iouring

import (
	"fmt"
	"runtime"
	"unsafe"

	"blockengine/engine/sys"
)

// Sizes of a hub's tables: how many files, and as many buffers as the kernel
// allows in one. The kernel has 8 bytes for a place.
const (
	tableFiles   = 1024
	tableBuffers = 1 << 14
)

// table says which places of a ring's table of registered things are given
// away. The table itself is the kernel's, and empty when it is made.
type table struct {
	what  string
	taken []bool // nil: not made yet
}

// reserve gives the first of n places in a row.
func (t *table) reserve(n int) (first int, err error) {
	run := 0
	for i, taken := range t.taken {
		if run++; taken {
			run = 0
		}
		if run == n {
			first = i + 1 - n
			t.set(first, n, true)
			return first, nil
		}
	}
	return 0, fmt.Errorf("io_uring: %d of the %d %s of a ring are in use, there is no room for %d more: use more reactors, fewer queues or less depth",
		t.used(), len(t.taken), t.what, n)
}

func (t *table) used() (n int) {
	for _, taken := range t.taken {
		if taken {
			n++
		}
	}
	return n
}

func (t *table) set(first, n int, taken bool) {
	for i := range n {
		t.taken[first+i] = taken
	}
}

// make has the kernel make t with so many places, once.
func (h *Hub) make(t *table, which uint32, places int) error {
	if t.taken != nil {
		return nil
	}
	arg := sys.UringTable{N: uint32(places), Flags: sys.UringSparse}
	if err := h.src.register("a table of "+t.what, which, unsafe.Pointer(&arg), int(unsafe.Sizeof(arg))); err != nil {
		return err
	}
	t.taken = make([]bool, places)
	return nil
}

// ReserveBuffers gives n places in a row of the ring's table of registered
// buffers, by their first, below 1<<14. They are empty; a driver that the
// caller asks for it, or the caller, puts buffers there, for entries with
// sys.UringOpReadFix and UringOpWriteFix of any user.
func (h *Hub) ReserveBuffers(n int) (first int, err error) {
	if err := h.make(&h.buffers, sys.UringRegisterBuffers2, tableBuffers); err != nil {
		return 0, err
	}
	return h.buffers.reserve(n)
}

// ReturnBuffers gives places back, and empties those that are not.
func (h *Hub) ReturnBuffers(first, n int) error {
	err := h.putBuffers(first, make([]sys.Iovec, n))
	if err == nil {
		h.buffers.set(first, n, false)
	}
	return err
}

// PutBuffer puts memory into a reserved place, which the kernel holds until
// another is put there or the place is given back. It is not Go's heap. Entries
// name its bytes by their addresses; those of a driver's pages begin at 0.
func (h *Hub) PutBuffer(place int, b []byte) error {
	v := make([]sys.Iovec, 1)
	sys.SetIovec(&v[0], b)
	return h.putBuffers(place, v)
}

func (h *Hub) putBuffers(first int, v []sys.Iovec) error {
	var pin runtime.Pinner
	pin.Pin(unsafe.SliceData(v)) // arg has it as a number
	defer pin.Unpin()
	arg := sys.UringUpdate{Offset: uint32(first), Data: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(v)))), N: uint32(len(v))}
	return h.src.register("buffers", sys.UringUpdateBuffers, unsafe.Pointer(&arg), int(unsafe.Sizeof(arg)))
}

// RegisterFile makes a file known by an index, for entries with
// sys.UringFixedFile; the kernel then need not look it up for each. The file
// stays open until UnregisterFile, or until the ring is closed.
func (h *Hub) RegisterFile(fd int) (index int, err error) {
	if err := h.make(&h.files, sys.UringRegisterFiles2, tableFiles); err != nil {
		return 0, err
	}
	if index, err = h.files.reserve(1); err != nil {
		return 0, err
	}
	if err = h.putFile(index, fd); err != nil {
		h.files.set(index, 1, false)
	}
	return index, err
}

// UnregisterFile gives an index back.
func (h *Hub) UnregisterFile(index int) error {
	err := h.putFile(index, -1)
	if err == nil {
		h.files.set(index, 1, false)
	}
	return err
}

func (h *Hub) putFile(index, fd int) error {
	no := int32(fd)
	var pin runtime.Pinner
	pin.Pin(&no)
	defer pin.Unpin()
	arg := sys.UringFilesUpdate{Offset: uint32(index), FDs: uint64(uintptr(unsafe.Pointer(&no)))}
	return h.src.register("a file", sys.UringUpdateFiles, unsafe.Pointer(&arg), 1)
}
