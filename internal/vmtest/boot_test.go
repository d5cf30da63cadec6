package vmtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vmtest/guest"
)

// TestGuest boots one guest and asks of it all that the kit promises.
func TestGuest(t *testing.T) {
	Require(t)
	extra := filepath.Join(t.TempDir(), "extra")
	if err := os.WriteFile(extra, []byte("#!/bin/sh\necho extra $1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := Start(t, Options{
		Memory: 640, CPUs: 1, Modules: []string{"xfs", "ublk_drv"},
		Files: map[string]string{"/usr/sbin/extra": extra},
	})
	commands(t, vm)
	options(t, vm)
	kernelLog(t, vm)
	control(t, vm)
}

func commands(t *testing.T, vm *VM) {
	if out, status := vm.Run(t.Context(), "echo out; echo err >&2; exit 7"); out != "out\nerr\n" || status != 7 {
		t.Errorf("output %q, status %d", out, status)
	}
	if out, status := vm.Run(t.Context(), "kill -KILL $$"); out != "" || status != 128+int(syscall.SIGKILL) {
		t.Errorf("a killed one: output %q, status %d", out, status)
	}
	if n := len(vm.MustRun("head -c 1000000 /dev/zero")); n != 1000000 {
		t.Errorf("%d bytes of output, want 1000000", n)
	}
	waiting := vm.Start("until [ -e /run/go ]; do sleep 0.05; done; echo gone")
	endless := vm.Start("sleep 100000")
	vm.MustRun("touch /run/go")
	if out := waiting.Must(); out != "gone\n" {
		t.Errorf("a command in the background said %q", out)
	}
	select {
	case <-endless.Done():
		t.Errorf("it has ended: %s", endless.Output())
	default:
	}
	if err := endless.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, status := endless.Wait(t.Context()); status != 128+int(syscall.SIGTERM) {
		t.Errorf("after SIGTERM the status is %d", status)
	}
}

func options(t *testing.T, vm *VM) {
	if out := vm.MustRun("extra word"); out != "extra word\n" {
		t.Errorf("a file of this host said %q", out)
	}
	vm.MustRun("grep -q ^xfs /proc/modules; grep -q ^ublk_drv /proc/modules; [ -c /dev/ublk-control ]")
	if n := strings.TrimSpace(vm.MustRun("nproc")); n != "1" {
		t.Errorf("%s CPUs, want 1", n)
	}
	for _, module := range guest.Modules {
		vm.MustRun("modprobe " + module + " 2>&1")
	}
	for _, program := range guest.Programs {
		if got := strings.TrimSpace(vm.MustRun("command -v " + program.Program)); got != "/usr/sbin/"+program.Program {
			t.Errorf("%s is %q", program.Program, got)
		}
	}
}

func kernelLog(t *testing.T, vm *VM) {
	vm.CheckKernelLog()
	vm.MustRun("echo '<4>EXT4-fs error (device none): a test' >/dev/kmsg; echo '<6>harmless' >/dev/kmsg")
	bad := Troubles(vm.Kmsg())
	if len(bad) != 1 || !strings.Contains(bad[0].Text, "a test") {
		t.Errorf("troubles %+v, want the one that was written", bad)
	}
}

func control(t *testing.T, vm *VM) {
	vm.QMP("stop", nil)
	vm.WaitEvent("STOP", nil)
	if s := vm.Status(); s != "paused" {
		t.Errorf("after stop it is %s", s)
	}
	vm.QMP("cont", nil)
	if s := vm.Status(); s != "running" {
		t.Errorf("after cont it is %s", s)
	}
	var refused *QMPError
	if _, err := vm.TryQMP("device_del", map[string]any{"id": "none"}); !errors.As(err, &refused) || refused.Class != "DeviceNotFound" {
		t.Errorf("no such device: %v", err)
	}
}

// TestNothingIsLeft: after a guest that ended well and one that was killed there
// are no processes, files, descriptors or goroutines.
func TestNothingIsLeft(t *testing.T) {
	Require(t)
	image(t, DefaultKernel())
	nbdtest.CheckLeaks(t)
	var pids []int
	var dirs []string
	t.Run("powered off", func(t *testing.T) {
		vm := Start(t, Options{})
		pids, dirs = append(pids, vm.Pid()), append(dirs, vm.dir)
		vm.Start("sleep 100000")
		vm.Close()
		vm.Close()
	})
	t.Run("quit", func(t *testing.T) {
		vm := Start(t, Options{})
		pids, dirs = append(pids, vm.Pid()), append(dirs, vm.dir)
		asleep := vm.Start("sleep 100000")
		vm.QMP("quit", nil)
		<-vm.Done()
		if err := vm.agent.wait(context.Background(), asleep.call); !errors.Is(err, errNoAgent) {
			t.Errorf("a command in a guest that is gone: %v", err)
		}
		if _, err := vm.TryQMP("query-status", nil); err == nil {
			t.Error("QMP answers after quit")
		}
	})
	for i := range pids {
		if err := syscall.Kill(pids[i], 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("QEMU %d is still there: %v", pids[i], err)
		}
		if _, err := os.Stat(dirs[i]); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dirs[i], err)
		}
	}
}
