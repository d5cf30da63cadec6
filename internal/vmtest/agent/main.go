// Command agent runs in the guest of the VM tests. It carries out the host's
// requests (internal/vmtest/wire) one beside the other, so that a test drives
// the guest step by step while other things happen to it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"blockengine/internal/vmtest/wire"
)

func main() {
	port, err := openPort()
	if err == nil {
		err = newAgent(port, "/usr/sbin/dash").serve()
	}
	fmt.Fprintln(os.Stderr, "agent:", err)
	os.Exit(1)
}

// openPort opens the virtio serial port of the host. It comes a moment after
// the kernel has started us, or not at all.
func openPort() (*os.File, error) {
	for range 1000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range names {
			if name, _ := os.ReadFile(file); strings.TrimSpace(string(name)) == wire.Port {
				return openBlocking(filepath.Join("/dev", filepath.Base(filepath.Dir(file))))
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio serial port is called %s", wire.Port)
}

// openBlocking opens a device for plain, blocking system calls.
func openBlocking(path string) (*os.File, error) {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

type agent struct {
	requests io.Reader
	shell    string

	mu      sync.Mutex // guards what follows
	replies *json.Encoder
	running map[uint64]*exec.Cmd
}

func newAgent(port io.ReadWriter, shell string) *agent {
	return &agent{requests: port, shell: shell, replies: json.NewEncoder(port), running: map[uint64]*exec.Cmd{}}
}

// serve answers requests until the port fails.
func (a *agent) serve() error {
	failed, _ := os.ReadFile("/run/init.failed")
	a.reply(wire.Reply{Error: string(failed)})
	in := json.NewDecoder(bufio.NewReader(a.requests))
	for {
		var r wire.Request
		if err := in.Decode(&r); err != nil {
			return err
		}
		a.carryOut(r)
	}
}

func (a *agent) carryOut(r wire.Request) {
	switch r.Op {
	case wire.Run:
		a.run(r)
	case wire.Signal:
		a.signal(r)
	case wire.Kmsg:
		go a.kmsg(r.ID)
	case wire.PowerOff:
		a.done(r.ID, 0, syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	default:
		a.done(r.ID, 0, fmt.Errorf("unknown request %q", r.Op))
	}
}

func (a *agent) reply(r wire.Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Without the host there is nobody to tell; serve sees it too.
	_ = a.replies.Encode(r)
}

func (a *agent) done(id uint64, status int, err error) {
	r := wire.Reply{ID: id, Done: true, Status: status}
	if err != nil {
		r.Error = err.Error()
	}
	a.reply(r)
}

// run starts a command in a process group of its own and has its output sent.
func (a *agent) run(r wire.Request) {
	cmd := exec.Command(a.shell, "-c", r.Command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout = &stream{a, r.ID}
	cmd.Stderr = cmd.Stdout
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // background processes may keep the output
	if err := cmd.Start(); err != nil {
		a.done(r.ID, 0, err)
		return
	}
	a.mu.Lock()
	a.running[r.ID] = cmd
	a.mu.Unlock()
	go a.wait(r.ID, cmd)
}

func (a *agent) wait(id uint64, cmd *exec.Cmd) {
	err := cmd.Wait()
	a.mu.Lock()
	delete(a.running, id)
	a.mu.Unlock()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	a.done(id, exitStatus(cmd.ProcessState), err)
}

// exitStatus is what a shell would say.
func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// signal has no reply: the command's own tells.
func (a *agent) signal(r wire.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cmd := a.running[r.ID]; cmd != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.Signal(r.Number))
	}
}

// stream sends what a command writes.
type stream struct {
	a  *agent
	id uint64
}

func (s *stream) Write(b []byte) (int, error) {
	s.a.reply(wire.Reply{ID: s.id, Output: b})
	return len(b), nil
}

// kmsg sends the kernel's log: one record a read, until there is none.
func (a *agent) kmsg(id uint64) {
	fd, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		a.done(id, 0, err)
		return
	}
	defer syscall.Close(fd)
	record := make([]byte, 8192) // the kernel's limit
	var log []byte
	for {
		n, err := syscall.Read(fd, record)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			a.reply(wire.Reply{ID: id, Output: log})
			a.done(id, 0, nil)
			return
		case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.EINTR):
			// Older records were overwritten: go on with those that are there.
		case err != nil:
			a.done(id, 0, err)
			return
		default:
			log = append(log, record[:n]...)
		}
	}
}
