package ublk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
)

// needRing skips where there is no io_uring.
func needRing(t *testing.T) *line {
	t.Helper()
	l, err := newLine()
	if errors.Is(err, iouring.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.ring.Close(); _ = sys.Unmap(l.mem) })
	return l
}

// nowhere is a control whose driver refuses everything, with EOPNOTSUPP: a file
// that knows no commands.
func nowhere(t *testing.T) *control {
	t.Helper()
	needRing(t)
	fd, err := sys.OpenDevice("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	c := &control{log: slog.New(slog.DiscardHandler), timeout: 10 * time.Second, encoded: true, fd: fd}
	t.Cleanup(c.close)
	return c
}

func TestRefusedCommands(t *testing.T) {
	c := nowhere(t)
	for range 10 { // the line is used again
		err := c.run(t.Context(), order{nr: cmdStop, id: 7})
		var refused *CommandError
		if !errors.As(err, &refused) || refused.ID != 7 || !errors.Is(err, syscall.EOPNOTSUPP) || !strings.Contains(err.Error(), "STOP_DEV of device 7") {
			t.Fatalf("%v", err)
		}
	}
	if err := c.learn(t.Context()); err != nil || c.encoded || c.features != 0 {
		t.Errorf("an old driver: %v, encoded %v", err, c.encoded)
	}
	c.close()
	if err := c.run(t.Context(), order{nr: cmdStop}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// A command that hangs is given up at the deadline, or with its context.
func TestHungCommands(t *testing.T) {
	l := needRing(t)
	if _, err := l.wait(t.Context(), 1, time.Now().Add(5*time.Millisecond)); !errors.Is(err, ErrHung) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.wait(ctx, 1, time.Now().Add(time.Hour)); !errors.Is(err, ErrHung) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The path that unprivileged devices want comes first, then what is given.
func TestOrderLayout(t *testing.T) {
	l := needRing(t)
	in := []byte{1, 2, 3, 4}
	l.put(9, 77, ctrlOp(cmdSetParams, true), &order{nr: cmdSetParams, id: 3, data: 5, in: in, path: "/dev/ublkc3"})
	e := l.ring.Get() // the place after it
	first := (*iouring.SQE)(unsafe.Add(unsafe.Pointer(e), -128))
	if first.Opcode != sys.UringOpCmd || first.Fd != 9 || first.Off != 0xc0207508 || first.UserData != 77 {
		t.Errorf("%+v", first)
	}
	cmd := *(*ctrlCmd)(unsafe.Pointer(&first.Cmd))
	want := ctrlCmd{devID: 3, queueID: 0xffff, len: 16, addr: uint64(uintptr(unsafe.Pointer(&l.mem[0]))), data: 5, pathLen: 12}
	if cmd != want {
		t.Errorf("%+v, want %+v", cmd, want)
	}
	if string(l.mem[:17]) != "/dev/ublkc3\x00\x01\x02\x03\x04\x00" {
		t.Errorf("%q", l.mem[:17])
	}
}

func TestNoDriver(t *testing.T) {
	for _, c := range []struct {
		errno syscall.Errno
		want  string
	}{{syscall.ENOENT, "modprobe ublk_drv"}, {syscall.ENODEV, "modprobe ublk_drv"}, {syscall.EACCES, "root"}, {syscall.EMFILE, "open"}} {
		err := noDriver(&sys.CallError{Call: "open", About: controlPath, Errno: c.errno})
		if !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v", err)
		}
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	r := Probe()
	if r.Usable != (len(r.Missing) == 0) || r.Usable != (r.Features != 0 || len(r.Notes) > 0) {
		t.Errorf("%+v", r)
	}
	for _, text := range r.Missing {
		if !strings.Contains(text, ": ") {
			t.Errorf("%q does not say how to mend it", text)
		}
	}
}

func TestFeatureNames(t *testing.T) {
	got := strings.Join(namesOf(flagUserCopy|flagZeroCopy|1<<40), " ")
	if got != "SUPPORT_ZERO_COPY USER_COPY bit 40" {
		t.Error(got)
	}
	if len(notes(0)) != 1 || len(notes(^uint64(0))) != 0 || len(notes(0x1fe)) != 4 {
		t.Errorf("%q, %q", notes(0), notes(0x1fe))
	}
}

func TestFoundOf(t *testing.T) {
	known := []*record{{Token: 9, Name: "a", Volume: "v", Identity: "i", Size: 5}}
	info := devInfo{queues: 2, depth: 3, state: stateQuiesced, id: 4, pid: -1, flags: flagRecovery, token: 9, uid: 1000, gid: 100}
	want := Found{ID: 4, Path: "/dev/ublkb4", State: "quiesced", Name: "a", Volume: "v", Identity: "i", Size: 5, Queues: 2, Depth: 3, Recoverable: true, UID: 1000, GID: 100}
	if got := foundOf(&info, known); got != want {
		t.Errorf("%+v", got)
	}
	info.token, info.state, info.pid = 8, 77, 12
	want = Found{ID: 4, Path: "/dev/ublkb4", State: "unknown", Server: 12, Queues: 2, Depth: 3, UID: 1000, GID: 100}
	if got := foundOf(&info, known); got != want {
		t.Errorf("another's: %+v", got)
	}
}
