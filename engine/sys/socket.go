package sys

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SocketAddr is where a socket is bound or connects to: a Unix path or an IP
// address with port. Exactly one of the two is set.
type SocketAddr struct {
	Path string
	IP   netip.AddrPort
}

// String gives "unix:PATH" or "tcp:HOST:PORT".
func (a SocketAddr) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return "tcp:" + a.IP.String()
}

// maxUnixPath is the longest path that sockaddr_un holds with its final zero.
const maxUnixPath = 107

// sockaddr gives the kernel's form of a, and its family.
func (a SocketAddr) sockaddr() (unix.Sockaddr, int, error) {
	if a.Path != "" {
		if len(a.Path) > maxUnixPath {
			return nil, 0, fmt.Errorf("%v: the path has %d bytes, a Unix socket takes at most %d: choose a shorter one", a, len(a.Path), maxUnixPath)
		}
		return &unix.SockaddrUnix{Name: a.Path}, unix.AF_UNIX, nil
	}
	ip := a.IP.Addr()
	if !ip.IsValid() {
		return nil, 0, fmt.Errorf("socket address: neither a path nor an IP address")
	}
	if ip.Is4() || ip.Is4In6() {
		return &unix.SockaddrInet4{Port: int(a.IP.Port()), Addr: ip.As4()}, unix.AF_INET, nil
	}
	s6 := &unix.SockaddrInet6{Port: int(a.IP.Port()), Addr: ip.As16()}
	if z := ip.Zone(); z != "" {
		id, err := zoneIndex(z)
		if err != nil {
			return nil, 0, err
		}
		s6.ZoneId = id
	}
	return s6, unix.AF_INET6, nil
}

func zoneIndex(zone string) (uint32, error) {
	n, err := strconv.ParseUint(zone, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("IPv6 zone %q: give the interface's number", zone)
	}
	return uint32(n), nil
}

// newSocket makes a non-blocking stream socket of a's family.
func newSocket(a SocketAddr) (int, unix.Sockaddr, error) {
	sa, family, err := a.sockaddr()
	if err != nil {
		return -1, nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, call("socket", a.String(), err)
	}
	return fd, sa, nil
}

// Listen makes a non-blocking listening stream socket. An IP socket gets
// SO_REUSEADDR, so that an address whose last connections linger can be bound
// again at once; one with a living listener gives EADDRINUSE. For a Unix path
// so does any file that stands there, whoever left it.
func Listen(a SocketAddr, backlog int) (int, error) { return ListenMode(a, backlog, 0o777) }

// ListenMode is Listen with the permission bits that a Unix socket's file has
// from the moment that it exists; the process's umask is taken off them.
func ListenMode(a SocketAddr, backlog int, mode uint32) (int, error) {
	fd, sa, err := newSocket(a)
	if err != nil {
		return -1, err
	}
	if a.Path != "" {
		// bind gives the file the mode that the socket has.
		if err := unix.Fchmod(fd, mode); err != nil {
			_ = unix.Close(fd)
			return -1, call("fchmod", a.String(), err)
		}
	}
	if a.Path == "" {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			_ = unix.Close(fd)
			return -1, call("setsockopt SO_REUSEADDR", a.String(), err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		_ = unix.Close(fd)
		return -1, call("bind", a.String(), err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		_ = unix.Close(fd)
		return -1, call("listen", a.String(), err)
	}
	return fd, nil
}

// Connect begins a connection on a new non-blocking socket. pending says that
// it is not there yet: wait for EpollOut and ask SocketError. A Unix socket is
// connected, or refused, at once; EAGAIN means that its listener's queue is full.
func Connect(a SocketAddr) (fd int, pending bool, err error) {
	fd, sa, err := newSocket(a)
	if err != nil {
		return -1, false, err
	}
	for {
		err = unix.Connect(fd, sa)
		if err != unix.EINTR {
			break
		}
	}
	switch err {
	case nil, unix.EISCONN, unix.EALREADY:
		return fd, err == unix.EALREADY, nil
	case unix.EINPROGRESS:
		return fd, true, nil
	}
	_ = unix.Close(fd)
	return -1, false, call("connect", a.String(), err)
}

// Accept takes a connection from a non-blocking listener, itself non-blocking
// and closed on exec. EAGAIN: there is none.
func Accept(listener int) (int, Errno) {
	fd, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), 0
}

// SocketPair makes two connected non-blocking Unix stream sockets.
func SocketPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, call("socketpair", "", err)
	}
	return fds[0], fds[1], nil
}

// SocketError takes the error that a socket has pending; 0 if there is none.
func SocketError(fd int) Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		if e, ok := err.(Errno); ok {
			return e
		}
		return unix.EBADF
	}
	return Errno(v)
}

// LocalAddr is what a socket is bound to, e.g. the port that the kernel chose.
func LocalAddr(fd int) (SocketAddr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return SocketAddr{}, call("getsockname", "", err)
	}
	return fromSockaddr(sa), nil
}

// PeerAddr is the other end of a connected socket; a Unix client's is empty.
func PeerAddr(fd int) (SocketAddr, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return SocketAddr{}, call("getpeername", "", err)
	}
	return fromSockaddr(sa), nil
}

