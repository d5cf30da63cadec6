package ublk_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/frontends/ublk"
	"blockengine/internal/vmtest"
	vmguest "blockengine/internal/vmtest/guest"
)

// serious bounds each wait for a guest that copies in earnest.
const serious = 3 * time.Minute

// guest boots a machine with the driver and the smallest engine in it. limit bounds
// each wait for it.
func guest(t *testing.T, kernel vmguest.Kernel, limit time.Duration) *vmtest.VM {
	t.Helper()
	vmtest.Require(t)
	serve := vmtest.Program(t, "build", "./testdata/serve")
	return vmtest.Start(t, vmtest.Options{Kernel: kernel, Limit: limit, Modules: []string{"ublk_drv"}, Files: map[string]string{"/usr/sbin/serve": serve}})
}

// TestVM has all tests of one guest use it in turns; the one after a failure gets
// another one.
func TestVM(t *testing.T) {
	var vm *vmtest.VM
	for _, x := range []struct {
		name string
		run  func(*testing.T, *vmtest.VM)
	}{
		{"Life", life}, {"KilledAtEveryStep", killedAtEveryStep}, {"WriteOfADeadEngine", writeOfADeadEngine},
		{"KilledUnderLoad", killedUnderLoad}, {"RemovedUnderLoad", removedUnderLoad}, // the kernel logs errors in this one
	} {
		if vm == nil {
			vm = guest(t, vmtest.DefaultKernel(), time.Minute)
		}
		ok := t.Run(x.name, func(t *testing.T) {
			vm.Lend(t)
			vm.MustRun("rm -rf /run/engine /run/other")
			x.run(t, vm)
		})
		if !ok {
			vm.Close()
			vm = nil
		}
	}
}

// serve starts the engine in the guest and waits until it is ready.
func serve(t *testing.T, vm *vmtest.VM, args string) *vmtest.Command {
	t.Helper()
	c := vm.Start("exec serve " + args + " 2>&1")
	for !strings.Contains(c.Output(), "ready ") {
		select {
		case <-c.Done():
			t.Fatalf("serve %s has ended: %s\n%s", args, c.Output(), vm.MustRun("dmesg | tail -40"))
		default:
		}
		vm.MustRun("sleep 0.02")
	}
	return c
}

// end ends an engine by a signal and gives what it said.
func end(t *testing.T, c *vmtest.Command, s syscall.Signal) string {
	t.Helper()
	if err := c.Signal(s); err != nil {
		t.Fatal(err)
	}
	if s == syscall.SIGKILL {
		c.Wait(t.Context())
		return c.Output()
	}
	return c.Must()
}

// refused runs an engine that must not come up, and gives what it said.
func refused(t *testing.T, vm *vmtest.VM, args, want string) {
	t.Helper()
	out, status := vm.Run(t.Context(), "exec serve "+args+" 2>&1")
	if status != 1 || !strings.Contains(out, want) {
		t.Errorf("serve %s: status %d, it said %s\nwant: %s", args, status, out, want)
	}
}

// file makes a disk that outlives its engine, in the guest's memory.
func file(vm *vmtest.VM, path string, size int) string {
	vm.MustRun(fmt.Sprintf("rm -f %s; truncate -s %d %s", path, size, path))
	return fmt.Sprintf("-store file -path %s -size %d", path, size)
}

const mib = 1 << 20

// life is a device's life: made, used, left, taken over, removed.
func life(t *testing.T, vm *vmtest.VM) {
	t.Log(vm.MustRun("serve -probe; uname -r"))
	disk := file(vm, "/run/disk", 64*mib)
	c := serve(t, vm, disk+" -queues 2")
	vm.MustRun(`cd /sys/block/ublkb0/queue; [ $(cat ../size) = 131072 ]; [ "$(cat write_cache)" = "write back" ]
		[ $(cat max_hw_sectors_kb) = 256 ]; [ $(cat fua) = 1 ]
		dd if=/dev/urandom of=/run/a bs=1M count=8 2>/dev/null
		dd if=/run/a of=/dev/ublkb0 bs=1M oflag=direct conv=fsync
		dd if=/dev/ublkb0 of=/run/b bs=64k count=128 iflag=direct
		cmp /run/a /run/b; cmp -n 8388608 /run/a /run/disk`)
	t.Log(vm.MustRun("serve -list"))
	refused(t, vm, "-name other -state /run/other -id 0 -store null", "is taken")
	if vmtest.DefaultKernel() == vmguest.Stable {
		refused(t, vm, "-name other -state /run/other -recovery 1 -store null", "6.13")
	}

	t.Log(end(t, c, syscall.SIGTERM))
	vm.MustRun("serve -list | grep -q State:quiesced")
	reader := vm.Start("dd if=/dev/ublkb0 of=/run/b bs=64k count=128 iflag=direct; cmp /run/a /run/b")
	vm.MustRun("truncate -s 33554432 /run/disk")
	refused(t, vm, "-store file -path /run/disk -size 0", "shrunk")
	vm.MustRun("truncate -s 67108864 /run/disk; truncate -s 67108864 /run/another")
	refused(t, vm, "-store file -path /run/another -size 67108864", "another disk")
	c = serve(t, vm, disk+" -queues 2")
	t.Log(c.Output())
	reader.Must()
	end(t, c, syscall.SIGKILL)
	c = serve(t, vm, disk+" -queues 2")
	t.Log(c.Output())
	vm.MustRun("dd if=/dev/ublkb0 of=/run/b bs=64k count=128 iflag=direct; cmp /run/a /run/b")
	t.Log(end(t, c, syscall.SIGUSR1))
	vm.MustRun("[ ! -e /dev/ublkb0 ]; [ -z \"$(ls /run/engine/ublk)\" ]")
	vm.CheckKernelLog()
}

