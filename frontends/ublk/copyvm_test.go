package ublk_test

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"blockengine/frontends/ublk"
	"blockengine/internal/vmtest"
	vmguest "blockengine/internal/vmtest/guest"
)

// TestVMCopy has every way of copying, with kernels of two ages, carry what it
// carries in earnest: with far less memory than all requests together could want,
// under kills, and when the device is taken away.
func TestVMCopy(t *testing.T) {
	for name, kernel := range map[string]vmguest.Kernel{"stable": vmguest.Stable, "newest": vmguest.Newest} {
		t.Run(name, func(t *testing.T) {
			vm := guest(t, kernel, serious)
			for _, way := range []ublk.Copy{ublk.CopyGetData, ublk.CopyUser} {
				t.Run(way.String(), func(t *testing.T) { carry(t, vm, way, "") })
			}
			if kernel == vmguest.Newest {
				t.Run("zero", func(t *testing.T) { zeroCopy(t, vm) })
				t.Run("quiesced by others", func(t *testing.T) { quiescedByOthers(t, vm) })
				t.Run("zero, killed at every step", func(t *testing.T) { zeroCopyKilled(t, vm) })
			}
			vm.CheckKernelLog()
			t.Run("removed under load", func(t *testing.T) { copyRemoved(t, vm, kernel) })
		})
	}
}

// zeroCopy is a life in which nothing is copied where the volume can do that, and
// all of it where it cannot.
func zeroCopy(t *testing.T, vm *vmtest.VM) {
	for name, keys := range map[string]string{"cached": "-io io_uring", "direct": "-io io_uring -direct -path /dev/loop0 -size 0"} {
		t.Run(name, func(t *testing.T) {
			if said := carry(t, vm, ublk.CopyZero, keys); strings.HasSuffix(strings.TrimSpace(said), "passed=0") {
				t.Error(said)
			}
		})
	}
	c := serve(t, vm, file(vm, "/run/disk", 32*mib)+" -io threads -copy 4")
	vm.MustRun("dd if=/dev/urandom of=/run/a bs=1M count=4; dd if=/run/a of=/dev/ublkb0 bs=1M oflag=direct; dd if=/dev/ublkb0 of=/run/b bs=1M count=4 iflag=direct; cmp /run/a /run/b")
	if said := end(t, c, syscall.SIGUSR1); !strings.HasSuffix(strings.TrimSpace(said), "missed=0 passed=0") {
		t.Errorf("a volume that cannot: %s", said)
	}
}

// untilQuiesced waits until the driver has taken leave of a device's engine.
const untilQuiesced = `n=0; until serve -list | grep -q State:quiesced; do n=$((n + 1)); [ $n -lt 200 ]; sleep 0.05; done`

// quiescedByOthers: somebody else tells the driver to wait for another server. The
// engine answers what it has, lets go of the device, says so, and the next engine
// has it, without an error for its users.
func quiescedByOthers(t *testing.T, vm *vmtest.VM) {
	for _, way := range []ublk.Copy{ublk.CopyKernel, ublk.CopyZero} {
		args := fmt.Sprintf("%s -queues 2 -copy %d", file(vm, "/run/disk", 32*mib), way)
		c := serve(t, vm, args)
		load := vm.Start(verified(4, 512))
		vm.MustRun("sleep 1; serve -quiesce 0\n" + untilQuiesced)
		if said := end(t, c, syscall.SIGTERM); !strings.Contains(said, "taken away") || !strings.Contains(said, "broken") {
			t.Errorf("%v: it did not notice: %s", way, said)
		}
		c = serve(t, vm, args)
		load.Must()
		end(t, c, syscall.SIGUSR1)
	}
}

// zeroCopyKilled kills engines that share rings with their files at every step, and
// calls off what they do in the middle: the device is free for the next one, also
// where that is in the same process.
func zeroCopyKilled(t *testing.T, vm *vmtest.VM) {
	args := file(vm, "/run/disk", 16*mib) + " -queues 2 -copy 4"
	check := func(step string, c *vmtest.Command) {
		t.Helper()
		if got := vm.MustRun("serve -list"); strings.Count(got, "{ID:0 ") != 1 || strings.Count(got, "{ID:") != 1 {
			t.Errorf("%s: not one device: %s", step, got)
		}
		vm.MustRun("dd if=/dev/urandom of=/dev/ublkb0 bs=64k count=16 oflag=direct conv=fsync; dd if=/dev/ublkb0 of=/run/b bs=1M count=1 iflag=direct; cmp -n 1048576 /run/b /run/disk")
		if said := end(t, c, syscall.SIGUSR1); strings.HasSuffix(strings.TrimSpace(said), "passed=0") || strings.Contains(said, "trouble") {
			t.Errorf("%s: %s", step, said)
		}
	}
	for s := ublk.StepDescribed; s < ublk.StepSubmit; s++ {
		if s >= ublk.StepFound { // there is a device to be taken over
			end(t, serve(t, vm, args), syscall.SIGKILL)
		}
		out, status := vm.Run(t.Context(), fmt.Sprintf("exec serve %s -die-at %s 2>&1", args, s))
		if status != 128+int(syscall.SIGKILL) {
			t.Fatalf("%s: status %d, it said %s", s, status, out)
		}
		check(s.String(), serve(t, vm, args))
	}
	c := serve(t, vm, args+" -die-at quiesced")
	_ = c.Signal(syscall.SIGTERM)
	if _, status := c.Wait(t.Context()); status != 128+int(syscall.SIGKILL) {
		t.Errorf("it was not killed while it left: %s", c.Output())
	}
	check("quiesced", serve(t, vm, args))
	for _, s := range []ublk.Step{ublk.StepDescribed, ublk.StepFetched, ublk.StepTaken, ublk.StepRefetch} {
		if s >= ublk.StepFound {
			end(t, serve(t, vm, args), syscall.SIGKILL)
		}
		c := serve(t, vm, fmt.Sprintf("%s -cancel-at %s", args, s))
		if !strings.Contains(c.Output(), "called off:") {
			t.Errorf("%s: %s", s, c.Output())
		}
		check("called off at "+s.String(), c)
	}
}

