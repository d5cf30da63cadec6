package iouring

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"blockengine/engine/sys"
)

// registration is memory for the arguments of registrations.
type registration struct{ fds []int32 }

// RegisterFiles makes files known by index, so that the kernel need not look each
// up for every entry that has sys.UringFixedFile. Once for a ring.
func (r *Ring) RegisterFiles(fds ...int) error {
	r.scratch.fds = r.scratch.fds[:0]
	for _, fd := range fds {
		r.scratch.fds = append(r.scratch.fds, int32(fd))
	}
	return r.register("files", sys.UringRegisterFiles, unsafe.Pointer(unsafe.SliceData(r.scratch.fds)), len(fds))
}

// RegisterBuffers makes memory known by index for reads and writes of fixed
// buffers; the kernel holds it in place until the ring is closed. It is not Go's
// heap. Once for a ring.
func (r *Ring) RegisterBuffers(bufs ...[]byte) error {
	v := make([]sys.Iovec, len(bufs))
	for i, b := range bufs {
		if len(b) == 0 {
			return fmt.Errorf("io_uring: buffer %d to be registered is empty", i)
		}
		sys.SetIovec(&v[i], b)
	}
	return r.register("buffers", sys.UringRegisterBuffers, unsafe.Pointer(unsafe.SliceData(v)), len(v))
}

// RegisterEventfd has the kernel add to an eventfd when HasWork becomes true.
func (r *Ring) RegisterEventfd(fd int) error {
	no := int32(fd)
	return r.register("an eventfd", sys.UringRegisterEventfd, unsafe.Pointer(&no), 1)
}

// Notify turns the eventfd on or off; it is on at first. Whoever turns it on looks
// for completions afterwards: hence the swap, since with the race detector a store
// to memory that is not Go's is not ordered with the loads after it.
func (r *Ring) Notify(on bool) {
	if on {
		atomic.SwapUint32(r.cqFlags, 0)
		return
	}
	atomic.StoreUint32(r.cqFlags, sys.UringCQEventfdDisabled)
}

func (r *Ring) register(name string, what uint32, arg unsafe.Pointer, n int) error {
	if err := sys.UringRegister(r.fd, what, arg, n); err != nil {
		return fmt.Errorf("io_uring: register %s: %w", name, err)
	}
	return nil
}

// probed is struct io_uring_probe with room for all opcodes that there may be.
type probed struct {
	lastOp uint8
	opsLen uint8
	_      uint16
	_      [3]uint32
	ops    [256]struct {
		op    uint8
		_     uint8
		flags uint16
		_     uint32
	}
}

// opSupported is the flag of an opcode that the kernel has.
const opSupported = 1 << 0

// Missing gives those of the opcodes that this kernel lacks.
func (r *Ring) Missing(ops ...uint8) ([]uint8, error) {
	p := &probed{}
	if err := r.register("a probe", sys.UringRegisterProbe, unsafe.Pointer(p), len(p.ops)); err != nil {
		return nil, err
	}
	var missing []uint8
	for _, op := range ops {
		if p.ops[op].flags&opSupported == 0 {
			missing = append(missing, op)
		}
	}
	return missing, nil
}
