package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program under test, with what it says.
type process struct {
	cmd  *exec.Cmd
	out  output        // stdout
	log  output        // stderr
	done chan struct{} // closed when it has ended
	err  error         // then: of its exit status
}

// output keeps what a process writes and wakes those who wait for more.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

// maxKept bounds what is kept of an output, in bytes; the rest is dropped.
const maxKept = 8 << 20

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() < maxKept {
		o.buf.Write(b)
	}
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// next gives what was written so far and a channel that is closed at more.
func (o *output) next() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return o.buf.String(), o.more
}

// spawn starts a program. It dies with the test process.
func spawn(program string, args ...string) (*process, error) {
	return spawnAs(nil, program, args...)
}

// spawnAs starts a program as another user, if as is not nil.
func spawnAs(as *syscall.Credential, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: as}
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// waitOutput waits until stdout holds text, and reports whether it does.
func (p *process) waitOutput(text string, limit time.Duration) bool {
	return wait(&p.out, text, limit, p.done)
}

// waitLog waits until stderr holds text, and reports whether it does.
func (p *process) waitLog(text string, limit time.Duration) bool {
	return wait(&p.log, text, limit, p.done)
}

func wait(o *output, text string, limit time.Duration, done <-chan struct{}) bool {
	end := time.After(limit)
	for {
		s, more := o.next()
		if strings.Contains(s, text) {
			return true
		}
		select {
		case <-more:
		case <-done:
			return strings.Contains(o.String(), text)
		case <-end:
			return false
		}
	}
}

// terminate asks with SIGTERM and gives the error of the exit status.
func (p *process) terminate(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // shows what it is doing
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			p.kill()
		}
		return errors.Join(fmt.Errorf("not ended %v after SIGTERM", limit), p.err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}
