package process

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/process/ring"
	"blockengine/sdk/process/worker"
)

// patience is the time after which a test that waits has failed.
const patience = 20 * time.Second

// ringServe in the environment makes the test's own program the plugin's end of
// regions, which it has as descriptors from 3 on: "KIND SPIN REGIONS". It ends with
// its standard input.
const ringServe = "BLOCKENGINE_TEST_RING"

func init() {
	if s := os.Getenv(ringServe); s != "" {
		if err := servePlugin(s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// servePlugin is the main of the other process. It says "ready", and "closed"
// when it has ended in good order.
func servePlugin(how string) error {
	var kind, spin string
	var regions int
	if _, err := fmt.Sscan(how, &kind, &spin, &regions); err != nil {
		return err
	}
	d, err := time.ParseDuration(spin)
	if err != nil {
		return err
	}
	var workers []*worker.Worker
	for i := range regions {
		w, err := serveRegion(kind, worker.Files{Memory: 3 + 2*i, Bell: 4 + 2*i}, worker.Options{Spin: d})
		if err != nil {
			return err
		}
		workers = append(workers, w)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, w := range workers {
		w.Close()
	}
	fmt.Println("closed")
	return nil
}

func serveRegion(kind string, f worker.Files, o worker.Options) (*worker.Worker, error) {
	if kind == "machine" {
		return worker.Machine(echoPlugin{}, f, testLayout(kind), o)
	}
	return worker.Channel(&testDevice{kind: kind}, f, testLayout(kind), o)
}

func testLayout(kind string) ring.Layout {
	l, err := ring.StoreLayout(128, 256<<10)
	if kind == "machine" {
		l, err = ring.MachineLayout(64<<10, 64<<10)
	}
	if err != nil {
		panic(err)
	}
	return l
}

// peer is the other process.
type peer struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Reader
	said  bytes.Buffer // on its standard error; read after reap
	hush  bool
	once  sync.Once
}

// startPeer starts a process that serves regions as how says, "KIND SPIN", with
// more of an environment.
func startPeer(t testing.TB, how string, env []string, regions ...*region) *peer {
	t.Helper()
	p := &peer{t: t, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(append(os.Environ(), fmt.Sprintf("%s=%s %d", ringServe, how, len(regions))), env...)
	p.cmd.Stderr = &p.said
	var fds []int
	for _, r := range regions {
		fds = append(fds, r.files()...)
	}
	for _, fd := range dupAll(t, fds) {
		f := os.NewFile(uintptr(fd), "region")
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
		defer f.Close()
	}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.lines = stdin, bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.expect("ready")
	return p
}

// dupAll gives descriptors for another owner.
func dupAll(t testing.TB, fds []int) (own []int) {
	t.Helper()
	for _, fd := range fds {
		n, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		syscall.CloseOnExec(n)
		own = append(own, n)
	}
	return own
}

// expect reads a line of the process's output.
func (p *peer) expect(want string) {
	p.t.Helper()
	line, err := p.lines.ReadString('\n')
	if strings.TrimSpace(line) != want {
		p.t.Fatalf("the plugin process said %q, %v, and not %q", line, err, want)
	}
}

// close ends the process in good order: its worker waits for what is outstanding.
func (p *peer) close() {
	p.t.Helper()
	_ = p.stdin.Close()
	p.expect("closed")
	p.reap()
}

func (p *peer) reap() {
	p.once.Do(func() {
		_ = p.cmd.Wait()
		if !p.hush && p.said.Len() > 0 {
			p.t.Errorf("the plugin process said: %s", p.said.Bytes())
		}
	})
}

// quiet has what the process says on its standard error be expected.
func (p *peer) quiet() { p.hush = true }

// kill ends the process at once and reaps it.
func (p *peer) kill() {
	_ = p.cmd.Process.Kill()
	p.reap()
}

var (
	_ guest.Link  = (*link)(nil)
	_ guest.Apart = (*instance)(nil)
)
