package worker

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// futexWait sleeps until somebody wakes those who sleep on word, but not if its
// value is not seen. It may also return for no reason.
func futexWait(word *atomic.Uint32, seen uint32) {
	const wait = 0
	_, _, _ = syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wait, uintptr(seen), 0, 0, 0)
}

// futexWake wakes one of those who sleep on word.
func futexWake(word *atomic.Uint32) {
	const wake = 1
	_, _, _ = syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wake, 1, 0, 0, 0)
}

// signal adds one to an event counter, which is non-blocking: if it is full,
// whoever watches it knows.
func signal(bell int) {
	one := uint64(1)
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(bell), uintptr(unsafe.Pointer(&one)), 8)
}
