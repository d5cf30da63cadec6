package vmtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vmtest/guest"
	"blockengine/internal/vmtest/wire"
)

// Options say what is booted. The zero value is a VM without disks.
type Options struct {
	Disks   []VhostUserBlk    // there from the start; see [VM.AddDisk] for later
	Memory  int               // MiB; 0: 512
	CPUs    int               // 0: 2
	Modules []string          // loaded beside virtio_blk before the agent starts; see guest.Modules
	Files   map[string]string // files of this host by their path in the guest, all executable
	Args    []string          // more of QEMU's arguments
	Kernel  guest.Kernel      // "": DefaultKernel
	Limit   time.Duration     // of each wait, the boot among them; 0: DefaultLimit
}

// DefaultLimit bounds every wait. A guest boots in 4 s on an idle machine; the
// limit is for one with much else to do.
const DefaultLimit = 5 * time.Minute

// offLimit is how long a guest has to power off before it is killed.
const offLimit = 30 * time.Second

// VM is a running guest. Unless it says otherwise, a method belongs to the
// test's goroutine, and a VM that does not answer fails the test at once with
// all that is known about it.
type VM struct {
	t     testing.TB
	opts  Options
	dir   string
	proc  *nbdtest.Process
	agent *agentConn
	qmp   *qmpConn

	slots []string // of the root ports: the disk's ID, "" where none is
	disks int      // so many were added; the next one's number
	close sync.Once
}

// Require skips t unless VM=1 is in the environment, and then unless all that
// is needed is installed (see nbdtest.Require: with CI=true nothing is skipped).
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv("VM") != "1" {
		t.Skip("VMs are booted only with VM=1: run scripts/vm-test.sh")
	}
	nbdtest.Require(t, qemu, "qemu-system-x86")
	for _, tools := range [][]guest.Tool{guest.Tools, guest.Programs} {
		for _, tool := range tools {
			nbdtest.Require(t, tool.Program, tool.Package)
		}
	}
}

// images are built once for the test process.
var images sync.Map // of guest.Kernel to func() (guest.Image, error)

func buildImage(k guest.Kernel) (guest.Image, error) {
	build, _ := images.LoadOrStore(k, sync.OnceValues(func() (guest.Image, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*DefaultLimit)
		defer cancel()
		return guest.Build(ctx, k, nil)
	}))
	return build.(func() (guest.Image, error))()
}

func image(t testing.TB, k guest.Kernel) guest.Image {
	t.Helper()
	img, err := buildImage(k)
	var unavailable *guest.UnavailableError
	switch {
	case err == nil:
		return img
	case errors.As(err, &unavailable) && os.Getenv("CI") != "true":
		t.Skip(err)
	}
	t.Fatal("vmtest: ", err)
	return img
}

// DefaultKernel is the one of guests that ask for none: VM_KERNEL of the
// environment, or the stable one.
func DefaultKernel() guest.Kernel { return cmp.Or(guest.Kernel(os.Getenv("VM_KERNEL")), guest.Stable) }

