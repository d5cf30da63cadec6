package nbdtest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a program that runs until it is told to end. It is killed, by its
// own pid, in t's Cleanup, and by the kernel should the test process die.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  tail
	done chan struct{} // closed when the process is reaped
	err  error         // of Wait; set before done is closed
}

// StartProcess starts a program; a missing one skips t, see Require.
func StartProcess(t testing.TB, program string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(require(t, program), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.live(started)
	if err := <-started; err != nil {
		t.Fatalf("nbdtest: cannot start %s: %v", program, err)
	}
	t.Cleanup(p.Kill)
	return p
}

// live starts and reaps the process on one OS thread: the parent-death signal
// belongs to the thread that forked, so that thread must outlive the process.
func (p *Process) live(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
}

// Pid of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is the end of what the process wrote to stdout and stderr.
func (p *Process) Output() string { return p.out.String() }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal.
func (p *Process) Signal(sig os.Signal) { p.cmd.Process.Signal(sig) }

// Kill ends the process with SIGKILL and reaps it.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Terminate asks with SIGTERM, waits, and gives the error of the exit status.
func (p *Process) Terminate() error {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(endTimeout):
		p.t.Errorf("nbdtest: %s does not end on SIGTERM\n%s", p.cmd.Path, p.Output())
		p.Kill()
		return p.err
	}
}

// Real is a stock NBD server under test's control.
type Real struct {
	*Process
	t       testing.TB
	network string
	addr    string
	program string
	args    []string
}

// Network of the server.
func (r *Real) Network() string { return r.network }

// Addr of the server.
func (r *Real) Addr() string { return r.addr }

// URI of an export.
func (r *Real) URI(export string) string { return nbdURI(r.network, r.addr, export) }

// Restart starts the server again, at the same address, after Kill or Terminate.
func (r *Real) Restart() {
	r.t.Helper()
	if r.network == "unix" {
		os.Remove(r.addr) // left over after SIGKILL; servers do not bind over it
	}
	r.Process = StartProcess(r.t, r.program, r.args...)
	r.waitReady()
}

// probe makes one connection and leaves politely. The reference server would not
// survive even that, so there only the kernel is asked whether it listens.
func (r *Real) probe() error {
	if r.program == "nbd-server" {
		return listening(r.addr)
	}
	c, err := DialRaw(r.network, r.addr, Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Greet(); err != nil {
		return err
	}
	return c.Abort()
}

// listening reports nil if an IPv4 TCP socket listens at the address's port.
func listening(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(table), "\n") {
		// Fields: number, local address, remote address, state (0A: LISTEN).
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
			return nil
		}
	}
	return fmt.Errorf("nothing listens at %s", addr)
}

// waitReady waits until the server accepts connections.
func (r *Real) waitReady() {
	r.t.Helper()
	for deadline := time.Now().Add(endTimeout); ; time.Sleep(2 * time.Millisecond) {
		err := r.probe()
		if err == nil {
			return
		}
		select {
		case <-r.Done():
			r.t.Fatalf("nbdtest: %s %s ended: %v\n%s", r.program, strings.Join(r.args, " "), r.err, r.Output())
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("nbdtest: %s does not accept at %s: %v\n%s", r.program, r.addr, err, r.Output())
		}
	}
}

func startReal(t testing.TB, network, addr, program string, args ...string) *Real {
	t.Helper()
	r := &Real{t: t, network: network, addr: addr, program: program, args: args}
	r.Process = StartProcess(t, program, args...)
	r.waitReady()
	return r
}

// StartNbdkit runs nbdkit in the foreground on a Unix socket. args are the
// plugin with its parameters and any filters, e.g. "--filter=delay", "memory",
// "64M", "rdelay=10ms".
func StartNbdkit(t testing.TB, args ...string) *Real {
	t.Helper()
	sock := filepath.Join(SocketDir(t), "nbdkit")
	return startReal(t, "unix", sock, "nbdkit", append([]string{"-f", "-U", sock}, args...)...)
}

// StartQemuNBD serves a raw image (or what args say, e.g. "-f", "qcow2") over a
// Unix socket under the empty name, to one client at a time unless args raise
// it ("-e", "4").
func StartQemuNBD(t testing.TB, image string, args ...string) *Real {
	t.Helper()
	sock := filepath.Join(SocketDir(t), "qemu-nbd")
	all := append([]string{"--persistent", "--socket=" + sock, "--discard=unmap", "--cache=writeback"}, args...)
	if !strings.Contains(strings.Join(args, " "), "-f ") {
		all = append(all, "--format=raw")
	}
	return startReal(t, "unix", sock, "qemu-nbd", append(all, image)...)
}

// StartQSD serves a raw image with qemu-storage-daemon over a Unix socket as
// export "disk", writable; args are more of its options.
func StartQSD(t testing.TB, image string, args ...string) *Real {
	t.Helper()
	sock := filepath.Join(SocketDir(t), "qsd")
	all := append([]string{
		"--blockdev", "driver=file,node-name=file0,discard=unmap,filename=" + image,
		"--blockdev", "driver=raw,node-name=disk0,discard=unmap,file=file0",
		"--nbd-server", "addr.type=unix,addr.path=" + sock + ",max-connections=16",
		"--export", "type=nbd,id=export0,node-name=disk0,name=disk,writable=on",
	}, args...)
	return startReal(t, "unix", sock, "qemu-storage-daemon", all...)
}

// StartNbdServer serves an image with the reference server on a loopback port as
// export "disk". It runs without forking, so that the pid is known; in that mode
// it serves one session and ends with it: wait for Done, then Restart.
func StartNbdServer(t testing.TB, image string) *Real {
	t.Helper()
	dir := SocketDir(t)
	port := freePort(t)
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf("[generic]\nlistenaddr = 127.0.0.1\nport = %d\nallowlist = true\n[disk]\nexportname = %s\nflush = true\nfua = true\ntrim = true\n", port, image)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatalf("nbdtest: %v", err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	return startReal(t, "tcp", addr, "nbd-server", "-d", "-C", conf, "-p", filepath.Join(dir, "pid"))
}

// freePort gives a port that nothing listens on at this moment.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("nbdtest: no free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Image makes a sparse file of size bytes with the given contents at offset 0.
func Image(t testing.TB, size int64, contents []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err == nil {
		_, err = f.Write(contents)
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatalf("nbdtest: cannot make an image: %v", err)
	}
	return path
}
