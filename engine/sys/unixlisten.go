package sys

import (
	"errors"
	"fmt"
	"os"
)

// ListenUnix is ListenMode for a Unix socket that replaces one which its owner
// has left behind. It refuses a path where somebody listens, or where something
// else stands. Errors begin with the address.
func ListenUnix(path string, backlog int, mode os.FileMode) (int, error) {
	at := SocketAddr{Path: path}
	fd, err := ListenMode(at, backlog, uint32(mode.Perm()))
	if errors.Is(err, Errno(EADDRINUSE)) {
		if err = removeStale(at); err != nil {
			return -1, err
		}
		fd, err = ListenMode(at, backlog, uint32(mode.Perm()))
	}
	if errors.Is(err, Errno(EADDRINUSE)) {
		return -1, errInUse(at)
	}
	if err != nil {
		return -1, fmt.Errorf("%v: %w", at, err)
	}
	return fd, nil
}

func errInUse(at SocketAddr) error {
	return fmt.Errorf("%v: in use by another process; stop it or choose another path", at)
}

// removeStale unlinks a socket that refuses connections; anything else that
// stands there is not ours to remove.
func removeStale(at SocketAddr) error {
	st, err := os.Lstat(at.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // gone by now
	}
	if err != nil {
		return fmt.Errorf("%v: %w", at, err)
	}
	if st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%v: a file that is no socket stands there; remove it or choose another path", at)
	}
	fd, _, err := Connect(at)
	if err == nil {
		_ = Close(fd)
	}
	if !errors.Is(err, Errno(ECONNREFUSED)) {
		return errInUse(at)
	}
	if err := os.Remove(at.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%v: a socket that nobody listens on is in the way: %w", at, err)
	}
	return nil
}