func fromSockaddr(sa unix.Sockaddr) SocketAddr {
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		return SocketAddr{IP: netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))}
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(s.Addr)
		if s.ZoneId != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(s.ZoneId), 10))
		}
		return SocketAddr{IP: netip.AddrPortFrom(ip, uint16(s.Port))}
	case *unix.SockaddrUnix:
		return SocketAddr{Path: s.Name}
	}
	return SocketAddr{}
}

// PeerCred identifies the process at the other end of a Unix socket, as it was
// when it connected.
type PeerCred struct {
	PID int32
	UID uint32
	GID uint32
}

// PeerCredOf asks for the credentials of a Unix socket's peer.
func PeerCredOf(fd int) (PeerCred, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return PeerCred{}, call("getsockopt SO_PEERCRED", "", err)
	}
	return PeerCred{PID: c.Pid, UID: c.Uid, GID: c.Gid}, nil
}

// Which half of a connection ShutdownSocket ends.
const (
	ShutRead  = unix.SHUT_RD
	ShutWrite = unix.SHUT_WR
	ShutBoth  = unix.SHUT_RDWR
)

// ShutdownSocket ends one or both halves of a connection; the descriptor stays
// open. ShutWrite sends EOF behind what is queued.
func ShutdownSocket(fd, how int) error { return call("shutdown", "", unix.Shutdown(fd, how)) }

// SetBuffers asks for socket buffers of so many bytes; 0 leaves one alone. The
// kernel doubles the figure for its own bookkeeping and caps it silently at
// net.core.wmem_max and rmem_max.
func SetBuffers(fd, send, receive int) error {
	if send > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, send); err != nil {
			return call("setsockopt SO_SNDBUF", "", err)
		}
	}
	if receive > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receive); err != nil {
			return call("setsockopt SO_RCVBUF", "", err)
		}
	}
	return nil
}

// SetNoDelay has a TCP socket send small segments at once.
func SetNoDelay(fd int) error {
	return call("setsockopt TCP_NODELAY", "", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

// SetUserTimeout bounds how long sent TCP data may stay unacknowledged before
// the kernel gives the connection up; to the millisecond, 0 is the system's own.
func SetUserTimeout(fd int, d time.Duration) error {
	ms := int(d.Milliseconds())
	return call("setsockopt TCP_USER_TIMEOUT", "", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms))
}

// KeepAlive says when an idle TCP connection is probed; to the second, at least 1.
type KeepAlive struct {
	Idle     time.Duration // before the first probe
	Interval time.Duration // between probes
	Count    int           // unanswered ones after which the connection is dead
}

// SetKeepAlive turns probing on.
func SetKeepAlive(fd int, k KeepAlive) error {
	sec := func(d time.Duration) int { return max(1, int(d/time.Second)) }
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, sec(k.Idle)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, sec(k.Interval)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, max(1, k.Count)},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return call("setsockopt keep-alive", "", err)
		}
	}
	return nil
}

// SetNonblock makes an inherited or passed descriptor non-blocking.
func SetNonblock(fd int) error { return call("fcntl O_NONBLOCK", "", unix.SetNonblock(fd, true)) }

// OpenSpare opens a descriptor that stands for nothing. Whoever accepts
// connections holds one, to be closed when descriptors run out.
func OpenSpare() (int, error) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, call("open", "/dev/null", err)
}

// Message is a scatter receive with ancillary data, e.g. descriptors. It is
// reused from call to call, so that receiving allocates nothing.
type Message struct {
	hdr unix.Msghdr
}

// RawRecvmsg receives from a non-blocking socket into v, and ancillary data
// into oob, which may be empty. Descriptors that come with it are closed on
// exec. flags are the message's: see Truncated.
func RawRecvmsg(fd int, m *Message, v []Iovec, oob []byte) (n, oobn int, flags int, e Errno) {
	m.set(v, oob)
	r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	n, oobn, flags = int(r), int(m.hdr.Controllen), int(m.hdr.Flags)
	m.hdr = unix.Msghdr{}
	if e != 0 {
		return 0, 0, 0, e
	}
	return n, oobn, flags, 0
}

// RawSendmsg sends v, and ancillary data, on a non-blocking socket. A peer that
// is gone gives EPIPE, never a signal.
func RawSendmsg(fd int, m *Message, v []Iovec, oob []byte) (int, Errno) {
	m.set(v, oob)
	r, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	m.hdr = unix.Msghdr{}
	return int(r), e
}

func (m *Message) set(v []Iovec, oob []byte) {
	m.hdr = unix.Msghdr{}
	if len(v) > 0 {
		m.hdr.Iov = unsafe.SliceData(v)
		m.hdr.SetIovlen(len(v))
	}
	if len(oob) > 0 {
		m.hdr.Control = unsafe.SliceData(oob)
		m.hdr.SetControllen(len(oob))
	}
}

// Truncated reports whether a message lost data or ancillary data because the
// memory given was too small.
func Truncated(flags int) bool { return flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 }

// Descriptors takes the descriptors out of ancillary data, appending to fds.
func Descriptors(oob []byte, fds []int) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fds, call("parse control message", "", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, call("parse SCM_RIGHTS", "", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// Rights makes the ancillary data that hands descriptors over.
func Rights(fds ...int) []byte { return unix.UnixRights(fds...) }

// HungUp reports whether the other end of a socket has ended its half or the
// whole of the connection. What it has sent before may still be unread.
func HungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}
