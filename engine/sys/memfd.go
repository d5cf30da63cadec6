package sys

import "golang.org/x/sys/unix"

// Memfd makes a file that lives in memory only, of size bytes, all zero. name
// is shown in /proc and need not be unique.
func Memfd(name string, size int64) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, call("memfd_create", name, err)
	}
	if err := Truncate(fd, size); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Truncate sets the size of an open file. Whoever has mapped what is cut off
// faults there from now on: see Guard.
func Truncate(fd int, size int64) error { return call("ftruncate", "", unix.Ftruncate(fd, size)) }

// MapShared maps size bytes of a file from offset on, for reading and writing;
// others that map them see what is written. offset is a multiple of the page
// size. The memory may vanish, see RegisterMapping; it goes with Unmap.
func MapShared(fd int, offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return b, call("mmap", "", err)
}

// Unmap ends a mapping. b is what MapShared gave, whole.
func Unmap(b []byte) error { return call("munmap", "", unix.Munmap(b)) }
