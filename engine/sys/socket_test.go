package sys

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestListenConnectAccept(t *testing.T) {
	for _, at := range []SocketAddr{
		{Path: filepath.Join(t.TempDir(), "s")},
		{IP: netip.MustParseAddrPort("127.0.0.1:0")},
	} {
		l, err := ListenMode(at, 8, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer Close(l)
		if _, e := Accept(l); e != EAGAIN {
			t.Errorf("%v: accept without a client: %v", at, e)
		}
		if at.Path != "" {
			if st, err := os.Stat(at.Path); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
		} else if at, err = LocalAddr(l); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(at, 8); !errors.Is(err, Errno(EADDRINUSE)) {
			t.Errorf("%v: a second listener: %v", at, err)
		}
		c, _, err := Connect(at)
		if err != nil {
			t.Fatal(err)
		}
		defer Close(c)
		s, e := Accept(l)
		if e != 0 {
			t.Fatal(e)
		}
		defer Close(s)
		if e := SocketError(c); e != 0 {
			t.Errorf("%v: %v", at, e)
		}
		if n, e := RawWrite(s, []byte("hello")); n != 5 || e != 0 {
			t.Errorf("%v: wrote %d, %v", at, n, e)
		}
		b := make([]byte, 9)
		if n, e := RawRead(c, b); string(b[:n]) != "hello" || e != 0 {
			t.Errorf("%v: read %q, %v", at, b[:n], e)
		}
	}
}

func TestConnectRefused(t *testing.T) {
	_, _, err := Connect(SocketAddr{Path: filepath.Join(t.TempDir(), "nobody")})
	if !errors.Is(err, Errno(ENOENT)) {
		t.Error(err)
	}
}

func TestMessagesCarryDescriptors(t *testing.T) {
	a, b, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(a)
	defer Close(b)
	cred, err := PeerCredOf(a)
	if err != nil || int(cred.PID) != os.Getpid() || int(cred.UID) != os.Getuid() {
		t.Errorf("%+v, %v", cred, err)
	}
	var m Message
	v := make([]Iovec, 1)
	SetIovec(&v[0], []byte("take this"))
	if n, e := RawSendmsg(a, &m, v, Rights(a)); n != 9 || e != 0 {
		t.Fatal(n, e)
	}
	got, oob := make([]byte, 20), make([]byte, 64)
	SetIovec(&v[0], got)
	n, oobn, flags, e := RawRecvmsg(b, &m, v, oob)
	if e != 0 || string(got[:n]) != "take this" || Truncated(flags) {
		t.Fatal(n, flags, e)
	}
	fds, err := Descriptors(oob[:oobn], nil)
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	// What came is the other end itself: b hears what is written to it.
	if n, e := RawWrite(fds[0], []byte("x")); n != 1 || e != 0 {
		t.Fatal(n, e)
	}
	if n, e := RawRead(b, got); n != 1 || e != 0 || got[0] != 'x' {
		t.Error(n, e)
	}
	_ = Close(fds[0])
	if err := ShutdownSocket(a, ShutWrite); err != nil {
		t.Error(err)
	}
	if n, e := RawRead(b, got); n != 0 || e != 0 {
		t.Errorf("after the end: %d, %v", n, e)
	}
	_ = Close(b)
	if _, e := RawSendmsg(a, &m, v, nil); e != EPIPE {
		t.Errorf("to nobody: %v", e)
	}
}
