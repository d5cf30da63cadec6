package sandbox

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engine is an engine that starts two programs, says their numbers, and waits
// to be killed. args: the state directory, the private directory, the mode.
func engine(args []string) int {
	exe, err := os.Executable()
	for range 2 {
		if err != nil {
			break
		}
		var p *Process
		p, err = Start(Spec{Name: "villain", Path: exe, Args: []string{"x", "attack", "fork", args[3]}, Mode: Mode(args[2]), Stdout: os.Stdout,
			Private: []string{args[1]}, StateDir: args[0]})
		if err == nil {
			fmt.Println("pid", p.PID())
		}
	}
	fmt.Println("err", err)
	time.Sleep(10 * time.Minute)
	return 0
}

// TestEngineKilled kills an engine: all that it has started goes, and what that
// has forked.
func TestEngineKilled(t *testing.T) {
	for _, mode := range []Mode{Strict, Off} {
		t.Run(string(mode), func(t *testing.T) { testEngineKilled(t, mode) })
	}
}

func testEngineKilled(t *testing.T, mode Mode) {
	w := newWorld(t)
	w.start(w.spec("exit", "0")).wait() // skips here if it must
	mark := fmt.Sprintf("mark-%d-%d", os.Getpid(), time.Now().UnixNano())
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(w.exe, "engine", w.state, w.priv, string(mode), mark)
	cmd.Stdout, cmd.Stderr = wr, wr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = wr.Close()
	defer func() { _ = cmd.Process.Kill() }()
	said := running{t: t, out: r}
	var pids []int
	for forked := 0; forked < 2 || len(pids) < 2; {
		line := said.line()
		var pid int
		if n, _ := fmt.Sscanf(line, "pid %d", &pid); n == 1 {
			pids = append(pids, pid)
		} else if line == "forked" {
			forked++
		} else if line != "here" && line != "err <nil>" {
			t.Fatal(line)
		}
	}
	eventually(t, "forks run", func() bool { return marked("stay\x00"+mark) == 6 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range pids {
		eventually(t, "it ends with the engine", func() bool { return !alive(pid) })
	}
	if err := Reap(w.state, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(w.state, recordDir)); len(left) != 0 {
		t.Errorf("records stay: %v", left)
	}
	if n := marked("stay\x00" + mark); n != 0 && (mode == Strict || hasCgroup()) {
		t.Errorf("%d forks live", n)
	}
}

// churn is an engine that starts programs, and ends every other, without end.
// args: the state directory, the private directory, the mode, a name of this
// file.
func churn(args []string) {
	fmt.Println("churning")
	for i := 0; ; i++ {
		p, err := Start(Spec{Name: "villain", Path: args[3], Args: []string{args[3], "attack", "stay", "quietly"}, Mode: Mode(args[2]),
			Private: []string{args[1]}, StateDir: args[0], Self: []string{args[3], Command}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if i%2 == 1 {
			p.Kill()
		}
		if i%4 == 3 {
			<-p.Done()
		}
	}
}

// TestEngineKilledAnywhere kills engines wherever they are: what they are about
// to start goes too.
func TestEngineKilledAnywhere(t *testing.T) {
	w := newWorld(t)
	w.start(w.spec("exit", "0")).wait() // skips here if it must
	name := filepath.Join(t.TempDir(), fmt.Sprintf("churn-%d", os.Getpid()))
	if err := os.Symlink(w.exe, name); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		mode := []Mode{Strict, Off}[round%2]
		cmd := exec.Command(name, "churn", w.state, w.priv, string(mode), name)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("churning\n"))
		if _, err := io.ReadFull(out, line); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(30 * time.Millisecond))
		_ = cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		_ = cmd.Wait()
		if len(rest) > 0 {
			t.Fatalf("the engine said %s", rest)
		}
		if err := Reap(w.state, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all goes with the engine", func() bool { return marked(name) == 0 })
		if left, _ := os.ReadDir(filepath.Join(w.state, recordDir)); len(left) != 0 {
			t.Fatalf("records stay: %v", left)
		}
		if h, err := groupHome(); err == nil {
			if left, _ := filepath.Glob(fmt.Sprintf("%s/*-%d-*", h.dir, cmd.Process.Pid)); len(left) != 0 {
				t.Fatalf("groups stay: %v", left)
			}
		}
	}
}

// hasCgroup says whether groups hold what a program without walls forks.
func hasCgroup() bool {
	_, err := groupHome()
	return err == nil
}

// TestReap has records of processes that are what they say, or not.
func TestReap(t *testing.T) {
	w := newWorld(t)
	boot, space, err := here()
	if err != nil {
		t.Fatal(err)
	}
	sleeper := func() *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	note := func(cmd *exec.Cmd, change func(*record)) *exec.Cmd {
		r := record{Name: "villain", PID: cmd.Process.Pid, Boot: boot, Space: space}
		if r.Start, err = startedAt(r.PID); err != nil {
			t.Fatal(err)
		}
		change(&r)
		if _, err := r.write(w.state); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	ours := note(sleeper(), func(*record) {})
	strangers := []*exec.Cmd{
		note(sleeper(), func(r *record) { r.Start-- }),
		note(sleeper(), func(r *record) { r.Boot = "another" }),
		note(sleeper(), func(r *record) { r.Space = "pid:[1]" }),
		// A group that is none of ours must not be touched either.
		note(sleeper(), func(r *record) { r.Start--; r.Cgroup = filepath.Join(w.state, "private") }),
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&record{PID: gone.Process.Pid, Boot: boot, Space: space}).write(w.state); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"7.json": "{", "8.json": `{"pid":-1}`, "9.json.new": "half"} {
		if err := os.WriteFile(filepath.Join(w.state, recordDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Reap(w.state, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if alive(ours.Process.Pid) {
		t.Error("ours lives")
	}
	for i, s := range strangers {
		if !alive(s.Process.Pid) {
			t.Errorf("stranger %d was killed", i)
		}
	}
	if _, err := os.Stat(w.priv); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(w.state, recordDir)); len(left) != 0 {
		t.Errorf("records stay: %v", left)
	}
}

func TestReapNothing(t *testing.T) {
	if err := Reap(t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// TestRecordComesFirst asks whether a process that lives is in the record.
func TestRecordComesFirst(t *testing.T) {
	w := newWorld(t)
	r := w.start(w.spec("stay"))
	b, err := os.ReadFile(filepath.Join(w.state, recordDir, fmt.Sprint(r.PID())+".json"))
	if err != nil || !strings.Contains(string(b), `"name":"villain"`) {
		t.Errorf("%s, %v", b, err)
	}
}

// hasMemoryGroup says whether groups hold memory.
func hasMemoryGroup() bool {
	h, err := groupHome()
	return err == nil && slices.Contains(h.controllers, "memory")
}

// userFor is a user that nobody is.
const userFor = 61100

// TestAsOrdinaryUser runs the other tests as a user without privileges.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("these tests run as an ordinary user already")
	}
	if raceEnabled {
		t.Skip("programs with the race detector take a second to start; these tests run without it")
	}
	w := newWorld(t)
	dir, err := os.MkdirTemp("", "sandbox-user-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := os.ReadFile(w.exe)
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "sandbox.test")
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, userFor, userFor); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v", "-test.timeout=2m"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "PATH=/bin:/usr/bin", "HOME=" + dir, "CI=" + os.Getenv("CI")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: userFor, Gid: userFor}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "cannot be made here") {
		t.Skip("user namespaces are not for ordinary users here")
	}
}
