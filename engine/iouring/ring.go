package iouring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"blockengine/engine/sys"
)

// SQE and CQE are entries of the rings.
type (
	SQE = sys.UringSQE
	CQE = sys.UringCQE
)

const (
	sqeSize    = int(unsafe.Sizeof(SQE{}))
	cqeSize    = int(unsafe.Sizeof(CQE{}))
	maxEntries = 1 << 15 // the kernel's
)

// Options of a ring.
type Options struct {
	Entries int // to be submitted at a time, 1 to 32768; rounded up to a power of two
	// Completions is how many are held until they are reaped, at least Entries;
	// 0: twice as many as Entries. More than that wait in the kernel.
	Completions int
	SQE128      bool // entries of 128 bytes, for commands that need the room
	CQE32       bool // completions of 32 bytes
	// Owned says that the thread that makes the ring is the only one that
	// submits and reaps. The kernel then does the work of completions when that
	// thread asks for it, and interrupts it never.
	Owned bool
}

// Ring is a pair of rings that are shared with the kernel. One thread uses it at
// a time; with Options.Owned it is always the same.
type Ring struct {
	fd          int
	rings, sqes []byte // mapped
	sqeSize     uintptr
	cqeSize     uintptr
	features    uint32
	flags       uint32 // of the setup

	sqHead, sqTail, sqFlags *uint32
	sqMask, sqEntries       uint32
	next                    uint32 // the submission tail, ours; the kernel's is behind it by what waits
	told                    uint32 // the tail that the kernel has seen
	cqHead, cqTail, cqFlags *uint32
	cqMask                  uint32
	cqes                    unsafe.Pointer
	read                    uint32 // the completion head

	scratch registration
}

// New makes a ring. With Options.Owned it is called on the thread that uses it.
// An error that is ErrUnavailable says that this process cannot have any.
func New(o Options) (*Ring, error) {
	if o.Entries < 1 || o.Entries > maxEntries {
		return nil, fmt.Errorf("io_uring: a ring of %d entries: give 1 to %d", o.Entries, maxEntries)
	}
	if o.Completions != 0 && (o.Completions < o.Entries || o.Completions > 2*maxEntries) {
		return nil, fmt.Errorf("io_uring: a ring of %d completions: give %d to %d", o.Completions, o.Entries, 2*maxEntries)
	}
	var err error
	for _, how := range setups(o) {
		p := sys.UringParams{Flags: how, CQEntries: uint32(o.Completions)}
		var fd int
		if fd, err = sys.UringSetup(uint32(o.Entries), &p); err == nil {
			return mapped(fd, &p)
		}
		if !errors.Is(err, syscall.EINVAL) { // EINVAL: a flag that this kernel does not know
			break
		}
	}
	return nil, unavailable(err)
}

// setups are the flags to be tried, the best first.
func setups(o Options) []uint32 {
	base := uint32(sys.UringSetupClamp)
	if o.SQE128 {
		base |= sys.UringSetupSQE128
	}
	if o.CQE32 {
		base |= sys.UringSetupCQE32
	}
	if o.Completions != 0 {
		base |= sys.UringSetupCQSize
	}
	if !o.Owned {
		return []uint32{base | sys.UringSetupSubmitAll, base}
	}
	const all, flag = sys.UringSetupSubmitAll, sys.UringSetupTaskrunFlag
	return []uint32{
		base | all | flag | sys.UringSetupSingleIssuer | sys.UringSetupDeferTaskrun, // Linux 6.1
		base | all | flag | sys.UringSetupCoopTaskrun,                               // 5.19
	}
}

// ErrUnavailable says that this process cannot have a ring.
var ErrUnavailable = errors.New("io_uring cannot be used")

// disabledPath is where the administrator says who may have rings.
const disabledPath = "/proc/sys/kernel/io_uring_disabled"

// unavailable says why, and how to mend it.
func unavailable(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		if v, e := os.ReadFile(disabledPath); e == nil && strings.TrimSpace(string(v)) != "0" {
			return fmt.Errorf("%w: %w: the kernel's setting io_uring_disabled is %s: set it to 0 (sysctl kernel.io_uring_disabled=0)",
				ErrUnavailable, err, strings.TrimSpace(string(v)))
		}
		return fmt.Errorf("%w: %w: a seccomp filter, of a container for instance, forbids it: allow io_uring_setup, io_uring_enter and io_uring_register", ErrUnavailable, err)
	case errors.Is(err, syscall.ENOSYS):
		return fmt.Errorf("%w: %w: the kernel was built without it (CONFIG_IO_URING)", ErrUnavailable, err)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%w: %w: this needs Linux 5.19", ErrUnavailable, err)
	case errors.Is(err, sys.ENOMEM):
		return fmt.Errorf("%w: %w: raise the limit on locked memory (ulimit -l)", ErrUnavailable, err)
	}
	return fmt.Errorf("io_uring: %w", err)
}

