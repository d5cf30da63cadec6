package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"blockengine/internal/nbdtest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// random gives n bytes that depend on seed alone.
func random(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func mustRead(t testing.TB, c *nbdtest.Client, off uint64, want []byte) {
	t.Helper()
	got, err := c.Read(off, len(want), 0)
	must(t, err)
	if i := differ(got, want); i >= 0 {
		t.Fatalf("read of %d at %d: byte %d is %#x, want %#x", len(want), off, i, got[i], want[i])
	}
}

// differ gives the first place where a and b, of one length, differ, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// wantErrno expects an error that the server reported.
func wantErrno(t testing.TB, err error, want ...uint32) {
	t.Helper()
	var e nbdtest.Errno
	if errors.As(err, &e) {
		for _, w := range want {
			if uint32(e) == w {
				return
			}
		}
	}
	t.Fatalf("got %v, want errno %v", err, want)
}

// isErrno tells an error that the server reported from one of the connection
// or a breach of the protocol.
func isErrno(err error) bool {
	var e nbdtest.Errno
	return errors.As(err, &e)
}

// residentBytes is the resident memory of a process.
func residentBytes(t testing.TB, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, ok := strings.Cut(string(b), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); !ok || err != nil {
		t.Fatalf("no VmRSS: %v", err)
	}
	return kib << 10
}
