package sys

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel interface of io_uring, linux/io_uring.h. What is here is plain
// calls and layouts; engine/iouring makes a ring of them.

// UringSQE is a submission entry. Cmd is the area of a command that the file
// itself understands; in a ring with entries of 128 bytes it goes on in the 64
// bytes that follow.
type UringSQE struct {
	Opcode      uint8
	Flags       uint8
	Ioprio      uint16
	Fd          int32  // or the index of a registered file, see UringFixedFile
	Off         uint64 // of UringOpCmd: the file's own opcode in the low half
	Addr        uint64
	Len         uint32
	OpFlags     uint32
	UserData    uint64
	BufIndex    uint16
	Personality uint16
	FileIndex   int32
	Cmd         [16]byte
}

// UringCQE is a completion entry; in a ring with entries of 32 bytes 16 more
// follow.
type UringCQE struct {
	UserData uint64
	Res      int32 // >= 0, or an errno, negative
	Flags    uint32
}

// UringParams is what io_uring_setup takes and fills in.
type UringParams struct {
	SQEntries    uint32
	CQEntries    uint32
	Flags        uint32
	SQThreadCPU  uint32
	SQThreadIdle uint32
	Features     uint32
	WQFd         uint32
	_            [3]uint32
	SQOff        UringOffsets
	CQOff        UringOffsets
}

// UringOffsets are bytes from the start of the rings' memory. The two rings name
// the later ones differently.
type UringOffsets struct {
	Head, Tail, Mask, Entries uint32
	FlagsOrOverflow           uint32 // submission: flags; completion: overflow
	DroppedOrCQEs             uint32 // submission: dropped; completion: entries
	ArrayOrFlags              uint32 // submission: array; completion: flags
	_                         uint32
	UserAddr                  uint64
}

// Opcodes, and flags of an entry.
const (
	UringOpNop       = 0
	UringOpReadv     = 1
	UringOpWritev    = 2
	UringOpFsync     = 3
	UringOpReadFix   = 4
	UringOpWriteFix  = 5
	UringOpFallocate = 17
	UringOpRead      = 22
	UringOpWrite     = 23
	UringOpCmd       = 46

	UringFixedFile = 1 << 0
	UringAsync     = 1 << 4 // by a worker of the kernel's, at once

	UringFsyncData = 1 << 0 // OpFlags of UringOpFsync: as fdatasync
)

// UringCQEMore is a flag of a completion: the entry goes on, more will follow.
const UringCQEMore = 1 << 1

// Flags of io_uring_setup.
const (
	UringSetupCQSize       = 1 << 3
	UringSetupClamp        = 1 << 4
	UringSetupSubmitAll    = 1 << 7
	UringSetupCoopTaskrun  = 1 << 8
	UringSetupTaskrunFlag  = 1 << 9
	UringSetupSQE128       = 1 << 10
	UringSetupCQE32        = 1 << 11
	UringSetupSingleIssuer = 1 << 12
	UringSetupDeferTaskrun = 1 << 13
)

// Features that the kernel reports at setup.
const (
	UringFeatSingleMmap = 1 << 0
	UringFeatNoDrop     = 1 << 1
	UringFeatExtArg     = 1 << 8
)

// Flags in the rings' shared memory.
const (
	UringSQOverflow = 1 << 1 // completions wait for room
	UringSQTaskrun  = 1 << 2 // there is work that io_uring_enter will do

	UringCQEventfdDisabled = 1 << 0
)

// Registrations.
const (
	UringRegisterBuffers   = 0
	UringUnregisterBuffers = 1
	UringRegisterFiles     = 2
	UringUnregisterFiles   = 3
	UringRegisterEventfd   = 4
	UringUpdateFiles       = 6
	UringRegisterProbe     = 8
	UringRegisterFiles2    = 13
	UringRegisterBuffers2  = 15
	UringUpdateBuffers     = 16

	UringSparse = 1 << 0 // UringTable.Flags: all places are empty at first
)

// UringTable is struct io_uring_rsrc_register: a table of N files or buffers.
type UringTable struct {
	N     uint32
	Flags uint32
	_     uint64
	Data  uint64
	Tags  uint64
}

// UringUpdate is struct io_uring_rsrc_update2: what N places of a table from
// Offset on are to have.
type UringUpdate struct {
	Offset uint32
	_      uint32
	Data   uint64
	Tags   uint64
	N      uint32
	_      uint32
}

// UringFilesUpdate is struct io_uring_files_update; -1 empties a place.
type UringFilesUpdate struct {
	Offset uint32
	_      uint32
	FDs    uint64
}

// Where the parts of a ring are mapped.
const (
	uringOffRings = 0
	uringOffSQEs  = 0x10000000

	uringEnterGetEvents = 1 << 0
	uringEnterExtArg    = 1 << 3
)

// UringSetup makes a ring. The descriptor is closed on exec.
func UringSetup(entries uint32, p *UringParams) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if e != 0 {
		return -1, &CallError{Call: "io_uring_setup", Errno: e}
	}
	return int(fd), nil
}

// UringMapRings maps both rings, and UringMapSQEs the submission entries, size
// bytes. Unmap ends either.
func UringMapRings(fd, size int) ([]byte, error) { return mapUring(fd, uringOffRings, size) }

// UringMapSQEs maps the submission entries, size bytes.
func UringMapSQEs(fd, size int) ([]byte, error) { return mapUring(fd, uringOffSQEs, size) }

func mapUring(fd int, offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	return b, call("mmap", "of a ring", err)
}

// RawUringEnter submits n entries and has the kernel do what it has put off for
// this thread; it does not wait for completions.
func RawUringEnter(fd int, n uint32) (int, Errno) {
	done, _, e := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(n), 0, uringEnterGetEvents, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(done), 0
}

// UringEnter is RawUringEnter for entries that may block for a moment: on a lock
// of the kernel's, for example.
func UringEnter(fd int, n uint32) (int, Errno) {
	done, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(n), 0, uringEnterGetEvents, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(done), 0
}

// uringWait is struct io_uring_getevents_arg.
type uringWait struct {
	sigmask   uint64
	sigmaskSz uint32
	minWait   uint32
	ts        uint64
}

// UringEnterWait submits n entries and waits for a completion, or for timeout,
// which is ETIME. It blocks. The kernel must have UringFeatExtArg.
func UringEnterWait(fd int, n uint32, timeout time.Duration) (int, Errno) {
	ts := unix.NsecToTimespec(int64(timeout))
	arg := uringWait{ts: uint64(uintptr(unsafe.Pointer(&ts)))}
	var pin runtime.Pinner
	pin.Pin(&ts) // arg has it as a number
	defer pin.Unpin()
	done, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(n), 1,
		uringEnterGetEvents|uringEnterExtArg, uintptr(unsafe.Pointer(&arg)), unsafe.Sizeof(arg))
	if e != 0 {
		return 0, e
	}
	return int(done), 0
}

// ETIME says that a wait on a ring has ended without a completion.
const ETIME = unix.ETIME

// UringRegister registers n things at arg.
func UringRegister(fd int, what uint32, arg unsafe.Pointer, n int) error {
	_, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), uintptr(what), uintptr(arg), uintptr(n), 0, 0)
	if e != 0 {
		return &CallError{Call: "io_uring_register", Errno: e}
	}
	return nil
}
