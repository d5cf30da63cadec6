package scenario

import (
	"os"
	"testing"
	"time"

	"blockengine/internal/vmtest"
)

// TestBadServersAreNoticed: the load that all scenarios stand on fails with a
// server that loses writes, and the kernel log speaks of one that refuses them.
func TestBadServersAreNoticed(t *testing.T) {
	vmtest.Require(t)
	loses := startQSD(t, diskSize)
	refuses := startQSD(t, diskSize, "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5")
	vm := vmtest.Start(t, vmtest.Options{Disks: []vmtest.VhostUserBlk{attach(loses.disk()), attach(refuses.disk())}})

	load := vm.Start(verify("/dev/"+vm.Device("disk0"), "8M"))
	loseUntil(t, loses.image, load.Done())
	if out, status := load.Wait(t.Context()); status == 0 {
		t.Errorf("writes were lost, and the load has not noticed: %s", out)
	}
	vm.CheckKernelLog() // what is lost silently is in no log

	if out, status := vm.Run(t.Context(), verify("/dev/"+vm.Device("disk1"), "1M")); status == 0 {
		t.Errorf("writes were refused, and the load has not noticed: %s", out)
	}
	if log := vm.Kmsg(); len(vmtest.Troubles(log)) == 0 {
		t.Errorf("writes were refused, and the kernel log is without trouble: %+v", log)
	}
}

// loseUntil wipes the first 16 MiB of an image again and again until done.
func loseUntil(t *testing.T, image string, done <-chan struct{}) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	nothing := make([]byte, 16<<20)
	for end := time.Now().Add(vmtest.DefaultLimit); time.Now().Before(end); {
		if _, err := f.WriteAt(nothing, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
