package wasm

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"blockengine/engine/pluginhost/guest"
)

// syncBuffer may be written by one goroutine and read by another.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// writer is a plugin that writes its input buffer's first in_len bytes to its
// standard error on each call.
func writer() module {
	word := func(at int64, v []byte) []byte { return ops(constI32(at), v, opI32Store, 2, 0) }
	return module{
		imports: []imp{wasiImport("fd_write", 1, tI32, tI32, tI32, tI32)},
		call: ops(
			word(32, constI32(inAt)), word(36, ops(opLocalGet, 0)),
			constI32(outAt), // where the count goes
			constI32(2), constI32(32), constI32(1), constI32(40), opCall, 0,
			opI32Store, 2, 0, // errno
			word(outAt+4, ops(constI32(40), opI32Load, 2, 0)),
			constI32(8)),
	}
}

func TestGuestWritesToTheLog(t *testing.T) {
	var log syncBuffer
	m := writer().load(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	i := newInstance(t, m)
	say := func(text string) {
		t.Helper()
		out, _, err := i.Call(copy(i.Input(), text), guest.BudgetCall)
		if err != nil {
			t.Fatal(err)
		}
		if errno, n := binary.LittleEndian.Uint32(out), binary.LittleEndian.Uint32(out[4:]); errno != 0 || int(n) != len(text) {
			t.Errorf("fd_write gives %d and says that it wrote %d of %d", errno, n, len(text))
		}
	}
	say("first line\nsecond ")
	say("line\n\nlong: " + strings.Repeat("x", 10_000))
	say("\nunfinished")
	i.Close()
	m.Close()
	for _, want := range []string{`line="first line"`, `line="second line"`, "line=unfinished", "plugin_file="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
	if n := strings.Count(log.String(), "x"); n > maxLine+50 {
		t.Errorf("%d bytes of a long line", n)
	}
}

// TestGuestFloodsTheLog: a guest that writes in every call is cut short.
func TestGuestFloodsTheLog(t *testing.T) {
	var log syncBuffer
	m := writer().load(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	i := newInstance(t, m)
	n := copy(i.Input(), strings.Repeat("a\n", 1000))
	for range 1000 {
		if _, _, err := i.Call(n, guest.BudgetCall); err != nil {
			t.Fatal(err)
		}
	}
	i.Close()
	m.Close()
	// A burst, what the queue still held at the end, and what a slow machine
	// earns in the time that the test takes.
	if got := strings.Count(log.String(), "\n"); got == 0 || got > lineBurst+lineQueue+100*lineRate {
		t.Errorf("%d lines in the log for a million", got)
	}
	if !strings.Contains(log.String(), "dropped_before") {
		t.Error("the log does not say that lines were dropped")
	}
}
