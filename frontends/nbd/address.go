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
	if at.Path != "" {
		fd, err := sys.ListenUnix(at.Path, backlog, mode)
		if err != nil {
			return -1, fmt.Errorf("nbd: listen on %w", err)
		}
		return fd, nil
	}
	fd, err := sys.Listen(at, backlog)
	if errors.Is(err, sys.Errno(sys.EADDRINUSE)) {
		return -1, fmt.Errorf("nbd: listen on %v: in use by another process; stop it or choose another address", at)
	}
	if err != nil {
		return -1, fmt.Errorf("nbd: listen on %v: %w", at, err)
	}
	return fd, nil
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
