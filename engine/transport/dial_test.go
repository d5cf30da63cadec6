package transport

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// outcome is what a Dialer told.
type outcome struct {
	fd  int
	err error
}

// dial connects and waits for the outcome; the descriptor is closed with t.
func dial(t *testing.T, r *reactor.Reactor, addr sys.SocketAddr, timeout time.Duration) outcome {
	t.Helper()
	told := make(chan outcome, 2)
	do(t, r, func() {
		within := true
		Dial(r, addr, timeout, func(fd int, err error) {
			if within {
				t.Error("done was called from within Dial")
			}
			told <- outcome{fd, err}
		})
		within = false
	})
	select {
	case o := <-told:
		if o.err == nil {
			t.Cleanup(func() { _ = sys.Close(o.fd) })
		} else if o.fd != -1 {
			t.Errorf("an error with descriptor %d", o.fd)
		}
		return o
	case <-time.After(patience):
		t.Fatal("the dialer says nothing")
		return outcome{}
	}
}

func listen(t *testing.T, addr sys.SocketAddr, backlog int) (fd int, at sys.SocketAddr) {
	t.Helper()
	fd, err := sys.Listen(addr, backlog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Close(fd) })
	if at, err = sys.LocalAddr(fd); err != nil {
		t.Fatal(err)
	}
	return fd, at
}

func unixAddr(t *testing.T) sys.SocketAddr {
	return sys.SocketAddr{Path: filepath.Join(t.TempDir(), "s")}
}

var anyPort = sys.SocketAddr{IP: netip.MustParseAddrPort("127.0.0.1:0")}

func TestDial(t *testing.T) {
	r := start(t)
	for _, addr := range []sys.SocketAddr{unixAddr(t), anyPort, {IP: netip.MustParseAddrPort("[::1]:0")}} {
		fd, err := sys.Listen(addr, 8)
		if err != nil && addr.IP.Addr().Is6() {
			continue // a host without IPv6
		} else if err != nil {
			t.Fatal(err)
		}
		at, _ := sys.LocalAddr(fd)
		if o := dial(t, r, at, patience); o.err != nil {
			t.Errorf("%v: %v", at, o.err)
		} else if peer, err := sys.PeerAddr(o.fd); err != nil || peer != at {
			t.Errorf("%v: connected to %v, %v", at, peer, err)
		}
		_ = sys.Close(fd)
	}
}

func TestDialErrors(t *testing.T) {
	r := start(t)
	left := unixAddr(t) // a socket whose server is gone
	fd, err := sys.Listen(left, 1)
	if err != nil {
		t.Fatal(err)
	}
	_ = sys.Close(fd)
	closed, err := sys.Listen(anyPort, 1)
	if err != nil {
		t.Fatal(err)
	}
	refused, _ := sys.LocalAddr(closed)
	_ = sys.Close(closed)
	for _, c := range []struct {
		addr sys.SocketAddr
		is   error
		text string
	}{
		{unixAddr(t), sys.ENOENT, "/s"},
		{left, sys.ECONNREFUSED, "connect unix:" + left.Path},
		{refused, sys.ECONNREFUSED, "connect tcp:127.0.0.1:"},
		{sys.SocketAddr{Path: strings.Repeat("x", 200)}, nil, "a Unix socket takes at most 107"},
		{sys.SocketAddr{}, nil, "neither a path nor an IP address"},
	} {
		o := dial(t, r, c.addr, patience)
		if o.err == nil || c.is != nil && !errors.Is(o.err, c.is) || !strings.Contains(o.err.Error(), c.text) {
			t.Errorf("%v: %v, want %v with %q", c.addr, o.err, c.is, c.text)
		}
	}
}

// fill makes a listener's queue full and says whether the next connection
// waits; the connections are closed with t.
func fill(t *testing.T, at sys.SocketAddr) {
	t.Helper()
	for range 64 {
		fd, pending, err := sys.Connect(at)
		if errors.Is(err, sys.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sys.Close(fd) })
		if pending {
			time.Sleep(5 * time.Millisecond) // on loopback it would be there by now
			if _, err := sys.PeerAddr(fd); err != nil {
				return
			}
		}
	}
	t.Fatal("the queue does not fill")
}

// A server that accepts nothing: the dialer gives up when its time is over, and
// says which of the two reasons it saw.
func TestDialToAFullQueue(t *testing.T) {
	r := start(t)
	_, tcp := listen(t, anyPort, 0)
	_, unix := listen(t, unixAddr(t), 0)
	for addr, want := range map[sys.SocketAddr]error{tcp: ErrConnectTimeout, unix: ErrBacklogFull} {
		fill(t, addr)
		o := dial(t, r, addr, 60*time.Millisecond)
		if !errors.Is(o.err, want) || !strings.Contains(o.err.Error(), addr.String()) {
			t.Errorf("%v: %v", addr, o.err)
		}
	}
}