// killedAtEveryStep kills an engine at every step of making a device and of taking
// one over, and has the next one go on. The device has one queue; with two,
// internal/vmtest/hostdisk does it.
func killedAtEveryStep(t *testing.T, vm *vmtest.VM) {
	args := file(vm, "/run/disk", 16*mib) + " -queues 1"
	for s := range ublk.StepSubmit {
		if s >= ublk.StepFound { // there is a device to be taken over
			end(t, serve(t, vm, args), syscall.SIGKILL)
		}
		out, status := vm.Run(t.Context(), fmt.Sprintf("exec serve %s -die-at %s 2>&1", args, s))
		if status != 128+int(syscall.SIGKILL) {
			t.Fatalf("%s: status %d, it said %s", s, status, out)
		}
		c := serve(t, vm, args)
		if list := vm.MustRun("serve -list"); strings.Count(list, "{ID:") != 1 || !strings.Contains(list, "{ID:0 ") {
			t.Errorf("%s: not one device: %s", s, list)
		}
		vm.MustRun("dd if=/dev/urandom of=/dev/ublkb0 bs=64k count=16 oflag=direct conv=fsync; dd if=/dev/ublkb0 of=/run/b bs=1M count=1 iflag=direct; cmp -n 1048576 /run/b /run/disk")
		end(t, c, syscall.SIGUSR1)
	}
	vm.CheckKernelLog()
}

// writeOfADeadEngine: a write that an engine had sent when it was killed comes
// to the next one as such, whatever else comes first.
func writeOfADeadEngine(t *testing.T, vm *vmtest.VM) {
	args := file(vm, "/run/disk", 16*mib)
	c := serve(t, vm, args+" -die-at complete -later")
	if err := c.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(c.Output(), "armed") {
		vm.MustRun("sleep 0.02")
	}
	write := vm.Start("dd if=/dev/urandom of=/run/w bs=4k count=1; dd if=/run/w of=/dev/ublkb0 bs=4k seek=5 oflag=direct")
	c.Wait(t.Context())
	c = serve(t, vm, args)
	if !strings.Contains(c.Output(), "owed=1 ") {
		t.Errorf("it owes nothing: %s", c.Output())
	}
	write.Must()
	vm.MustRun("dd if=/run/disk of=/run/r bs=4k skip=5 count=1; cmp /run/r /run/w; dd if=/run/w of=/dev/ublkb0 bs=4k seek=5 oflag=direct")
	if said := end(t, c, syscall.SIGUSR1); !strings.Contains(said, "again=1 owed=0") {
		t.Errorf("not one write was sent again, or it is owed yet: %s", said)
	}
	vm.CheckKernelLog()
}

// removedUnderLoad: somebody else removes a device that is in use, next to
// another one. Its engine lets go of it; its users get errors and do not hang.
func removedUnderLoad(t *testing.T, vm *vmtest.VM) {
	other := serve(t, vm, "-name other -state /run/other -store memory -size 16777216 -id 5")
	c := serve(t, vm, file(vm, "/run/disk", 16*mib)+" -queues 2 -recovery 2")
	load := vm.Start("fio --name=v --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 --numjobs=2 --rw=randrw --bs=4k --time_based --runtime=60 2>&1")
	for !strings.Contains(vm.MustRun("cat /sys/block/ublkb0/inflight"), " ") || strings.HasPrefix(vm.MustRun("awk '{print $1+$5}' /sys/block/ublkb0/stat"), "0\n") {
		vm.MustRun("sleep 0.1")
	}
	vm.MustRun("sleep 1; serve -delete 0")
	if out, status := load.Wait(t.Context()); status == 0 {
		t.Errorf("nobody has told fio: %s", out)
	}
	vm.MustRun("[ ! -e /dev/ublkb0 ]; dd if=/dev/zero of=/dev/ublkb5 bs=4k count=1 oflag=direct; serve -list | grep -q Path:/dev/ublkb5")
	if said := end(t, c, syscall.SIGTERM); !strings.Contains(said, "removed") {
		t.Errorf("it did not notice: %s", said)
	}
	end(t, other, syscall.SIGUSR1)
}

// killedUnderLoad kills the engine again and again while fio verifies what it
// writes, in several queues.
func killedUnderLoad(t *testing.T, vm *vmtest.VM) {
	args := file(vm, "/run/disk", 32*mib) + " -queues 2"
	c := serve(t, vm, args)
	load := vm.Start(`fio --name=v --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 --numjobs=2 --size=16m --offset_increment=16m \
		--rw=randwrite --bsrange=4k-64k --verify=crc32c --verify_backlog=64 --time_based --runtime=10 --group_reporting 2>&1`)
	kills, pauses := 0, []string{}
	for {
		select {
		case <-load.Done():
		default:
			vm.MustRun("sleep 0.3")
			end(t, c, syscall.SIGKILL)
			c = serve(t, vm, args)
			kills++
			pauses = append(pauses, took(c.Output()))
			continue
		}
		break
	}
	out := load.Must()
	if strings.Contains(out, "err=") && !strings.Contains(out, "err= 0") {
		t.Error(out)
	}
	t.Logf("%d kills, taken over in %v\n%s", kills, pauses, vm.MustRun("serve -list"))
	t.Log(end(t, c, syscall.SIGUSR1))
	vm.CheckKernelLog()
}

// took gives how long the engine says that taking over took.
func took(said string) string {
	_, after, _ := strings.Cut(said, "took=")
	text, _, _ := strings.Cut(after, "\n")
	return text
}
