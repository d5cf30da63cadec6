package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FilePages gives the size of the pages that a file is mapped in: the system's,
// or that of the huge pages of a file on hugetlbfs, whose mappings begin and end
// at such pages only.
func FilePages(fd int) (int, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return 0, call("fstatfs", "", err)
	}
	page := os.Getpagesize()
	if st.Type == unix.HUGETLBFS_MAGIC && st.Bsize > int64(page) && st.Bsize&(st.Bsize-1) == 0 {
		page = int(st.Bsize)
	}
	return page, nil
}

// FileSize gives the size of a file of bytes; known is false for what has none,
// such as a device.
func FileSize(fd int) (size uint64, known bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false, call("fstat", "", err)
	}
	return uint64(st.Size), st.Mode&unix.S_IFMT == unix.S_IFREG, nil
}

// SealedMemfd is Memfd with a size that nobody can change any more, whoever
// else gets the descriptor: mapped, it does not vanish.
func SealedMemfd(name string, size int64) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, call("memfd_create", name, err)
	}
	err = Truncate(fd, size)
	if err == nil {
		_, e := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		err = call("fcntl F_ADD_SEALS", name, e)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// AdoptEventfd checks that a descriptor which a stranger has passed is an event
// counter, and makes it non-blocking: so it does not hold up whoever writes to
// it. (The stranger shares that flag and could take it back.)
func AdoptEventfd(fd int) error {
	what, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return fmt.Errorf("what descriptor %d is: %w", fd, err)
	}
	if what != "anon_inode:[eventfd]" {
		return fmt.Errorf("descriptor %d is %q, not an eventfd", fd, what)
	}
	return SetNonblock(fd)
}

// DrainEventfd resets a counter that a stranger shares. It may block if the
// stranger wants that, so it is not for a reactor.
func DrainEventfd(fd int) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 0); err == nil && n > 0 {
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
	}
}
