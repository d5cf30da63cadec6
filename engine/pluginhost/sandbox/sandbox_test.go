package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestExit(t *testing.T) {
	w := newWorld(t)
	for _, mode := range []Mode{Strict, Off} {
		s := w.spec("exit", "7")
		s.Mode = mode
		r := w.start(s)
		if e := r.wait(); e != (Exit{Code: 7}) || e.String() != "exit status 7" {
			t.Errorf("%s: %v", mode, e)
		}
		if _, err := r.Usage(); err == nil {
			t.Errorf("%s: usage of a process that is gone", mode)
		}
		s.Args = []string{"x", "attack", "stay"}
		r = w.start(s)
		r.line()
		// It ignores what can be ignored, and one that is stopped ends too.
		if err := errors.Join(syscall.Kill(r.PID(), syscall.SIGTERM), syscall.Kill(r.PID(), syscall.SIGSTOP)); err != nil {
			t.Error(err)
		}
		r.Kill()
		if e := r.wait(); e != (Exit{Signal: syscall.SIGKILL}) || !strings.Contains(e.String(), "killed by signal 9") {
			t.Errorf("%s: %v", mode, e)
		}
		r.Kill() // of nobody
	}
	if left, _ := os.ReadDir(filepath.Join(w.state, recordDir)); len(left) != 0 {
		t.Errorf("records of processes that ended: %v", left)
	}
}

func TestExactEnvironmentAndDescriptors(t *testing.T) {
	t.Setenv("SECRET", "hunter2")
	w := newWorld(t)
	// One that a parent of the engine forgot to close.
	leaked, err := syscall.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leaked)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, mode := range []Mode{Strict, Off} {
		s := w.spec("env")
		s.Mode, s.Env = mode, []string{"A=b", "C=d e"}
		lines(t, w.say(s), "A=b C=d e 3")
		s = w.spec("descend")
		s.Mode = mode
		lines(t, w.say(s), "[0 1 2]")
		s.Files = []*os.File{null, null}
		lines(t, w.say(s), "[0 1 2 3 4]")
	}
}

func TestNoPrivileges(t *testing.T) {
	w := newWorld(t)
	uid, gid, groups := os.Getuid(), os.Getgid(), -1
	if uid == 0 {
		uid, gid, groups = User("villain"), User("villain"), 0
	} else if g, err := os.Getgroups(); err == nil {
		groups = len(g) // which an ordinary user cannot give up
	}
	lines(t, w.say(w.spec("self")), "CapInh ", "CapPrm ", "CapEff ", "CapBnd ", "CapAmb ", "NoNewPrivs 1", "Seccomp 2",
		fmt.Sprintf("1 %d %d %d 1 plugin / 1", uid, gid, groups))
}

func TestFilesAreReadOnly(t *testing.T) {
	w := newWorld(t)
	given := t.TempDir()
	if err := os.Chmod(given, 0o777); err != nil {
		t.Fatal(err)
	}
	s := w.spec("write", "/x", "/etc/x", "/usr/x", "/bin/sh", "/dev/x", "/run/x", "/proc/self/comm", "/tmp/x", "/dev/shm/x", "/dev/null",
		w.priv+"/x", given+"/x")
	s.ReadWrite = []string{given}
	ro := "read-only file system"
	lines(t, w.say(s), "/x "+ro, "/etc/x "+ro, "/usr/x "+ro, "/bin/sh "+ro, "/dev/x "+ro, "/run/x "+ro,
		"/proc/self/comm "+ro, "/tmp/x done", "/dev/shm/x done", "/dev/null done", w.priv+"/x done", given+"/x done")
	for _, path := range []string{w.priv + "/x", given + "/x"} {
		if _, err := os.Stat(path); err != nil {
			t.Error("what the program wrote where it may is not there: ", err)
		}
	}
	if _, err := os.Stat("/tmp/x"); err == nil {
		t.Error("/tmp is not the program's own")
	}
	// Where the state was there may be a directory of the program's own.
	w.say(w.spec("write", w.state+"/secret", w.state+"/new"))
	if b, err := os.ReadFile(w.state + "/secret"); string(b) != "hunter2" {
		t.Errorf("the engine's state holds %q, %v", b, err)
	}
	if _, err := os.Stat(w.state + "/new"); err == nil {
		t.Error("the program wrote into the engine's state")
	}
}