// mapped maps what the kernel has made. It takes over fd.
func mapped(fd int, p *sys.UringParams) (*Ring, error) {
	r := &Ring{fd: fd, features: p.Features, flags: p.Flags, sqeSize: uintptr(sqeSize), cqeSize: uintptr(cqeSize)}
	if p.Flags&sys.UringSetupSQE128 != 0 {
		r.sqeSize *= 2
	}
	if p.Flags&sys.UringSetupCQE32 != 0 {
		r.cqeSize *= 2
	}
	const needed = sys.UringFeatSingleMmap | sys.UringFeatNoDrop | sys.UringFeatExtArg
	if p.Features&needed != needed {
		_ = sys.Close(fd)
		return nil, fmt.Errorf("%w: the kernel's has features %#x and not all of %#x: this needs Linux 5.11", ErrUnavailable, p.Features, needed)
	}
	size := max(int(p.SQOff.ArrayOrFlags)+int(p.SQEntries)*4, int(p.CQOff.DroppedOrCQEs)+int(p.CQEntries)*int(r.cqeSize))
	var err error
	if r.rings, err = sys.UringMapRings(fd, size); err == nil {
		r.sqes, err = sys.UringMapSQEs(fd, int(p.SQEntries)*int(r.sqeSize))
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("io_uring: %w", err)
	}
	r.locate(p)
	return r, nil
}

// locate finds the parts in what was mapped.
func (r *Ring) locate(p *sys.UringParams) {
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqFlags = at(p.SQOff.Head), at(p.SQOff.Tail), at(p.SQOff.FlagsOrOverflow)
	r.sqMask, r.sqEntries = *at(p.SQOff.Mask), p.SQEntries
	r.cqHead, r.cqTail, r.cqFlags = at(p.CQOff.Head), at(p.CQOff.Tail), at(p.CQOff.ArrayOrFlags)
	r.cqMask, r.cqes = *at(p.CQOff.Mask), unsafe.Pointer(&r.rings[p.CQOff.DroppedOrCQEs])
	for i := range p.SQEntries { // place i always holds entry i
		*at(p.SQOff.ArrayOrFlags + 4*i) = i
	}
}

// Close ends the ring. What it had in flight is cancelled, not waited for: the
// caller keeps the memory that the kernel may still touch.
func (r *Ring) Close() {
	if r.rings != nil {
		_ = sys.Unmap(r.rings)
	}
	if r.sqes != nil {
		_ = sys.Unmap(r.sqes)
	}
	r.rings, r.sqes = nil, nil
	_ = sys.Close(r.fd)
}

// Features are the kernel's IORING_FEAT_… bits.
func (r *Ring) Features() uint32 { return r.features }

// Deferred tells whether the kernel leaves the work of completions to the
// owner's thread, as Options.Owned asks for; kernels before 6.1 do it whenever
// that thread enters the kernel.
func (r *Ring) Deferred() bool { return r.flags&sys.UringSetupDeferTaskrun != 0 }

// Get gives an entry to fill in, empty, which the next Submit submits; nil when
// there is no room before a Submit.
func (r *Ring) Get() *SQE {
	if r.next-atomic.LoadUint32(r.sqHead) >= r.sqEntries {
		return nil
	}
	e := (*SQE)(unsafe.Pointer(&r.sqes[uintptr(r.next&r.sqMask)*r.sqeSize]))
	clear(unsafe.Slice((*byte)(unsafe.Pointer(e)), r.sqeSize))
	r.next++
	return e
}

// Command gives the area of e for a command of the file's own: 16 bytes, or 80
// in a ring with Options.SQE128.
func (r *Ring) Command(e *SQE) []byte {
	return unsafe.Slice(&e.Cmd[0], r.sqeSize-unsafe.Offsetof(e.Cmd))
}

// Pending is how many entries the next Submit has for the kernel.
func (r *Ring) Pending() int { return int(r.next - r.told) }

// publish shows the kernel what was filled in and gives how many entries it has
// not taken.
func (r *Ring) publish() uint32 {
	atomic.StoreUint32(r.sqTail, r.next)
	return r.next - r.told
}

// took counts what the kernel has taken.
func (r *Ring) took(n int, e sys.Errno) error {
	r.told += uint32(n)
	if e != 0 {
		return &sys.CallError{Call: "io_uring_enter", Errno: e}
	}
	return nil
}

// Submit hands over what was filled in, and has the kernel do the work that it
// has put off for this thread. It does not wait; it is for entries that cannot
// block. What the kernel does not take, for lack of memory, stays for the next.
func (r *Ring) Submit() error {
	return r.took(sys.RawUringEnter(r.fd, r.publish()))
}

// SubmitSlowly is Submit for entries that may block for a moment.
func (r *Ring) SubmitSlowly() error {
	return r.took(sys.UringEnter(r.fd, r.publish()))
}

// SubmitAndWait hands over what was filled in and waits for a completion, at most
// for timeout. That nothing came the kernel tells, as ETIME or EINTR, only if
// there was nothing to be handed over: so ask Next.
func (r *Ring) SubmitAndWait(timeout time.Duration) error {
	return r.took(sys.UringEnterWait(r.fd, r.publish(), timeout))
}

// HasWork tells whether Next has something, or Submit would bring something. It
// reads memory only.
func (r *Ring) HasWork() bool {
	return r.Ready() || atomic.LoadUint32(r.sqFlags)&(sys.UringSQTaskrun|sys.UringSQOverflow) != 0
}

// Ready tells whether Next has something.
func (r *Ring) Ready() bool { return atomic.LoadUint32(r.cqTail) != r.read }

// Next takes a completion.
func (r *Ring) Next() (CQE, bool) {
	if atomic.LoadUint32(r.cqTail) == r.read {
		return CQE{}, false
	}
	c := *(*CQE)(unsafe.Add(r.cqes, uintptr(r.read&r.cqMask)*r.cqeSize))
	r.read++
	atomic.StoreUint32(r.cqHead, r.read)
	return c, true
}
