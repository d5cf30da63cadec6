package sandbox

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test's own file is the shim, the program in the sandbox, and engines that
// die.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case Command:
			os.Exit(Main(os.Args[2:]))
		case "attack":
			os.Exit(attack(os.Args[2:]))
		case "engine":
			os.Exit(engine(os.Args[2:]))
		case "churn":
			churn(os.Args[2:])
		case "unit":
			os.Exit(unit(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// unit runs the tests in a group that is left to them, as systemd does it.
func unit(args []string) int {
	err := syscall.Setxattr(args[0], "trusted.delegate", []byte("1"), 0)
	if err == nil {
		err = os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err == nil && os.Getenv("SANDBOX_USER") != "" {
		err = becomeUser(args[0], os.Getenv("TMPDIR"))
	}
	if err == nil {
		err = syscall.Exec("/proc/self/exe", append([]string{"sandbox.test"}, args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// becomeUser gives a group and a directory to an ordinary user, and becomes it.
func becomeUser(group, dir string) error {
	for _, path := range []string{dir, group, group + "/cgroup.procs", group + "/cgroup.subtree_control", group + "/cgroup.threads"} {
		if err := os.Chown(path, userFor, userFor); err != nil {
			return err
		}
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(userFor); err != nil {
		return err
	}
	return syscall.Setuid(userFor)
}

// patience is for what must happen; it is never waited for in full.
const patience = 30 * time.Second

// world is what a test's engine has.
type world struct {
	t     *testing.T
	exe   string
	state string
	priv  string // a directory for the program, in state
}

func newWorld(t *testing.T) *world {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, exe: exe, state: filepath.Join(t.TempDir(), "state")}
	w.priv = filepath.Join(w.state, "private")
	for _, dir := range []string{w.state, w.priv} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.state, "secret"), []byte("hunter2"), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// spec is for a program that attacks.
func (w *world) spec(args ...string) Spec {
	return Spec{Name: "villain", Path: w.exe, Args: append([]string{"villain", "attack"}, args...), Mode: Strict,
		Private: []string{w.priv}, StateDir: w.state}
}

// running is a process whose words are read.
type running struct {
	*Process
	t   *testing.T
	out *os.File
}

// start starts it, or skips if this machine cannot.
func (w *world) start(s Spec) *running {
	w.t.Helper()
	r, wr, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer wr.Close()
	s.Stdout, s.Stderr = wr, wr
	p, err := Start(s)
	if err != nil {
		_ = r.Close()
		if os.Getenv("CI") != "true" && strings.Contains(err.Error(), turnOff) {
			w.t.Skip("the strict sandbox cannot be made here: ", err)
		}
		w.t.Fatal(err)
	}
	run := &running{p, w.t, r}
	w.t.Cleanup(func() {
		p.Kill()
		run.wait()
		_ = r.Close()
	})
	return run
}

// wait waits for the end.
func (r *running) wait() Exit {
	r.t.Helper()
	select {
	case <-r.Done():
		return r.Exit()
	case <-time.After(patience):
		r.t.Fatalf("process %d does not end", r.PID())
		return Exit{}
	}
}

// line waits for what it says next.
func (r *running) line() string {
	r.t.Helper()
	_ = r.out.SetReadDeadline(time.Now().Add(patience))
	var s []byte
	b := make([]byte, 1)
	for {
		_, err := r.out.Read(b)
		if err != nil {
			r.t.Fatalf("it said %q, then: %v", s, err)
		}
		if b[0] == '\n' {
			return string(s)
		}
		s = append(s, b[0])
	}
}

// all is what it says until it ends.
func (r *running) all() string {
	r.t.Helper()
	_ = r.out.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(r.out)
	if err != nil {
		r.t.Fatalf("it said %q, then: %v", b, err)
	}
	return string(b)
}

// say runs a program to its end, which must be a good one, and gives its words.
func (w *world) say(s Spec) string {
	w.t.Helper()
	r := w.start(s)
	said := r.all()
	if e := r.wait(); e != (Exit{}) {
		w.t.Fatalf("it ended with %v, and said:\n%s", e, said)
	}
	return strings.TrimSuffix(said, "\n")
}

// lines compares what a program has said line by line.
func lines(t *testing.T, said string, want ...string) {
	t.Helper()
	got := strings.Split(said, "\n")
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("it said %q, want %q", g, w)
		}
	}
}

// alive says whether a process runs, a zombie not counted.
func alive(pid int) bool {
	f, err := stat(pid)
	return err == nil && f[0] != "Z" && f[0] != "X"
}

// eventually waits until f.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// marked counts processes that have mark in their command line.
func marked(mark string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), mark) {
			n++
		}
	}
	return n
}

func sprint(err error) string {
	if err == nil {
		return "done"
	}
	return fmt.Sprint(err)
}
