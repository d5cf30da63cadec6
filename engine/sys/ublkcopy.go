package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// RawPread reads into b, which must not be empty, from offset off of a device
// that answers at once.
func RawPread(fd int, b []byte, off int64) (int, Errno) {
	return rawAt(unix.SYS_PREAD64, fd, b, off)
}

// RawPwrite is RawPread's counterpart.
func RawPwrite(fd int, b []byte, off int64) (int, Errno) {
	return rawAt(unix.SYS_PWRITE64, fd, b, off)
}

func rawAt(call uintptr, fd int, b []byte, off int64) (int, Errno) {
	n, _, e := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(off), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