func TestDirectoriesInMemoryAreSmall(t *testing.T) {
	w := newWorld(t)
	s := w.spec("fill", "/tmp", "/dev/shm")
	if !raceEnabled { // the detector itself needs more
		s.Memory = 128 << 20 // a quarter of it
	}
	full := "no space left on device"
	lines(t, w.say(s), "/tmp "+full, "/dev/shm "+full)
}

func TestSecretsAreHidden(t *testing.T) {
	w := newWorld(t)
	hidden := filepath.Join(t.TempDir(), "hidden")
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	s := w.spec("look", "/tmp", w.state, w.state+"/secret", "/run", "/home", "/root", "/bin/sh", "/dev")
	s.Hide = []string{hidden, "/bin/sh"}
	top := strings.Split(w.state, "/")[2]
	// w.state lies in /tmp: what is there is the way to the private directory.
	said := strings.Split(w.say(s), "\n")
	want := []string{"/tmp [" + top + "]", w.state + " [private]", w.state + "/secret no such file or directory 0", "/run []", "/home []", "/root []",
		"/bin/sh done 0", "/dev [fd full null random shm stderr stdin stdout urandom zero]"}
	if !strings.HasPrefix(w.state, "/tmp/") {
		said, want = said[1:], want[1:]
	}
	lines(t, strings.Join(said, "\n"), want...)
}

func TestNetwork(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.Listen("unix", fmt.Sprintf("@sandbox-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	s := w.spec("dial", "tcp|"+l.Addr().String(), "unix|"+u.Addr().String())
	lines(t, w.say(s), "tcp address family not supported by protocol", "unix connection refused")
	s.Network = true
	lines(t, w.say(s), "tcp done", "unix done")
}

func TestSystemCalls(t *testing.T) {
	w := newWorld(t)
	for _, network := range []bool{false, true} {
		s := w.spec("calls")
		s.Network = network
		no, family := "operation not permitted", "address family not supported by protocol"
		lines(t, w.say(s), "mount "+no, "unshare "+no, "ptrace "+no, "pdeathsig "+no, "io_uring "+no, "clone3 function not implemented",
			"keyctl "+no, "netlink "+family, "crypto socket "+family)
	}
}

func TestForksEndWithIt(t *testing.T) {
	w := newWorld(t)
	mark := fmt.Sprintf("mark-%d-%d", os.Getpid(), time.Now().UnixNano())
	for _, c := range []struct {
		name string
		mode Mode
		args []string
		exit bool
	}{
		{"killed", Strict, nil, false},
		{"exits", Strict, []string{"a", "exits"}, true},
		{"without walls", Off, []string{"a"}, false}, // the same session; others need a cgroup
		{"without walls, exits", Off, []string{"a", "exits"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := w.spec(append([]string{"fork", mark}, c.args...)...)
			s.Mode = c.mode
			r := w.start(s)
			if said := r.line(); said != "forked" {
				t.Fatal(said)
			}
			if !c.exit {
				eventually(t, "forks run", func() bool { return marked("stay\x00"+mark) == 3 })
				r.Kill()
			}
			r.wait()
			if n := marked("stay\x00" + mark); n != 0 {
				t.Errorf("%d forks live", n)
			}
		})
	}
}

func TestForkBomb(t *testing.T) {
	w := newWorld(t)
	lines(t, w.say(w.spec("bomb")), "true")
}

func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector maps more memory than the program may have")
	}
	w := newWorld(t)
	for _, mode := range []Mode{Strict, Off} {
		s := w.spec("eat")
		s.Mode, s.Memory = mode, 128<<20
		r := w.start(s)
		r.all()
		if e := r.wait(); !e.OOM || e.String() != "used more memory than it may" {
			t.Errorf("%s: %v", mode, e)
		}
		if peak := r.peak.Load(); peak > s.Memory+dataSlack {
			t.Errorf("%s: %d bytes were seen", mode, peak)
		}
	}
}

