package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/sdk/block"
)

// gone waits for a process's end.
func gone(t testing.TB, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

// stopped stops a process, and waits until none of its threads runs any more: the
// signal takes a while to reach all of them.
func stopped(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all threads to stop", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, name := range threads {
			b, err := os.ReadFile(name)
			if _, state, _ := strings.Cut(string(b), ") "); err != nil || !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return len(threads) > 0
	})
}

func TestClosedPluginServesWhatIsOpen(t *testing.T) {
	l, err := Load(t.Context(), testOptions(t, "memory"))
	if err != nil {
		t.Fatal(err)
	}
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	pid := l.Status().PID
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if st := write(t, r, k, o); st != block.OK {
		t.Errorf("a write after Close ended with %v", st)
	}
	if _, err := l.Store().NewLink(t.Context(), guest.LinkOptions{Volume: "v"}); !errors.Is(err, errUnloaded) {
		t.Errorf("a link after Close: %v", err)
	}
	if !shut(t, r, k) {
		t.Error("the link did not end in order")
	}
	gone(t, pid)
	if err := l.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// eventually waits for what has to come.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestOutstandingRequestsThatNeverEnd(t *testing.T) {
	t.Parallel()
	l := load(t, testOptions(t, "stuck"))
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	pid := l.Status().PID
	on(r, func() {
		k.Submit(0, block.OpWrite, 0, 0, 512)
		k.Push()
	})
	eventually(t, "the process to take the request", func() bool { return k.(*link).region.SubHead.Load() == 1 })
	if shut(t, r, k) {
		t.Error("the process has finished what never ends")
	}
	if syscall.Kill(pid, 0) == nil {
		t.Errorf("process %d is still there, and may still write", pid)
	}
}

func TestDyingAgainAndAgain(t *testing.T) {
	t.Parallel()
	l := load(t, testOptions(t, "memory"))
	l.host.policy.first = time.Millisecond
	for i := 0; ; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := l.Store().NewLink(ctx, guest.LinkOptions{Volume: "panics"})
		cancel()
		if err == nil {
			t.Fatal("a link to a plugin that panics")
		}
		if strings.Contains(err.Error(), "has died 10 times") {
			break
		}
		if i > 20 {
			t.Fatalf("it is never left alone: %v", err)
		}
	}
	if s := l.Status(); s.PID != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDiskThatCannotBe(t *testing.T) {
	l := load(t, testOptions(t, "nonsense"))
	_, err := l.Store().NewLink(t.Context(), guest.LinkOptions{Volume: "v"})
	if err == nil || !strings.Contains(err.Error(), "blocks of 513 bytes") {
		t.Errorf("%v", err)
	}
}

// TestFileThatChanges: what runs is what was hashed, also after a restart of the
// process.
func TestFileThatChanges(t *testing.T) {
	opt := testOptions(t, "memory")
	exe, err := os.ReadFile(opt.Path)
	if err != nil {
		t.Fatal(err)
	}
	opt.Path = filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(opt.Path, exe, 0o700); err != nil {
		t.Fatal(err)
	}
	l := load(t, opt)
	if err := os.WriteFile(opt.Path, []byte("\x7fELF and no more"), 0o700); err != nil {
		t.Fatalf("the file is busy: %v", err)
	}
	pid := l.Status().PID
	_ = syscall.Kill(pid, syscall.SIGKILL)
	gone(t, pid)
	eventually(t, "the death to be known", func() bool { return l.Status().PID != pid })
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	if st := write(t, r, k, o); st != block.OK {
		t.Errorf("a write ended with %v", st)
	}
	shut(t, r, k)
	opt.SHA256 = l.Store().Hash()
	if _, err := Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), opt.SHA256) {
		t.Errorf("the changed file with the old pin: %v", err)
	}
}

func TestFilesThatAreNoPrograms(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]string{
		"":                  "the file is empty",
		"#!/bin/sh\nexit 0": "is a script",
		"\x00asm\x01\x00":   `write runtime = "wasm"`,
		"MZ\x90\x00\x03":    "is no program for linux",
	} {
		path := filepath.Join(dir, "plugin")
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		opt := testOptions(t, "memory")
		opt.Path = path
		if _, err := Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	opt := testOptions(t, "memory")
	opt.Path = dir
	if _, err := Load(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// TestImpostor: a process that leads the engine to somebody else's socket gains
// nothing.
func TestImpostor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lst, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer lst.Close()
	got := make(chan int, 16)
	go func() {
		for {
			c, err := lst.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, c)
			got <- int(n)
			c.Close()
		}
	}()
	opt := testOptions(t, "impostor")
	opt.Sandbox, opt.Args = sandbox.Off, append(opt.Args, path) // with walls it does not see it
	_, err = Load(t.Context(), opt)
	if err == nil || !strings.Contains(err.Error(), "listens where plugin process") {
		t.Errorf("%v", err)
	}
	if n := within(t, got, "the engine comes"); n != 0 {
		t.Errorf("the engine has said %d bytes to a stranger", n)
	}
}

// TestFloodOfLog: a plugin that writes without end is heard little, and serves.
func TestFloodOfLog(t *testing.T) {
	opt := testOptions(t, "flood")
	opt.Args[0] = "flood"
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	for range 100 {
		if st := write(t, r, k, o); st != block.OK {
			t.Fatalf("a write ended with %v", st)
		}
	}
	shut(t, r, k)
}

func TestInspect(t *testing.T) {
	opt := testOptions(t, "memory")
	opt.StateDir = ""
	rep, err := Inspect(t.Context(), opt)
	if err != nil || rep.Problem != "" || rep.Manifest == nil || rep.Manifest.Name != "memory" || rep.Kind != "store" || !rep.FenceOnExit || rep.ABI == "" {
		t.Errorf("%+v, %v", rep, err)
	}
	opt.Args = []string{"exits"}
	if rep, err := Inspect(t.Context(), opt); err != nil || rep.Manifest != nil || !strings.Contains(rep.Problem, "these are my last words") {
		t.Errorf("a program that is no plugin: %+v, %v", rep, err)
	}
}
