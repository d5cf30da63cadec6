package iouring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/sys"
)

// need gives a ring, or skips where the machine has none.
func need(t testing.TB, o Options) *Ring {
	t.Helper()
	r, err := New(o)
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// own keeps the test on one thread, as a ring with Options.Owned wants it.
func own(t testing.TB) {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

func TestBatches(t *testing.T) {
	own(t)
	for name, o := range map[string]Options{
		"plain": {Entries: 8}, "owned": {Entries: 8, Owned: true},
		"wide": {Entries: 8, SQE128: true, CQE32: true}, "one": {Entries: 1, Owned: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := need(t, o)
			sent, got := uint64(0), uint64(0)
			for range 50 { // many times around
				n := 0
				for e := r.Get(); e != nil; e = r.Get() {
					if e.UserData != 0 || e.Opcode != 0 {
						t.Fatalf("an entry that is not empty: %+v", e)
					}
					if want := int(r.sqeSize) - 48; len(r.Command(e)) != want {
						t.Fatalf("room for a command of %d bytes, want %d", len(r.Command(e)), want)
					}
					e.Opcode, e.UserData = sys.UringOpNop, sent
					sent++
					n++
				}
				if n != o.Entries || r.Pending() != n {
					t.Fatalf("%d entries, %d pending, of %d", n, r.Pending(), o.Entries)
				}
				if err := r.Submit(); err != nil || r.Pending() != 0 {
					t.Fatalf("%v, %d pending", err, r.Pending())
				}
				for r.HasWork() {
					c, ok := r.Next()
					if !ok || c.UserData != got || c.Res != 0 {
						t.Fatalf("%+v, %v: want %d", c, ok, got)
					}
					got++
				}
			}
			if _, ok := r.Next(); ok || got != sent || r.Ready() {
				t.Fatalf("%d of %d came back", got, sent)
			}
		})
	}
}

// Each of the ways in which a ring may be set up, on older kernels too, does it.
func TestSetups(t *testing.T) {
	own(t)
	need(t, Options{Entries: 1})
	for _, o := range []Options{{Entries: 4, Owned: true}, {Entries: 4}} {
		for _, how := range setups(o) {
			p := sys.UringParams{Flags: how}
			fd, err := sys.UringSetup(4, &p)
			if err != nil {
				t.Fatalf("%#x: %v", how, err)
			}
			r, err := mapped(fd, &p)
			if err != nil {
				t.Fatal(err)
			}
			r.Get().UserData = 3
			if err := r.SubmitSlowly(); err != nil {
				t.Fatal(err)
			}
			if c, ok := r.Next(); !ok || c.UserData != 3 {
				t.Errorf("%#x: %+v, %v", how, c, ok)
			}
			if r.Deferred() != (how&sys.UringSetupDeferTaskrun != 0) {
				t.Errorf("%#x: deferred %v", how, r.Deferred())
			}
			r.Close()
		}
	}
}

func TestSubmitAndWait(t *testing.T) {
	own(t)
	r := need(t, Options{Entries: 4})
	if err := r.SubmitAndWait(time.Millisecond); !errors.Is(err, sys.ETIME) {
		t.Fatalf("nothing came: %v", err)
	}
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	buf := make([]byte, 8)
	var pin runtime.Pinner
	pin.Pin(&buf[0])
	defer pin.Unpin()
	e := r.Get()
	e.Opcode, e.Fd, e.Addr, e.Len, e.Off, e.UserData = sys.UringOpRead, int32(pipe[0]), uint64(uintptr(unsafe.Pointer(&buf[0]))), 8, ^uint64(0), 7
	if err := r.SubmitAndWait(time.Millisecond); err != nil || r.Ready() || r.Pending() != 0 {
		t.Fatalf("nothing came: %v", err)
	}
	if _, err := syscall.Write(pipe[1], []byte("news")); err != nil {
		t.Fatal(err)
	}
	if err := r.SubmitAndWait(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Next(); !ok || c.UserData != 7 || c.Res != 4 || !bytes.Equal(buf[:4], []byte("news")) {
		t.Fatalf("%+v, %v, %q", c, ok, buf)
	}
}

// Registered files and buffers are used by index.
func TestRegistered(t *testing.T) {
	own(t)
	r := need(t, Options{Entries: 4, Owned: true})
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := sys.MapMemory(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(mem)
	if err := r.RegisterFiles(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := r.RegisterBuffers(mem[:4096], mem[4096:]); err != nil {
		t.Fatal(err)
	}
	copy(mem[4096:], "across")
	e := r.Get()
	e.Opcode, e.Flags, e.BufIndex, e.Len = sys.UringOpWriteFix, sys.UringFixedFile, 1, 6
	e.Addr, e.Off = uint64(uintptr(unsafe.Pointer(&mem[4096]))), 3
	if err := r.SubmitAndWait(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Next(); !ok || c.Res != 6 {
		t.Fatalf("%+v, %v", c, ok)
	}
	if got, _ := os.ReadFile(f.Name()); string(got) != "\x00\x00\x00across" {
		t.Errorf("the file has %q", got)
	}
	if err := r.RegisterBuffers(nil); err == nil {
		t.Error("an empty buffer was registered")
	}
	if err := r.RegisterFiles(-5); err == nil {
		t.Error("no file was registered")
	}
}

func TestMissing(t *testing.T) {
	own(t)
	r := need(t, Options{Entries: 1})
	missing, err := r.Missing(sys.UringOpRead, 255)
	if err != nil || !bytes.Equal(missing, []byte{255}) {
		t.Errorf("%v, %v", missing, err)
	}
}

func TestRefused(t *testing.T) {
	for _, n := range []int{-1, 0, 1<<15 + 1} {
		if _, err := New(Options{Entries: n}); err == nil {
			t.Errorf("a ring of %d entries", n)
		}
	}
	for _, e := range []syscall.Errno{syscall.EPERM, syscall.ENOSYS, syscall.EINVAL, syscall.ENOMEM} {
		if err := unavailable(&sys.CallError{Call: "io_uring_setup", Errno: e}); !errors.Is(err, ErrUnavailable) || !errors.Is(err, e) {
			t.Errorf("%v", err)
		}
	}
	if err := unavailable(syscall.EMFILE); errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
