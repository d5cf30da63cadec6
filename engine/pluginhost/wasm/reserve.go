package wasm

import (
	"fmt"
	"syscall"

	"github.com/tetratelabs/wazero/experimental"
)

// reservation is the linear memory of one instance: address space for its cap
// from the start, pages as it grows. So it never moves, and neither the heap
// of the engine nor its collector knows of it.
type reservation struct {
	space     []byte // the whole cap, nil when released
	committed int    // bytes that may be touched
}

// reserve takes size bytes of address space.
func reserve(size uint64) (*reservation, error) {
	space, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_NONE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space for a plugin's memory: %w", size, err)
	}
	return &reservation{space: space}, nil
}

// Allocate implements experimental.MemoryAllocator: a plugin has one memory,
// and this is it.
func (r *reservation) Allocate(_, _ uint64) experimental.LinearMemory { return r }

// Reallocate commits pages up to size. It gives nil when size is beyond the
// cap or the host has no memory left; the plugin's memory.grow then fails.
func (r *reservation) Reallocate(size uint64) []byte {
	if size > uint64(len(r.space)) {
		return nil
	}
	if n := int(size); n > r.committed {
		err := syscall.Mprotect(r.space[r.committed:n], syscall.PROT_READ|syscall.PROT_WRITE)
		if err != nil {
			return nil
		}
		r.committed = n
	}
	return r.space[:size:size]
}

// Free releases the memory. Views of it are gone; a second call does nothing.
func (r *reservation) Free() {
	if r.space == nil {
		return
	}
	// It fails only for an address that was never mapped.
	_ = syscall.Munmap(r.space)
	r.space, r.committed = nil, 0
}
