package ublk_test

import (
	"strings"
	"syscall"
	"testing"

	vmguest "blockengine/internal/vmtest/guest"
)

// TestVMFullQueue: an engine is killed while users want more of the only queue than
// its depth. The driver notices without the kernel's timeout for requests, which is
// set to more than the test lasts.
func TestVMFullQueue(t *testing.T) {
	vm := guest(t, vmguest.Stable, serious)
	args := file(vm, "/run/disk", 16*mib) + " -queues 1 -depth 8"
	c := serve(t, vm, args)
	vm.MustRun("echo 3600000 > /sys/block/ublkb0/queue/io_timeout")
	if got := strings.TrimSpace(vm.MustRun("cat /sys/block/ublkb0/queue/nr_requests")); got != "7" {
		t.Errorf("nr_requests is %s", got)
	}
	load := vm.Start("fio --name=v --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 --rw=randrw --bs=128k --time_based --runtime=4 2>&1")
	for range 4 {
		vm.MustRun("sleep 0.4")
		end(t, c, syscall.SIGKILL)
		c = serve(t, vm, args)
	}
	load.Must()
	end(t, c, syscall.SIGUSR1)
}