// A Unix server that accepts again in time is connected to.
func TestDialWaitsForRoomInTheQueue(t *testing.T) {
	r := start(t)
	l, at := listen(t, unixAddr(t), 0)
	fill(t, at)
	told := make(chan outcome, 2)
	do(t, r, func() { Dial(r, at, patience, func(fd int, err error) { told <- outcome{fd, err} }) })
	time.Sleep(3 * retryFull) // so that it has been refused at least once
	select {
	case o := <-told:
		t.Fatalf("there is no room, and it says %v", o)
	default:
	}
	fd, e := sys.Accept(l)
	if e != 0 {
		t.Fatal(e)
	}
	defer sys.Close(fd)
	select {
	case o := <-told:
		if o.err != nil {
			t.Fatal(o.err)
		}
		_ = sys.Close(o.fd)
	case <-time.After(patience):
		t.Fatal("it does not try again")
	}
}

// Cancel at every stage: before the attempt, while it waits for the server or
// for room in its queue, and when all is over. done is not called.
func TestCancel(t *testing.T) {
	r := start(t)
	_, tcp := listen(t, anyPort, 0)
	_, unix := listen(t, unixAddr(t), 0)
	fill(t, tcp)
	fill(t, unix)
	_, good := listen(t, unixAddr(t), 8)
	never := func(int, error) { t.Error("done was called after Cancel") }
	for name, addr := range map[string]sys.SocketAddr{"tcp": tcp, "unix": unix, "good": good} {
		do(t, r, func() { Dial(r, addr, patience, never).Cancel() })
		if name == "good" {
			continue // it would be over at once
		}
		var d *Dialer
		do(t, r, func() { d = Dial(r, addr, patience, never) })
		time.Sleep(2 * retryFull)
		do(t, r, func() {
			if addr.Path == "" && d.fd < 0 {
				t.Error("the attempt is not under way")
			}
			d.Cancel()
			d.Cancel()
			if d.timer.Running() || d.fd >= 0 || d.src != nil {
				t.Error("something is left of the attempt")
			}
		})
	}
	for range 3 {
		do(t, r, func() {}) // what would have called done
	}
	over := make(chan *Dialer, 1)
	do(t, r, func() {
		var d *Dialer
		d = Dial(r, good, patience, func(fd int, err error) {
			if err != nil {
				t.Error(err)
			}
			_ = sys.Close(fd)
			d.Cancel() // does nothing
			over <- d
		})
	})
	select {
	case d := <-over:
		do(t, r, d.Cancel)
	case <-time.After(patience):
		t.Fatal("no connection")
	}
}

func TestResolve(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for in, want := range map[Address]string{
		{"unix", "/run/s"}:           "unix:/run/s",
		{"tcp", "127.0.0.1:10809"}:   "tcp:127.0.0.1:10809",
		{"tcp", "[::1]:65535"}:       "tcp:[::1]:65535",
		{"tcp", "127.0.0.1"}:         "! write tcp:HOST:PORT",
		{"tcp", "::1:80"}:            "! write tcp:HOST:PORT",
		{"tcp", "127.0.0.1:nbd"}:     `! port "nbd" is no number from 1 to 65535`,
		{"tcp", "127.0.0.1:0"}:       `! port "0" is no number from 1 to 65535`,
		{"tcp", "127.0.0.1:65536"}:   `! port "65536" is no number`,
		{"tcp", "127.0.0.1:-1"}:      `! port "-1" is no number`,
		{"tcp", "no such host!:80"}:  "!tcp:no such host!:80: ",
		{"tcp", "localhost:80"}:      "tcp:",
		{"tcp", "127.0.0.1:010809 "}: "! is no number",
	} {
		got, err := in.Resolve(ctx)
		if text, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), text) || !strings.HasPrefix(err.Error(), in.String()) {
				t.Errorf("%v: %v, %v, want an error with %q", in, got, err, text)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(got.String(), want) {
			t.Errorf("%v: %v, %v, want %s", in, got, err, want)
		}
	}
	gone, stop := context.WithCancel(context.Background())
	stop()
	if _, err := (Address{"tcp", "some.host.invalid:1"}).Resolve(gone); err == nil {
		t.Error("a look-up that was given up found something")
	}
}
