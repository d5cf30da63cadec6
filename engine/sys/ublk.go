package sys

import (
	"golang.org/x/sys/unix"
)

// OpenDevice opens a character device for reading and writing. It is closed on
// exec.
func OpenDevice(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	return fd, call("open", path, err)
}

// MapReadOnly maps size bytes of a device from offset on, for reading; Unmap ends
// it.
func MapReadOnly(fd int, offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	return b, call("mmap", "of a device", err)
}

// MapMemory gives size bytes of memory of its own, none of it there yet: see
// Populate. It is not inherited by processes that are forked.
func MapMemory(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, call("mmap", "of memory", err)
	}
	if err := unix.Madvise(b, unix.MADV_DONTFORK); err != nil {
		_ = unix.Munmap(b)
		return nil, call("madvise", "", err)
	}
	return b, nil
}

// Populate has all pages of b there, so that to touch it takes no page fault. What
// is in them stays. It takes Linux 5.14.
func Populate(b []byte) error {
	return call("madvise", "to populate memory", unix.Madvise(b, unix.MADV_POPULATE_WRITE))
}

// IOFlusher tells whether this thread is one that the kernel's memory management
// does not make wait for write-back (PR_GET_IO_FLUSHER).
func IOFlusher() (bool, error) {
	v, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	return v == 1, call("prctl PR_GET_IO_FLUSHER", "", err)
}

// SetIOFlusher makes this thread, those that it will make, and what it executes,
// such ones. It needs CAP_SYS_RESOURCE.
func SetIOFlusher() error {
	return call("prctl PR_SET_IO_FLUSHER", "", unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0))
}

// LockMemory keeps in memory what the process has touched and will touch
// (mlockall). What is only reserved stays so.
func LockMemory() error {
	const onFault = 4 // MCL_ONFAULT
	return call("mlockall", "", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|onFault))
}
