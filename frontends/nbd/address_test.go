package nbd

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

func TestUnixSocketInUse(t *testing.T) {
	r := newRig(t, newDisk(4096))
	if st, err := os.Stat(r.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := r.s.Listen("unix", r.path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second listener: %v", err)
	}
	stale := r.path + "2"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := r.s.Listen("unix", stale); err != nil {
		t.Errorf("a socket that nobody listens on: %v", err)
	}
	file := r.path + "3"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Listen("unix", file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if _, err := r.s.Listen("unix", strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("a path too long: %v", err)
	}
}

func TestTCP(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	l, err := r.s.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Export{Name: "disk", Volume: r.volume}); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(l.Addr(), "tcp:")
	c := nbdtest.Connect(t, "tcp", addr, nbdtest.Options{Export: "disk", Structured: true})
	want := pattern(700<<10, 1)
	if err := c.Write(0, want, 0); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Read(0, len(want), 0); err != nil || !bytes.Equal(b, want) {
		t.Fatal(err)
	}
	holdWrites(r, c, 2)
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	if r.connections() != 1 {
		t.Error("gone although the disk still has its memory")
	}
	r.disk.release()
	r.eventually("it is gone", func() bool { return r.connections() == 0 })
	if _, err := r.s.Listen("tcp", addr); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a port in use: %v", err)
	}
	for _, bad := range []string{"nonsense", "127.0.0.1:99999", "1.2.3.4.5:1"} {
		if _, err := r.s.Listen("tcp", bad); err == nil {
			t.Errorf("listening on %q", bad)
		}
	}
	if _, err := r.s.Listen("udp", addr); err == nil {
		t.Error("listening on udp")
	}
}
