package sys

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of futex(2), on memory that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// FutexWake wakes one of those who sleep on word, in whatever process. It never
// blocks.
func FutexWake(word *atomic.Uint32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1, 0, 0, 0)
}

// FutexWait sleeps until somebody wakes those who sleep on word, but not if its
// value is not seen, nor for longer than d. It may also return for no reason.
func FutexWait(word *atomic.Uint32, seen uint32, d time.Duration) {
	ts := unix.NsecToTimespec(int64(max(d, 0)))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(seen), uintptr(unsafe.Pointer(&ts)), 0, 0)
}
