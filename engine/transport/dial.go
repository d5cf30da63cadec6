package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// Address is where a server is: Network "tcp" with HOST:PORT, or "unix" with a
// path.
type Address struct {
	Network string
	Addr    string
}

// String gives the address as the configuration writes it.
func (a Address) String() string { return a.Network + ":" + a.Addr }

// Resolve looks the address up. It may block: it is called off the reactors.
func (a Address) Resolve(ctx context.Context) (sys.SocketAddr, error) {
	if a.Network == "unix" {
		return sys.SocketAddr{Path: a.Addr}, nil
	}
	host, port, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return sys.SocketAddr{}, fmt.Errorf("%s: %w: write tcp:HOST:PORT", a, err)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return sys.SocketAddr{}, fmt.Errorf("%s: port %q is no number from 1 to 65535", a, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return sys.SocketAddr{IP: netip.AddrPortFrom(ip, uint16(p))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return sys.SocketAddr{}, fmt.Errorf("%s: %w", a, err)
	}
	if len(ips) == 0 {
		return sys.SocketAddr{}, fmt.Errorf("%s: the name has no address", a)
	}
	return sys.SocketAddr{IP: netip.AddrPortFrom(ips[0].Unmap(), uint16(p))}, nil
}

// ErrConnectTimeout says that a server did not accept a connection in time.
var ErrConnectTimeout = errors.New("no connection within the time allowed: is the server's host up, and no firewall between?")

// ErrBacklogFull says that a Unix socket's server is there, but that the queue
// of connections that it has not accepted stayed full for the time allowed.
var ErrBacklogFull = errors.New("the server accepts no connections: those that wait for it fill its queue; is it stuck?")

// retryFull is the time after which a Unix socket whose queue was full is tried
// again: the kernel does not tell when there is room.
const retryFull = 10 * time.Millisecond

// Dialer makes one connection on a reactor.
type Dialer struct {
	r        *reactor.Reactor
	addr     sys.SocketAddr
	fd       int
	src      *reactor.Source
	timer    reactor.Timer
	deadline int64 // on the reactor's clock
	done     func(fd int, err error)
}

// Dial connects to addr and calls done once, on r, with a non-blocking
// descriptor or an error. Cancel on the Dialer that it returns prevents that.
func Dial(r *reactor.Reactor, addr sys.SocketAddr, timeout time.Duration, done func(fd int, err error)) *Dialer {
	d := &Dialer{r: r, addr: addr, fd: -1, deadline: r.Now() + int64(timeout), done: done}
	d.timer.Fire = d.begin
	r.StartTimer(&d.timer, 0) // so that done is never called from within Dial
	return d
}

func (d *Dialer) begin() {
	fd, pending, err := sys.Connect(d.addr)
	left := time.Duration(d.deadline - d.r.Now())
	if d.addr.Path != "" && errors.Is(err, sys.EAGAIN) {
		if left > 0 {
			d.r.StartTimer(&d.timer, min(left, retryFull))
			return
		}
		err = fmt.Errorf("connect %s: %w", d.addr, ErrBacklogFull)
	}
	if err != nil {
		d.done(-1, err)
		return
	}
	d.fd = fd
	if !pending {
		d.finish(nil)
		return
	}
	d.timer.Fire = func() { d.finish(fmt.Errorf("connect %s: %w", d.addr, ErrConnectTimeout)) }
	d.r.StartTimer(&d.timer, left)
	if d.src, err = d.r.Add(fd, sys.EpollOut, d); err != nil {
		d.finish(err)
	}
}

// Ready is called when the connection is there or has failed.
func (d *Dialer) Ready(uint32) {
	if e := sys.SocketError(d.fd); e != 0 {
		d.finish(&sys.CallError{Call: "connect", About: d.addr.String(), Errno: e})
		return
	}
	d.finish(nil)
}

func (d *Dialer) finish(err error) {
	fd := d.fd
	d.release()
	if err != nil {
		_ = sys.Close(fd)
		fd = -1
	} else if d.addr.Path == "" {
		tune(fd)
	}
	d.done(fd, err)
}

// tune makes a TCP connection send at once and notice a dead peer. It is no
// request deadline: the kernel gives up only where nothing comes back at all.
func tune(fd int) {
	_ = sys.SetNoDelay(fd)
	_ = sys.SetKeepAlive(fd, sys.KeepAlive{Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 6})
}

func (d *Dialer) release() {
	d.r.StopTimer(&d.timer)
	if d.src != nil {
		d.src.Close()
		d.src = nil
	}
	d.fd = -1
}

// Cancel gives the attempt up; done is not called.
func (d *Dialer) Cancel() {
	fd := d.fd
	d.release()
	if fd >= 0 {
		_ = sys.Close(fd)
	}
}
