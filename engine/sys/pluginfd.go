package sys

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// PacketPair makes two connected Unix sockets that keep messages apart. The
// first is non-blocking, for the caller; the second blocks, for a process that
// inherits it. Both are closed on exec.
func PacketPair() (own, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, call("socketpair", "", err)
	}
	if err := SetNonblock(fds[0]); err != nil {
		return -1, -1, errors.Join(err, Close(fds[0]), Close(fds[1]))
	}
	return fds[0], fds[1], nil
}

// ProgramCopy gives a file in memory with the bytes of r, at most limit, that
// can be executed and that nobody can change any more: what was looked at is
// what runs.
func ProgramCopy(name string, r io.Reader, limit int64) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 there was no such flag, and all could be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("programs in memory are forbidden here: set the sysctl vm.memfd_noexec to 0 or 1: %w", call("memfd_create", name, err))
	}
	if err != nil {
		return nil, call("memfd_create", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	n, err := io.Copy(f, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = ErrTooLarge
	}
	if err == nil {
		_, e := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		err = call("fcntl F_ADD_SEALS", name, e)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ErrTooLarge: there is more than the limit allows.
var ErrTooLarge = errors.New("it is larger than the limit")