// Start boots a guest and waits until its agent answers. The servers of its
// disks must accept connections already. It skips like [Require].
func Start(t testing.TB, o Options) *VM {
	t.Helper()
	Require(t)
	if o.Memory == 0 {
		o.Memory = 512
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	o.Kernel = cmp.Or(o.Kernel, DefaultKernel())
	vm := &VM{t: t, opts: o, dir: nbdtest.SocketDir(t), slots: make([]string, max(minSlots, len(o.Disks)))}
	vm.boot(image(t, o.Kernel))
	return vm
}

// Lend has a test use a guest that belongs to another one, which is above it and
// waits for it: what goes wrong until the end of t is the failure of t. Close, and
// the Cleanup of the guest, stay its owner's.
func (vm *VM) Lend(t testing.TB) {
	owner := vm.t
	vm.t = t
	t.Cleanup(func() { vm.t = owner })
}

// boot starts QEMU, which connects to our sockets, and waits for the agent.
func (vm *VM) boot(img guest.Image) {
	vm.t.Helper()
	agent, qmp := vm.listen("agent"), vm.listen("qmp")
	defer agent.Close()
	defer qmp.Close()
	img.Initramfs = vm.overlay(img.Initramfs)
	vm.proc = nbdtest.StartProcess(vm.t, qemu, vm.arguments(img)...)
	vm.t.Cleanup(vm.Close)
	ctx, cancel := vm.bound(context.Background())
	defer cancel()
	agentSocket, err := vm.accept(ctx, agent)
	if err != nil {
		vm.fatal("QEMU does not start: %v", err)
	}
	vm.agent = newAgentConn(agentSocket)
	qmpSocket, err := vm.accept(ctx, qmp)
	if err == nil {
		vm.qmp, err = newQMP(ctx, qmpSocket)
	}
	if err != nil {
		vm.fatal("no QMP: %v", err)
	}
	if err := vm.agent.hello(ctx); err != nil {
		vm.fatal("the guest does not come up: %v", err)
	}
}

// overlay gives the initramfs with the option's files behind it, if there are any.
func (vm *VM) overlay(initramfs string) string {
	vm.t.Helper()
	if len(vm.opts.Files) == 0 {
		return initramfs
	}
	own := filepath.Join(vm.dir, "initramfs")
	err := copyFile(own, initramfs)
	if err == nil {
		err = guest.Overlay(own, vm.opts.Files)
	}
	if err != nil {
		vm.t.Fatal("vmtest: cannot add files to the guest: ", err)
	}
	return own
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (vm *VM) listen(name string) *net.UnixListener {
	vm.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(vm.dir, name), Net: "unix"})
	if err != nil {
		vm.t.Fatal("vmtest: ", err)
	}
	return l
}

// accept waits for QEMU to connect, for as long as it lives.
func (vm *VM) accept(ctx context.Context, l *net.UnixListener) (net.Conn, error) {
	for ctx.Err() == nil {
		l.SetDeadline(time.Now().Add(100 * time.Millisecond))
		c, err := l.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
		select {
		case <-vm.proc.Done():
			return nil, errors.New("it has ended")
		default:
		}
	}
	return nil, ctx.Err()
}

// bound gives ctx an end at the limit.
func (vm *VM) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, vm.opts.Limit, fmt.Errorf("nothing came for %v", vm.opts.Limit))
}

// fatal ends the test with what is known of the VM.
func (vm *VM) fatal(format string, args ...any) {
	vm.t.Helper()
	vm.t.Fatalf("vmtest: %s\n%s", fmt.Sprintf(format, args...), vm.report())
}

// report is what QEMU and the guest's console have said.
func (vm *VM) report() string {
	return fmt.Sprintf("QEMU said: %s\nthe guest's console:\n%s", strings.TrimSpace(vm.proc.Output()), vm.Console())
}

// Console is what the guest's kernel has printed: warnings and worse. It can be
// read also when the guest hangs or has ended.
func (vm *VM) Console() string {
	text, _ := os.ReadFile(filepath.Join(vm.dir, "console"))
	return string(text)
}

// Pid of QEMU.
func (vm *VM) Pid() int { return vm.proc.Pid() }

// Done is closed when QEMU has ended. It may be used by any goroutine.
func (vm *VM) Done() <-chan struct{} { return vm.proc.Done() }

// Close powers the guest off, without a sync, and waits for QEMU to end. A guest
// that does not manage in 30 s is killed, and that fails the test. It is called
// by the test's Cleanup; more calls do nothing.
func (vm *VM) Close() {
	vm.close.Do(func() {
		vm.t.Helper()
		if vm.agent != nil {
			_ = vm.agent.send(wire.Request{Op: wire.PowerOff})
			vm.awaitEnd()
		}
		vm.proc.Kill()
		if vm.agent != nil {
			vm.agent.close()
		}
		if vm.qmp != nil {
			vm.qmp.close()
		}
		if vm.t.Failed() {
			vm.t.Logf("vmtest: %s", vm.report())
		}
	})
}

func (vm *VM) awaitEnd() {
	vm.t.Helper()
	select {
	case <-vm.proc.Done():
	case <-time.After(offLimit):
		vm.t.Errorf("vmtest: the guest does not power off; QEMU is killed")
	}
}
