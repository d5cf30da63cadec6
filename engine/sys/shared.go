package sys

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mapping that others can map as well: what is behind it, who has been given
// that, and how they learn that it has gone.

// ErrUnregistered: a mapping has gone meanwhile.
var ErrUnregistered = errors.New("the mapping has been unregistered")

// mappingNumbers have been given to mappings so far.
var mappingNumbers atomic.Uint64

// backing is what a mapping has besides its place.
type backing struct {
	offset uint64 // in the file, of the mapping's first byte

	mu       sync.Mutex // guards what follows; nothing of others' is called under it
	fd       int        // of the mapping's own, -1: nobody can be given it
	unfit    error      // why not
	gone     bool
	watchers map[any]func()
}

// RegisterShared is RegisterMapping for memory that File can give to others: b is
// mapped from offset of a file on. The descriptor stays the caller's; the mapping
// keeps one of its own until Unregister.
//
// Only a file that cannot shrink is given away: see Shareable. Whoever maps it would
// else have to live with memory that vanishes, as we do.
func RegisterShared(name string, b []byte, fd int, offset uint64) (*Mapping, error) {
	own, unfit := shareable(fd)
	m, err := register(name, b, &backing{offset: offset, fd: own, unfit: unfit})
	if err != nil && own >= 0 {
		_ = unix.Close(own)
	}
	return m, err
}

// shareable gives a descriptor of our own of a file that cannot shrink, or why
// there is none.
func shareable(fd int) (own int, unfit error) {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return -1, errors.New("the file behind it can be truncated: have it made by memfd_create and sealed (QEMU: memory-backend-memfd with seal=on, its default)")
	}
	own, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, call("fcntl F_DUPFD_CLOEXEC", "", err)
	}
	return own, nil
}

// MappingOf gives the registered mapping that all of b lies in, and where in it b
// starts, in bytes; nil if there is none. It takes no lock and allocates nothing.
func MappingOf(b []byte) (m *Mapping, at uint64) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	m = mappingAt(start)
	if m == nil || uintptr(len(b)) > m.end-start {
		return nil, 0
	}
	return m, uint64(start - m.start)
}

// Number is the mapping's own: no other one ever gets it. It is not 0.
func (m *Mapping) Number() uint64 { return m.number }

// Size is the mapping's in bytes.
func (m *Mapping) Size() int { return int(m.end - m.start) }

// Shareable tells why the mapping cannot be given to others, nil if it can.
func (m *Mapping) Shareable() error {
	m.back.mu.Lock()
	defer m.back.mu.Unlock()
	if m.back.gone {
		return ErrUnregistered
	}
	return m.back.unfit
}

// File calls f with a descriptor of the file behind the mapping, and where in it
// the mapping starts. The descriptor is good during the call, and Unregister waits
// for that: f does not block.
func (m *Mapping) File(f func(fd int, offset uint64) error) error {
	b := m.back
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.gone:
		return ErrUnregistered
	case b.unfit != nil:
		return b.unfit
	}
	return f(b.fd, b.offset)
}

// Watch has gone called, once, when the mapping is unregistered. It is called by
// Unregister, must not wait, and may call anything of the mapping's. One with the
// same key takes the place of another. false: the mapping has gone already, and
// gone is not called.
func (m *Mapping) Watch(key any, gone func()) bool {
	m.back.mu.Lock()
	defer m.back.mu.Unlock()
	if m.back.gone {
		return false
	}
	if m.back.watchers == nil {
		m.back.watchers = map[any]func(){}
	}
	m.back.watchers[key] = gone
	return true
}

// Unwatch is the inverse of Watch. A call that is under way is not waited for.
func (m *Mapping) Unwatch(key any) {
	m.back.mu.Lock()
	defer m.back.mu.Unlock()
	delete(m.back.watchers, key)
}

// end closes the file and tells those who watch.
func (b *backing) end() {
	b.mu.Lock()
	watchers := b.watchers
	b.watchers, b.gone = nil, true
	if b.fd >= 0 {
		_ = unix.Close(b.fd)
		b.fd = -1
	}
	b.mu.Unlock()
	for _, gone := range watchers {
		gone()
	}
}

// Touch reads a byte of every page of data, so that each is there and is ours: the
// kernel charges a page of a file in memory to whoever touches it first. Memory that
// is not there any more gives a *FaultError. The goroutine is one that Guard may be
// called on. It allocates nothing.
func Touch(data [][]byte) error {
	return Guard(func() {
		for _, b := range data {
			if len(b) > 0 {
				touchPages(b)
			}
		}
	})
}

// touchPages reads a byte of every page that b, which is not empty, lies in.
func touchPages(b []byte) {
	page := os.Getpagesize()
	touch(&b[0])
	first := page - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))%uintptr(page))
	for at := first; at < len(b); at += page {
		touch(&b[at])
	}
}
