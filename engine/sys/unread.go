package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// RawUnread gives how many bytes sent on a connected Unix socket its peer has
// not read; 0 if that cannot be told.
func RawUnread(fd int) int {
	var n int32
	_, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return 0
	}
	return int(n)
}
