package builtin

import (
	"fmt"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// Staging memory of a reactor. A request of a network client's lies wherever it
// came to lie, behind a header that is no multiple of a sector.
const (
	stagedBytes = 64 << 10 // a place: the longest request that is copied, in bytes
	stagedSlots = 128      // places
)

// staging is aligned memory for the payload of requests that direct I/O cannot
// move from and to where it lies. All files on a reactor share it; who finds no
// place leaves the request to the workers. Places are taken last in, first out, so
// memory is there for as many as there were at a time, 8 MiB at most.
type staging struct {
	mem   []byte
	free  []uint16
	users int
}

// stagingKey is under which a reactor has its staging memory.
type stagingKey struct{}

// joinStaging gives the staging memory of the hub's reactor, which it makes when it
// is first asked for.
func joinStaging(h *iouring.Hub) (*staging, error) {
	r := h.Reactor()
	if s, ok := r.Shared(stagingKey{}).(*staging); ok {
		s.users++
		return s, nil
	}
	mem, err := sys.MapMemory(stagedSlots * stagedBytes)
	if err != nil {
		return nil, fmt.Errorf("memory for direct I/O: %w", err)
	}
	s := &staging{mem: mem, users: 1}
	for i := range uint16(stagedSlots) {
		s.free = append(s.free, stagedSlots-1-i)
	}
	r.Share(stagingKey{}, s)
	return s, nil
}

// leave gives the memory back with its last user. If a ring has failed the kernel
// may still move bytes to and from places that were never given back: then the
// memory stays.
func (s *staging) leave(h *iouring.Hub) {
	if s.users--; s.users > 0 {
		return
	}
	h.Reactor().Share(stagingKey{}, nil)
	if len(s.free) == stagedSlots {
		_ = sys.Unmap(s.mem) // our own mapping: nothing can fail
	}
}

// take gives a place for n bytes, if there is one.
func (s *staging) take(n uint64) (slot uint16, mem []byte) {
	if n > stagedBytes || len(s.free) == 0 {
		return 0, nil
	}
	slot = s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	at := int(slot) * stagedBytes
	return slot, s.mem[at : at+int(n) : at+int(n)]
}

func (s *staging) give(slot uint16) { s.free = append(s.free, slot) }

// stage begins r by way of staging memory, and reports whether there was a place.
func (x *fileRing) stage(r *block.Request) bool {
	if x.staging == nil {
		return false
	}
	slot, mem := x.staging.take(r.Length)
	if mem == nil {
		return false
	}
	if r.Op == block.OpWrite {
		if st := copyGuarded(r, 0, mem, false); st != block.OK {
			x.staging.give(slot)
			r.Status = st
			x.ch.done.Complete(r)
			return true
		}
	}
	op := x.op(r)
	op.moved, op.staged, op.slot = 0, mem, slot
	x.enter(op)
	return true
}

// unstage puts what was read where it belongs.
func (op *ringOp) unstage() block.Status {
	r := op.r
	if r.Op != block.OpRead {
		return block.OK
	}
	st := copyGuarded(r, 0, op.staged, true)
	if st == block.OK {
		r.Filled = r.Length
	}
	return st
}