// TestMemoryMapped takes more than the watch would ever see: the kernel refuses.
func TestMemoryMapped(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector maps more memory than the program may have")
	}
	w := newWorld(t)
	s := w.spec("map")
	s.Memory = 64 << 20
	if said := w.say(s); said != "cannot allocate memory" && !hasMemoryGroup() {
		t.Errorf("it said %q", said)
	}
}

func TestUsage(t *testing.T) {
	w := newWorld(t)
	r := w.start(w.spec("spin"))
	r.line()
	u, err := r.Usage()
	if err != nil || u.CPU < 80*time.Millisecond || u.Memory == 0 || u.Peak < u.Memory {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// TestForkingThread starts from a thread that ends: what it started must not.
func TestForkingThread(t *testing.T) {
	w := newWorld(t)
	got := make(chan *running, 1)
	var thread int
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		thread = syscall.Gettid()
		got <- w.start(w.spec("stay"))
	}()
	r := <-got
	r.line()
	eventually(t, "the thread ends", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread))
		return err != nil || thread == os.Getpid()
	})
	if !alive(r.PID()) {
		t.Error("it ended with the thread")
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start(w.spec("exit", "0")).wait() // skips here if it must
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s := w.spec("exit", fmt.Sprint(i))
			p, err := Start(s)
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Done()
			if p.Exit() != (Exit{Code: i}) {
				t.Errorf("%d: %v", i, p.Exit())
			}
		})
	}
	wg.Wait()
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.start(w.spec("exit", "0")).wait() // skips here if it must
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Path = file("text", "hello", 0o755) }, "no program for this processor"},
		{func(s *Spec) { s.Path = file("script", "#!/bin/sh\n", 0o755) }, "it is a script"},
		{func(s *Spec) { s.Path = file("plain", "\x7fELF", 0o644) }, "chmod 755"},
		{func(s *Spec) { s.Path = "/nonexistent" }, "no such file"},
		{func(s *Spec) { s.Mode = "lax" }, `neither "strict" nor "off"`},
		{func(s *Spec) { s.ReadWrite = []string{"here"} }, "whole path"},
		{func(s *Spec) { s.ReadWrite = []string{"/nonexistent"} }, "no such file"},
		{func(s *Spec) { s.ReadWrite = []string{"/"} }, "no sandbox"},
		{func(s *Spec) { s.Env = []string{"a=\x00"} }, "zero byte"},
		{func(s *Spec) { s.Files = []*os.File{nil} }, "descriptor 3"},
		{func(s *Spec) { s.CPUs = -1 }, "share of processors"},
		{func(s *Spec) { s.Nice = 20 }, "0 to 19"},
		{func(s *Spec) { s.StateDir = "run" }, "not absolute"},
		{func(s *Spec) { s.Self = []string{"/bin/false"} }, "its sandbox failed"},
	} {
		s := w.spec("exit", "0")
		c.change(&s)
		p, err := Start(s)
		if err == nil {
			p.Kill()
			t.Errorf("no refusal with %q", c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "start villain: ") {
			t.Errorf("%v\nwant it to contain %q", err, c.want)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(w.state, recordDir)); len(left) != 0 {
		t.Errorf("records of processes that never were: %v", left)
	}
}

func BenchmarkStart(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	s := Spec{Name: "bench", Path: "/bin/true", Args: []string{"true"}, Mode: Strict, StateDir: b.TempDir(), Self: []string{exe, Command}}
	for b.Loop() {
		p, err := Start(s)
		if err != nil {
			b.Fatal(err)
		}
		<-p.Done()
	}
}
