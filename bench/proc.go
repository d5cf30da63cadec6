package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a server under measurement. It is told to end by stop, and killed
// by the kernel should this program die.
type process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when the process is reaped
}

// start starts a program in a process group of its own, so that Ctrl-C reaches
// it through us only.
func start(program string, args ...string) (*process, error) {
	path, err := find(program)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The parent-death signal belongs to the thread that forked: it must
		// outlive the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in its output
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// errMissing is wrapped where a program is not installed.
var errMissing = errors.New("not installed")

// find looks a program up, also where only root's PATH does.
func find(program string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, errMissing)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process: asked at first, then killed. It returns when the
// process is reaped.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// startTimeout is how long a server may take until it can be used.
const startTimeout = 30 * time.Second

// await waits until ok, and fails when the process ends or it takes too long.
func (p *process) await(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("ended before %s: %s", what, p.out.tail())
		case <-ctx.Done():
			return fmt.Errorf("no %s: %w: %s", what, ctx.Err(), p.out.tail())
		}
	}
	return nil
}

// listening says whether somebody accepts on a Unix socket.
func listening(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// output keeps the end of what a process writes.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

const maxOutput = 64 << 10 // bytes

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(b)
	if over := o.buf.Len() - maxOutput; over > 0 {
		o.buf.Next(over)
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// hasLine says whether a line has been written.
func (o *output) hasLine(line string) bool {
	return strings.Contains("\n"+o.String(), "\n"+line+"\n")
}

// tail is the end of the output, on one line.
func (o *output) tail() string {
	s := strings.Join(strings.Fields(o.String()), " ")
	return s[max(0, len(s)-300):]
}
