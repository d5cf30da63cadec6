package vhostuser

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"blockengine/engine/sys"
	"blockengine/frontends/virtqueue"
)

// slot is a region of guest memory that is mapped here.
type slot struct {
	region
	host    []byte // the region, size bytes
	whole   []byte // the mapping that it lies in, which begins and ends at pages
	mapping *sys.Mapping
}

// mapSlot maps a region of a file, which whoever serves the disk can be given. The
// descriptor stays the caller's.
func mapSlot(owner string, r region, fd int) (*slot, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	s, err := mapArea(owner, fd, r.offset, r.size, sys.RegisterShared)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", r, err)
	}
	s.region = r
	return s, nil
}

// check refuses a region that cannot be one, whatever its file.
func (r region) check() error {
	switch {
	case r.size == 0:
		return broken("%v: it is empty", r)
	case r.guest+r.size < r.guest || r.user+r.size < r.user || r.offset+r.size < r.offset:
		return broken("%v: it runs over the end of the address space", r)
	}
	return nil
}

func (r region) String() string {
	return fmt.Sprintf("memory region of %d bytes at guest address %#x, user address %#x, offset %#x", r.size, r.guest, r.user, r.offset)
}

// mapArea maps [offset, offset+size) of a file, which may have huge pages, and
// registers it, so that a fault in it is an error and no crash.
func mapArea(owner string, fd int, offset, size uint64, register registerFunc) (*slot, error) {
	page, err := sys.FilePages(fd)
	if err != nil {
		return nil, err
	}
	have, known, err := sys.FileSize(fd)
	if err != nil {
		return nil, err
	}
	if known && offset+size > have {
		return nil, fmt.Errorf("its file has %d bytes only", have)
	}
	skip := offset % uint64(page)
	if size > math.MaxInt64/2 || offset > math.MaxInt64/2 {
		return nil, errors.New("it is larger than any mapping")
	}
	length := (skip + size + uint64(page) - 1) / uint64(page) * uint64(page)
	whole, err := sys.MapShared(fd, int64(offset-skip), int(length))
	if err != nil {
		return nil, err
	}
	s := &slot{whole: whole, host: whole[skip : skip+size : skip+size]}
	if s.mapping, err = register(owner, whole, fd, offset-skip); err != nil {
		_ = sys.Unmap(whole)
		return nil, err
	}
	return s, nil
}

// registerFunc makes a mapping known: sys.RegisterShared or unshared.
type registerFunc func(owner string, b []byte, fd int, offset uint64) (*sys.Mapping, error)

// unshared is for memory that is nobody else's.
func unshared(owner string, b []byte, _ int, _ uint64) (*sys.Mapping, error) {
	return sys.RegisterMapping(owner, b)
}

// unmap ends the mapping. Nobody may have any of it on loan.
func (s *slot) unmap() error {
	s.mapping.Unregister()
	return sys.Unmap(s.whole)
}

// memory is the guest's memory as a connection has it.
type memory struct {
	slots []*slot
	table *virtqueue.Memory // of the slots
}

// with gives the memory with more slots, or why that cannot be.
func (m *memory) with(more ...*slot) (memory, error) {
	all := append(slices.Clone(m.slots), more...)
	if len(all) > maxSlots {
		return memory{}, fmt.Errorf("more than %d memory regions", maxSlots)
	}
	if err := apart(all); err != nil {
		return memory{}, err
	}
	return newMemory(all)
}

// without gives the memory without a slot.
func (m *memory) without(s *slot) (memory, error) {
	return newMemory(slices.DeleteFunc(slices.Clone(m.slots), func(o *slot) bool { return o == s }))
}

func newMemory(slots []*slot) (memory, error) {
	regions := make([]virtqueue.Region, len(slots))
	for i, s := range slots {
		regions[i] = virtqueue.Region{Guest: s.guest, Host: s.host}
	}
	table, err := virtqueue.NewMemory(regions)
	return memory{slots: slots, table: table}, err
}

// apart checks that no two slots share user addresses; for guest addresses the
// table does.
func apart(slots []*slot) error {
	sorted := slices.SortedFunc(slices.Values(slots), func(a, b *slot) int {
		if a.user < b.user {
			return -1
		}
		return 1
	})
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; b.user-a.user < a.size {
			return broken("%v overlaps %v", a.region, b.region)
		}
	}
	return nil
}

// find gives the slot that a region names: by guest address, user address and
// size (vhost-user, REM_MEM_REG).
func (m *memory) find(r region) *slot {
	for _, s := range m.slots {
		if s.guest == r.guest && s.user == r.user && s.size == r.size {
			return s
		}
	}
	return nil
}

// at gives n bytes at an address of the front-end's, which must lie in one
// region.
func (m *memory) at(user, n uint64) ([]byte, error) {
	for _, s := range m.slots {
		if user >= s.user && user-s.user < s.size {
			from := user - s.user
			if n > s.size-from {
				return nil, fmt.Errorf("%d bytes at user address %#x reach beyond their memory region", n, user)
			}
			return s.host[from : from+n : from+n], nil
		}
	}
	return nil, fmt.Errorf("user address %#x lies in none of the %d memory regions", user, len(m.slots))
}

// unmap ends all mappings.
func (m *memory) unmap() (err error) {
	for _, s := range m.slots {
		err = errors.Join(err, s.unmap())
	}
	*m = memory{}
	return err
}
