package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take; no test passes or fails by less. An
// engine under the race detector takes long to compile a module.
var patience = map[bool]time.Duration{false: time.Minute, true: 5 * time.Minute}[raceEnabled]

// engineBinary is the program under test; TestMain builds it.
var engineBinary string

func TestMain(m *testing.M) {
	crowd()
	status, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// crowd has more tests run side by side than there are CPUs, unless the command line
// says how many: most of the time they wait, for a server or an engine's end.
func crowd() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "engine-test-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	engineBinary = filepath.Join(dir, "engine")
	args := []string{"build", "-o", engineBinary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the engine: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// nbdWasm builds the NBD plugin as a WebAssembly module, once.
var nbdWasm = sync.OnceValues(func() (string, error) {
	file := filepath.Join(filepath.Dir(engineBinary), "nbd.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", file, "blockengine/plugins/nbd/wasm")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the nbd plugin: %w\n%s", err, out)
	}
	return file, nil
})

// site is a directory with a configuration.
type site struct {
	t   *testing.T
	dir string
}

// newSite writes engine.toml. HEAD in it stands for an [engine] section without
// a listener on TCP, NBD for a Unix socket.
func newSite(t *testing.T, config string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "e-") // short: sockets' paths are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t, dir}
	s.write("engine.toml", s.expand(config))
	return s
}

func (s *site) expand(config string) string {
	return strings.NewReplacer("HEAD", "[engine]\nstate_dir = \"run\"\nhttp = \"\"\n",
		"NBD", "unix:run/nbd.sock").Replace(config)
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// outcome is how a command ended.
type outcome struct {
	status         int
	stdout, stderr string
}

// do runs a command of the engine in the site's directory to its end.
func (s *site) do(args ...string) outcome {
	s.t.Helper()
	cmd := exec.Command(engineBinary, args...)
	cmd.Dir = s.dir
	cmd.Env = cleanEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func cleanEnv() []string {
	env := []string{}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "NOTIFY_SOCKET=") && !strings.HasPrefix(e, "XDG_RUNTIME_DIR=") {
			env = append(env, e)
		}
	}
	return env
}

// server is a running engine.
type server struct {
	*site
	cmd    *exec.Cmd
	lines  chan string // of stdout; closed at its end
	stderr *lockedBuffer
	seen   []string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run starts the engine. When the test ends it is killed, if it still runs.
func (s *site) run(env ...string) *server {
	s.t.Helper()
	r := &server{site: s, lines: make(chan string, 1024), stderr: &lockedBuffer{}}
	out, in, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	r.start(in, env...)
	_ = in.Close()
	go func() {
		defer close(r.lines)
		defer out.Close()
		for scan := bufio.NewScanner(out); scan.Scan(); {
			r.lines <- scan.Text()
		}
	}()
	return r
}

func (r *server) start(stdout *os.File, env ...string) {
	r.t.Helper()
	r.cmd = exec.Command(engineBinary, "run", "-c", "engine.toml")
	r.cmd.Dir = r.dir
	r.cmd.Env = append(cleanEnv(), env...)
	r.cmd.Stdout, r.cmd.Stderr = stdout, r.stderr
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if r.t.Failed() {
			r.t.Logf("stdout:\n%s\nstderr:\n%s", strings.Join(r.seen, "\n"), r.stderr)
		}
	})
}

// until reads stdout up to a line that starts so, and gives it.
func (r *server) until(prefix string) string {
	r.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("the engine ended before it printed %q", prefix)
			}
			r.seen = append(r.seen, line)
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-limit:
			r.t.Fatalf("the engine has not printed %q", prefix)
		}
	}
}

// end waits for the engine to exit and gives its status.
func (r *server) end() int {
	r.t.Helper()
	kill := time.AfterFunc(patience, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	for line := range r.lines { // the pipe is read to its end before Wait
		r.seen = append(r.seen, line)
	}
	_ = r.cmd.Wait() // the state below says it all
	return r.cmd.ProcessState.ExitCode()
}

func (r *server) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

// stop drains the engine and wants it to end well.
func (r *server) stop() {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	if status := r.end(); status != 0 {
		r.t.Errorf("exit status %d after SIGTERM", status)
	}
}
