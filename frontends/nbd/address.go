package nbd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"blockengine/engine/sys"
)

// resolve turns what a user writes into an address to bind.
func resolve(network, address string) (sys.SocketAddr, error) {
	switch network {
	case "unix":
		if address == "" {
			return sys.SocketAddr{}, errors.New("nbd: listen on unix: the path is empty")
		}
		return sys.SocketAddr{Path: address}, nil
	case "tcp":
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return sys.SocketAddr{}, fmt.Errorf("nbd: listen on tcp:%s: %w (write HOST:PORT, an IPv6 host in brackets)", address, err)
		}
		ip := a.AddrPort()
		if !ip.IsValid() { // ":PORT" is every address
			ip = (&net.TCPAddr{IP: net.IPv6zero, Port: a.Port}).AddrPort()
		}
		return sys.SocketAddr{IP: ip}, nil
	}
	return sys.SocketAddr{}, fmt.Errorf("nbd: listen on network %q: use tcp or unix", network)
}

// listen binds, replacing a Unix socket that its owner left behind.
func listen(at sys.SocketAddr, mode os.FileMode) (int, error) {
	fd, err := sys.ListenMode(at, backlog, uint32(mode.Perm()))
	if at.Path != "" && errors.Is(err, sys.Errno(sys.EADDRINUSE)) {
		if err = removeStale(at); err != nil {
			return -1, err
		}
		fd, err = sys.ListenMode(at, backlog, uint32(mode.Perm()))
	}
	if errors.Is(err, sys.Errno(sys.EADDRINUSE)) {
		return -1, fmt.Errorf("nbd: listen on %v: in use by another process; stop it or choose another address", at)
	}
	if err != nil {
		return -1, fmt.Errorf("nbd: listen on %v: %w", at, err)
	}
	return fd, nil
}

// removeStale unlinks a socket that refuses connections; anything else that
// stands there is not ours to remove.
func removeStale(at sys.SocketAddr) error {
	st, err := os.Lstat(at.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // gone by now
	}
	if err != nil {
		return fmt.Errorf("nbd: listen on %v: %w", at, err)
	}
	if st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("nbd: listen on %v: a file that is no socket stands there; remove it or choose another path", at)
	}
	fd, _, err := sys.Connect(at)
	if err == nil {
		_ = sys.Close(fd)
	}
	if !errors.Is(err, sys.Errno(sys.ECONNREFUSED)) {
		return fmt.Errorf("nbd: listen on %v: in use by another process; stop it or choose another path", at)
	}
	if err := os.Remove(at.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("nbd: listen on %v: a socket that nobody listens on is in the way: %w", at, err)
	}
	return nil
}

// A client that is gone without a word is found out after about two minutes.
var keepAlive = sys.KeepAlive{Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

const userTimeout = 2 * time.Minute

// tune sets a connection's socket options. Each is an improvement only, so
// that a kernel which refuses one does no harm.
// Buffers are left alone: the kernel sizes TCP's by itself, and larger ones at
// Unix sockets were measured to gain nothing.
func tune(fd int, tcp bool) {
	if !tcp {
		return
	}
	_ = sys.SetNoDelay(fd)
	_ = sys.SetKeepAlive(fd, keepAlive)
	_ = sys.SetUserTimeout(fd, userTimeout)
}
