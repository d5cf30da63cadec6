package sys

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Shared memory can vanish: whoever holds its file may truncate it, and the
// next access of ours faults. DESIGN chapter 2, rule 9: that costs the export
// that the memory belongs to, nothing else. Guard is for plain accesses and
// copies; FirstBadIovec is for a gather or scatter call that gave EFAULT.

// ErrFault is in every error of memory that is not there any more.
var ErrFault = errors.New("the memory is not there any more: its owner has truncated the file behind it")

// Mapping is memory that may vanish, as the registry knows it.
type Mapping struct {
	name       string
	start, end uintptr
	number     uint64
	back       *backing
}

// mappings is the registry: sorted by start, without overlaps, never changed in
// place, so that a look-up takes no lock. mappingsMu orders the changes.
var (
	mappings   atomic.Pointer[[]*Mapping]
	mappingsMu sync.Mutex
)

// RegisterMapping makes known that b is mapped memory that may vanish; name
// says whose it is. It is called after mmap, and Unregister before munmap, both
// off the data path. It fails if b is empty or overlaps what is registered.
func RegisterMapping(name string, b []byte) (*Mapping, error) {
	return register(name, b, &backing{fd: -1, unfit: errors.New("it is for this process only")})
}

func register(name string, b []byte, back *backing) (*Mapping, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("register mapping %q: it is empty", name)
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	m := &Mapping{name: name, start: start, end: start + uintptr(len(b)), number: mappingNumbers.Add(1), back: back}
	mappingsMu.Lock()
	defer mappingsMu.Unlock()
	all := registered()
	i, _ := slices.BinarySearchFunc(all, m, byStart)
	for _, other := range all[max(i-1, 0):min(i+1, len(all))] {
		if other.start < m.end && m.start < other.end {
			return nil, fmt.Errorf("register mapping %q: it overlaps %q, which was not unregistered before its memory was unmapped", name, other.name)
		}
	}
	now := slices.Insert(slices.Clone(all), i, m)
	mappings.Store(&now)
	return m, nil
}

// Unregister forgets the mapping: from now on a fault there is a bug like any
// other. Those who watch it are told. A second call does nothing.
func (m *Mapping) Unregister() {
	if m.unlist() {
		m.back.end()
	}
}

// unlist takes the mapping out of the registry, and reports whether it was there.
func (m *Mapping) unlist() bool {
	mappingsMu.Lock()
	defer mappingsMu.Unlock()
	all := registered()
	i := slices.Index(all, m)
	if i < 0 {
		return false
	}
	now := slices.Delete(slices.Clone(all), i, i+1)
	mappings.Store(&now)
	return true
}

// Name is what the mapping was registered as.
func (m *Mapping) Name() string { return m.name }

func registered() []*Mapping {
	if p := mappings.Load(); p != nil {
		return *p
	}
	return nil
}

func byStart(a, b *Mapping) int {
	switch {
	case a.start < b.start:
		return -1
	case a.start > b.start:
		return 1
	}
	return 0
}

// mappingAt gives the registered mapping that addr lies in, or nil. It takes no
// lock and allocates nothing.
func mappingAt(addr uintptr) *Mapping {
	all := registered()
	lo, hi := 0, len(all)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); all[mid].end <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(all) && all[lo].start <= addr {
		return all[lo]
	}
	return nil
}

// FaultError is an access to mapped memory that is not there any more. It is
// ErrFault, and EFAULT.
type FaultError struct {
	Mapping *Mapping
	Offset  uint64 // of the access, in bytes from the mapping's start
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("access to byte %d of the %d of %s: %v", e.Offset, e.Mapping.end-e.Mapping.start, e.Mapping.name, ErrFault)
}

// Unwrap gives ErrFault and EFAULT.
func (e *FaultError) Unwrap() []error { return []error{ErrFault, EFAULT} }

// Guard calls f and turns a fault inside a registered mapping into a
// *FaultError; what f had begun stays half done. Any other panic goes on, with
// the stack that it had. The goroutine must have called
// debug.SetPanicOnFault(true), as reactors do: else a fault ends the process.
//
// It costs a few ns and no allocation: one Guard around a batch, not one for
// each access.
func Guard(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			fault := faultOf(r)
			if fault == nil {
				panic(r)
			}
			err = fault
		}
	}()
	f()
	return nil
}

// faultOf gives the fault that a panic tells of if it is one in a registered
// mapping, or nil. See debug.SetPanicOnFault.
func faultOf(r any) *FaultError {
	e, ok := r.(interface {
		error
		RuntimeError()
		Addr() uintptr
	})
	if !ok {
		return nil
	}
	m := mappingAt(e.Addr())
	if m == nil {
		return nil
	}
	return &FaultError{Mapping: m, Offset: uint64(e.Addr() - m.start)}
}

// FirstBadIovec gives the index of the first piece that has memory which cannot
// be read, or -1 if there is none. It is for a call that failed with EFAULT as
// a whole: answer the piece's request with an error, send the rest again. It
// touches every page, so it is for that case only. It does not find memory that
// can be read and not written.
func FirstBadIovec(v []Iovec) int {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	for i := range v {
		if v[i].Len > 0 && !readable(unsafe.Slice(v[i].Base, v[i].Len)) {
			return i
		}
	}
	return -1
}

// readable reads a byte of every page of b.
func readable(b []byte) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			ok = false
		}
	}()
	touchPages(b)
	return true
}

// touch is not inlined, so that the read is made though nobody wants its result.
//
//go:noinline
func touch(p *byte) byte { return *p }
