package scenario

import (
	"cmp"
	"strconv"
	"testing"
	"time"

	"blockengine/internal/vmtest"
)

// manyKills is how often a server is killed that does not say how often.
const manyKills = 20

// kills kills the server under a guest that writes to ext4 and verifies, again
// and again, and starts it anew. The guest sees no error, nothing hangs, and the
// filesystem is clean.
func kills(t *testing.T, vm *vmtest.VM, serve Serve) {
	disk := serve(t, diskSize)
	if disk.Restart == nil {
		t.Skip("this server cannot be started again")
	}
	id := vm.AddDisk(attach(disk))
	dev := vm.Device(id)
	vm.MustRun("mkfs.ext4 -q -b 4096 /dev/" + dev + " 2>&1 && mount -t ext4 /dev/" + dev + " /mnt")
	load := vm.Start(`
		until [ -e /run/stop ]; do
			` + fio("/mnt/verify", "4M", "--size=4M", "--offset_increment=4M") + ` || exit 1
		done`)
	step(t, "kills under load", func() {
		for range cmp.Or(disk.Kills, manyKills) {
			awaitProgress(t, vm, dev, load)
			disk.Restart()
		}
		awaitProgress(t, vm, dev, load)
	})
	step(t, "last verification", func() {
		vm.MustRun("touch /run/stop")
		load.Must()
	})
	vm.MustRun("umount /mnt && fsck.ext4 -f -n /dev/" + dev + " 2>&1")
	vm.RemoveDisk(id)
}

// awaitProgress waits until more requests of a disk have completed while the
// load is running, so that a kill meets it at work.
func awaitProgress(t testing.TB, vm *vmtest.VM, dev string, load *vmtest.Command) {
	t.Helper()
	const enough = 50
	from := stats(vm, dev)
	for end := time.Now().Add(vmtest.DefaultLimit); ; time.Sleep(20 * time.Millisecond) {
		now := stats(vm, dev)
		if now.writes+now.reads >= from.writes+from.reads+enough {
			return
		}
		select {
		case <-load.Done():
			load.Must()
			t.Fatal("the load has ended by itself")
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("requests of %s hang: %+v, and before %+v\nthe guest's tasks:\n%s", dev, now, from, vm.MustRun("echo w >/proc/sysrq-trigger; dmesg | tail -n 60"))
		}
	}
}

// resize makes a disk longer while the guest has it open: the guest sees the new
// length without a reboot and can use all of it.
func resize(t *testing.T, vm *vmtest.VM, serve Serve) {
	disk := serve(t, diskSize)
	if disk.Resize == nil {
		t.Skip("this server cannot resize")
	}
	id := vm.AddDisk(attach(disk))
	dev := vm.Device(id)
	told(t, vm, dev, disk)
	itoa := func(n int64) string { return strconv.FormatInt(n, 10) }
	disk.Size += 64 << 20
	disk.Resize(disk.Size)
	vm.MustRun(`
		i=0
		until [ "$(blockdev --getsize64 /dev/` + dev + `)" = ` + itoa(disk.Size) + ` ]; do
			i=$((i+1)); [ $i -lt 600 ] || { echo "still $(blockdev --getsize64 /dev/` + dev + `) bytes"; exit 1; }
			sleep 0.1
		done`)
	told(t, vm, dev, disk)
	vm.MustRun(fio("/dev/"+dev, "8M", "--size=8M", "--offset_increment=8M", "--offset="+itoa(disk.Size-16<<20)))
	vm.RemoveDisk(id)
}
