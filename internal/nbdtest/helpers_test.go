package nbdtest

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// allStyles are the reply styles that a connection can have.
var allStyles = map[string]Options{
	"simple":     {},
	"structured": {Structured: true, MetaContexts: []string{BaseAllocation}},
	"extended":   {Extended: true, MetaContexts: []string{BaseAllocation}},
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) + byte(i>>8) + seed
	}
	return b
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantViolation expects a ProtocolError that mentions text.
func wantViolation(t *testing.T, err error, text string) {
	t.Helper()
	var bad *ProtocolError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v, want a protocol violation with %q", err, text)
	}
}

func wantErrno(t *testing.T, err error, want uint32) {
	t.Helper()
	var e Errno
	if !errors.As(err, &e) || uint32(e) != want {
		t.Fatalf("got %v, want %v", err, Errno(want))
	}
}

func mustRead(t *testing.T, c *Client, off uint64, want []byte) {
	t.Helper()
	got, err := c.Read(off, len(want), 0)
	mustDo(t, err)
	if !bytes.Equal(got, want) {
		t.Fatalf("read at %d differs from what was written (first byte %#x, want %#x)", off, got[0], want[0])
	}
}

// serve starts a server with one export of 1 MiB whose first 64 KiB hold a
// pattern.
func serve(t *testing.T, neg Negotiation) *Server {
	t.Helper()
	d := NewDisk(1 << 20)
	d.WriteAt(pattern(64<<10, 1), 0, true)
	return StartServer(t, ServerOptions{Exports: []Export{{Disk: d}}, Negotiation: neg})
}

func dial(t *testing.T, s *Server, o Options) *Client {
	t.Helper()
	return Connect(t, s.Network(), s.Addr(), o)
}
