package e2e_test

import (
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vmtest"
	"blockengine/internal/vmtest/scenario"
)

// vmQueues is how many virtqueues the disks of virtual machines have.
const vmQueues = 2

// vmFence is long enough for nbdkit to be done with what a killed engine had
// sent, which it has in its hands by then.
const vmFence = "500ms"

// TestVM has real guests use disks of the engine in every way: a volume on the
// nbd plugin in its sandbox, with a stock nbdkit behind it. VM=1 turns it on, as
// scripts/vm-test.sh does.
func TestVM(t *testing.T) {
	vmtest.Require(t)
	scenario.All(t, func(t testing.TB, size int64) scenario.Disk {
		server := nbdtest.StartNbdkit(t, "memory", strconv.FormatInt(size, 10))
		e, d := vmDisk(t, size, server.Addr())
		d.Restart = func() {
			e.kill()
			e.start()
		}
		return d
	})
}

// TestVMResize: the disk behind the volume grows, which the engine learns when
// it connects anew, and the guest sees it without a reboot.
func TestVMResize(t *testing.T) {
	vmtest.Require(t)
	scenario.Resize(t, func(t testing.TB, size int64) scenario.Disk {
		const most = 2 << 30
		disk := nbdtest.NewDisk(most)
		s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: disk, Size: uint64(size)}}})
		_, d := vmDisk(t, size, s.Addr())
		d.Resize = func(size int64) {
			s.SetExports(nbdtest.Export{Disk: disk, Size: uint64(size)})
			s.KillAll(nbdtest.FIN)
		}
		return d
	})
}

// vmDisk starts an engine with one disk for virtual machines on a server.
func vmDisk(t testing.TB, size int64, server string) (*engine, scenario.Disk) {
	v := nbdVolume("disk", server, trusting("30s", vmFence))
	v.vhost = vmQueues
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{v}})
	e.waitUp("disk")
	return e, scenario.Disk{
		Socket: filepath.Join(filepath.Dir(e.socket), "disk.vhost"), Size: size, Serial: "disk", Queues: vmQueues, Discard: true,
	}
}

// TestVMUpgrade replaces the plugin again and again under a guest's load on
// ext4, by each method, and kills the server in between.
func TestVMUpgrade(t *testing.T) {
	vmtest.Require(t)
	server := nbdtest.StartNbdkit(t, "memory", "1G")
	e, d := vmDisk(t, 1<<30, server.Addr())
	vm := vmtest.Start(t, vmtest.Options{Disks: []vmtest.VhostUserBlk{{Socket: d.Socket, Queues: vmQueues}}})
	dev := "/dev/" + vm.Device("disk0")
	vm.MustRun("mkfs.ext4 -q -b 4096 " + dev + " 2>&1 && mount -t ext4 " + dev + " /mnt")
	load := vm.Start(`
		until [ -e /run/stop ]; do
			fio --name=verify --directory=/mnt --rw=randwrite --bs=4k --size=4M --numjobs=2 --iodepth=16 \
				--ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output=/run/fio.out || { cat /run/fio.out; exit 1; }
		done`)
	versions := []string{built.nbd2, built.nbd}
	for i := range 12 {
		time.Sleep(300 * time.Millisecond)
		method := []string{"handover", "second-session", "serial"}[i%3]
		e.upgrade(versions[i%2], "--method", method, "--watch", "0s")
	}
	vm.MustRun("touch /run/stop")
	load.Must()
	vm.MustRun("umount /mnt && fsck.ext4 -f -n " + dev + " 2>&1")
	vm.CheckKernelLog()
}

// TestVMStoreProcess: the disk is a store in a process that has the guest's own
// memory, and is killed again and again under a guest's load. What QEMU shares with
// us is lent, the guest has no error, and reads what it has written.
func TestVMStoreProcess(t *testing.T) {
	vmtest.Require(t)
	e := guestEngine(t)
	disk := vmtest.VhostUserBlk{Socket: filepath.Join(filepath.Dir(e.socket), "disk.vhost"), Queues: vmQueues}
	vm := vmtest.Start(t, vmtest.Options{Disks: []vmtest.VhostUserBlk{disk}})
	dev := "/dev/" + vm.Device("disk0")
	load := vm.Start(`
		until [ -e /run/stop ]; do
			fio --name=verify --filename=` + dev + ` --rw=randwrite --bsrange=4k-128k --blockalign=4k --size=16M --iodepth=16 \
				--ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --output=/run/fio.out || { cat /run/fio.out; exit 1; }
		done`)
	for range 8 {
		before := e.payloadOf().LentRequests
		nbdtest.WaitFor(t, "requests whose payload the process has had", func() bool {
			return e.processOf("store").PID > 0 && e.payloadOf().LentRequests > before+50
		})
		e.killProcess("store", syscall.SIGKILL)
	}
	vm.MustRun("touch /run/stop")
	load.Must()
	vm.CheckKernelLog()
	if v := e.volume("disk"); v.Session.Traps == 0 || len(v.Errors) != 0 {
		t.Errorf("errors %v, %+v", v.Errors, *v.Session)
	}
}