// carry is a device's life with one way of copying. It gives what the last engine
// said.
func carry(t *testing.T, vm *vmtest.VM, way ublk.Copy, keys string) (said string) {
	disk := file(vm, "/run/disk", 32*mib) + " -queues 2 " + keys
	zeroes := "-z "
	if strings.Contains(keys, "loop0") { // a disk with sectors and direct I/O, and no zeroes in place
		zeroes = ""
		vm.MustRun("modprobe loop; losetup /dev/loop0 /run/disk")
		defer func() { vm.MustRun("losetup -d /dev/loop0") }()
	}
	args := fmt.Sprintf("%s -copy %d -buffers 524288", disk, way) // of 64 requests of 256 KiB
	c := serve(t, vm, args)
	if !strings.Contains(c.Output(), "copy="+way.String()) {
		t.Errorf("not as it was asked for: %s", c.Output())
	}
	sector, _ := strconv.Atoi(strings.TrimSpace(vm.MustRun("cat /sys/block/ublkb0/queue/logical_block_size")))
	vm.MustRun(fmt.Sprintf(`dd if=/dev/urandom of=/run/a bs=1M count=8 2>/dev/null
		dd if=/run/a of=/dev/ublkb0 bs=1M oflag=direct conv=fsync
		dd if=/dev/ublkb0 of=/run/b bs=64k count=128 iflag=direct
		cmp /run/a /run/b; cmp -n 8388608 /run/a /run/disk
		dd if=/run/a of=/dev/ublkb0 bs=%[1]d count=3 seek=33 oflag=direct
		dd if=/dev/ublkb0 of=/run/b bs=%[1]d count=3 skip=33 iflag=direct; cmp -n $((3*%[1]d)) /run/a /run/b
		blkdiscard %[2]s-o 1048576 -l 1048576 /dev/ublkb0; cmp -n 1048576 /dev/zero /run/disk 0 1048576`, sector, zeroes))
	load := vm.Start(verified(4, sector))
	for range 2 { // a kill changes nothing of the way, nor does another wish
		vm.MustRun("sleep 0.7")
		end(t, c, syscall.SIGKILL)
		c = serve(t, vm, disk+" -copy 1")
		if !strings.Contains(c.Output(), "copy="+way.String()) {
			t.Errorf("after a kill it copies in another way: %s", c.Output())
		}
	}
	vm.MustRun("sleep 0.5")
	left := end(t, c, syscall.SIGTERM)
	vm.MustRun(untilQuiesced)
	c = serve(t, vm, args)
	if !strings.Contains(c.Output(), "owed=0") || strings.Contains(left, "without being quiesced") {
		t.Errorf("a stop in order leaves something behind: %s%s", left, c.Output())
	}
	load.Must()
	vm.MustRun("dd if=/dev/ublkb0 of=/dev/null bs=64k count=16 iflag=direct")
	said = end(t, c, syscall.SIGUSR1)
	if !strings.Contains(said, "missed=0") {
		t.Error(said)
	}
	return said
}

// verified is a load that checks what it has written, in sizes from a sector to
// the largest request.
func verified(seconds, sector int) string {
	return fmt.Sprintf(`fio --name=v --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 --numjobs=2 --size=16m --offset_increment=16m \
		--rw=randwrite --bsrange=%d-256k --verify=crc32c --verify_backlog=64 --time_based --runtime=%d --group_reporting 2>&1`, sector, seconds)
}

// copyRemoved: somebody removes a device whose payload the engine copies, while it
// does. Its users get errors, and the engine goes on.
func copyRemoved(t *testing.T, vm *vmtest.VM, kernel vmguest.Kernel) {
	all := []ublk.Copy{ublk.CopyGetData, ublk.CopyUser}
	if kernel == vmguest.Newest {
		all = append(all, ublk.CopyZero)
	}
	for _, way := range all {
		c := serve(t, vm, fmt.Sprintf("%s -queues 2 -copy %d -buffers 524288", file(vm, "/run/disk", 32*mib), way))
		load := vm.Start(verified(60, 512))
		vm.MustRun("sleep 1.5; serve -delete 0")
		if out, status := load.Wait(t.Context()); status == 0 {
			t.Errorf("%v: nobody has told fio: %s", way, out)
		}
		vm.MustRun("[ ! -e /dev/ublkb0 ]")
		if said := end(t, c, syscall.SIGTERM); !strings.Contains(said, "removed") {
			t.Errorf("%v: it did not notice: %s", way, said)
		}
	}
}
