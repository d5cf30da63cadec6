package vhosttest

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"blockengine/engine/sys"
)

// Slot is a piece of guest memory to be made: Size bytes at Guest, both
// multiples of the page size. Slots with the same File number are pieces of one
// file, in the order in which they are listed, with a hole of Gap bytes before
// each.
type Slot struct {
	Guest, Size uint64
	File        int
	Gap         uint64
}

// DefaultMemory is what a small machine has: below 1 MiB, from there on, and
// above 4 GiB, the first two next to each other in two files.
func DefaultMemory() []Slot {
	return []Slot{
		{Guest: 0, Size: 640 << 10, File: 0},
		{Guest: 1 << 20, Size: 15 << 20, File: 1},
		{Guest: 16 << 20, Size: 16 << 20, File: 0, Gap: 64 << 10},
		{Guest: 4 << 30, Size: 16 << 20, File: 1, Gap: 4096},
	}
}

// region is a slot that exists.
type region struct {
	MemRegion
	fd   int
	host []byte
	next uint64 // of what is not given away yet, an offset
}

// Memory is a guest's memory. It stays when a back-end goes. All methods but
// Close and Truncate are for one goroutine.
type Memory struct {
	regions []*region
	files   map[int]*file
	sealed  bool
	closing sync.Once
}

type file struct {
	fd   int
	size uint64
}

// NewMemory makes memory of all slots. guestIsUser gives each the guest address
// at which it lies in this process, as a client without a guest does; the slots'
// own are ignored then. sealed has it lie in files that cannot be truncated, as
// QEMU's memory-backend-memfd does.
func NewMemory(slots []Slot, guestIsUser, sealed bool) (*Memory, error) {
	m := &Memory{files: map[int]*file{}, sealed: sealed}
	for _, s := range slots {
		f := m.files[s.File]
		if f == nil {
			f = &file{fd: -1}
			m.files[s.File] = f
		}
		m.regions = append(m.regions, &region{MemRegion: MemRegion{Guest: s.Guest, Size: s.Size, Offset: f.size + s.Gap}})
		f.size += s.Gap + s.Size
	}
	err := m.makeFiles()
	for i, r := range m.regions {
		if err == nil {
			err = r.mapFile(m.files[slots[i].File].fd, guestIsUser)
		}
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("vhosttest: guest memory: %w", err)
	}
	return m, nil
}

// add plugs another slot in, with a file of its own; s.File is ignored.
func (m *Memory) add(s Slot) error {
	n := len(m.files)
	for m.files[n] != nil {
		n++
	}
	fd, err := m.makeFile(n, s.Gap+s.Size)
	if err != nil {
		return err
	}
	m.files[n] = &file{fd, s.Gap + s.Size}
	r := &region{MemRegion: MemRegion{Guest: s.Guest, Size: s.Size, Offset: s.Gap}}
	if err := r.mapFile(fd, false); err != nil {
		return err
	}
	m.regions = append(m.regions, r)
	return nil
}

func (m *Memory) makeFiles() error {
	for n, f := range m.files {
		fd, err := m.makeFile(n, f.size)
		if err != nil {
			return err
		}
		f.fd = fd
	}
	return nil
}

func (m *Memory) makeFile(n int, size uint64) (fd int, err error) {
	name := fmt.Sprintf("vhosttest-%d", n)
	if m.sealed {
		return sys.SealedMemfd(name, int64(size))
	}
	return sys.Memfd(name, int64(size))
}

func (r *region) mapFile(fd int, guestIsUser bool) error {
	host, err := sys.MapShared(fd, int64(r.Offset), int(r.Size))
	if err != nil {
		return err
	}
	r.fd, r.host = fd, host
	r.User = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(host))))
	if guestIsUser {
		r.Guest = r.User
	}
	if r.Guest == 0 {
		r.next = 4096 // nobody puts anything at address 0
	}
	return nil
}

// Close unmaps and closes all. Whoever uses the memory has ended.
func (m *Memory) Close() {
	m.closing.Do(func() {
		for _, r := range m.regions {
			if r.host != nil {
				sys.Unmap(r.host)
			}
		}
		for _, f := range m.files {
			if f.fd >= 0 {
				syscall.Close(f.fd)
			}
		}
	})
}

// Regions describes the memory as messages do.
func (m *Memory) Regions() []MemRegion {
	var all []MemRegion
	for _, r := range m.regions {
		all = append(all, r.MemRegion)
	}
	return all
}

// FDs are the files of the regions, one for each.
func (m *Memory) FDs() []int {
	var all []int
	for _, r := range m.regions {
		all = append(all, r.fd)
	}
	return all
}

// Truncate cuts the file that region i lies in to size bytes, under all who
// have mapped it. This process faults too where it touches what is gone.
func (m *Memory) Truncate(i int, size int64) error { return sys.Truncate(m.regions[i].fd, size) }

// errMemoryFull says that the slots are too small for what is wanted.
var errMemoryFull = errors.New("the guest's memory is too small: give more or larger slots")

// Buffer is guest memory with the guest's address.
type Buffer struct {
	Addr uint64
	B    []byte
}

// Slice is the part [from, to) of a buffer.
func (b Buffer) Slice(from, to int) Buffer {
	return Buffer{b.Addr + uint64(from), b.B[from:to:to]}
}

// Alloc gives n bytes of one region at a multiple of align (a power of two),
// zero and for good. It starts looking in region from, modulo their number.
func (m *Memory) Alloc(from, n, align int) (Buffer, error) {
	for i := range m.regions {
		r := m.regions[(from+i)%len(m.regions)]
		at := (r.next + uint64(align) - 1) &^ (uint64(align) - 1)
		if at > r.Size || uint64(n) > r.Size-at {
			continue
		}
		r.next = at + uint64(n)
		return Buffer{r.Guest + at, r.host[at : at+uint64(n) : at+uint64(n)]}, nil
	}
	return Buffer{}, fmt.Errorf("vhosttest: %d bytes: %w", n, errMemoryFull)
}

// At gives n bytes at a guest address. They must lie in one region.
func (m *Memory) At(addr, n uint64) ([]byte, error) {
	for _, r := range m.regions {
		if addr >= r.Guest && addr-r.Guest <= r.Size && n <= r.Size-(addr-r.Guest) {
			return r.host[addr-r.Guest : addr-r.Guest+n], nil
		}
	}
	return nil, fmt.Errorf("vhosttest: no region holds [%#x, +%d)", addr, n)
}

// userAddr translates as SET_VRING_ADDR wants it.
func (m *Memory) userAddr(guest uint64) uint64 {
	for _, r := range m.regions {
		if guest >= r.Guest && guest-r.Guest < r.Size {
			return r.User + (guest - r.Guest)
		}
	}
	return guest // nonsense stays nonsense
}
