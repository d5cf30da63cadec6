package scenario

import (
	"testing"
	"time"

	"blockengine/internal/vmtest"
)

// Disk is a disk that somebody serves over vhost-user.
type Disk struct {
	Socket  string
	Dials   bool   // the server connects to the socket, which the VM makes
	Size    int64  // bytes
	Serial  string // what GET_ID answers
	Queues  int    // that the server allows; at least 2
	Discard bool   // discard and write-zeroes are offered
	Through bool   // the write cache is off until the guest turns it on

	// Restart kills the server with SIGKILL and starts it again, with the same
	// disk on the same socket. Nil: it cannot be.
	Restart func()
	// Resize makes the disk so many bytes long and has the guest told. Nil: it
	// cannot be.
	Resize func(size int64)
	// Kills is how often Restart is called under a load; 0: 20.
	Kills int
}

// Serve makes a new disk of so many bytes, all zero, and serves it until the
// end of t. The disk is used by one VM at a time.
type Serve func(t testing.TB, size int64) Disk

// diskSize is enough for a small ext4 and the smallest xfs, of 300 MiB.
const diskSize = 1 << 30

// queues of each disk, one for each of the guest's CPUs.
const queues = 2

// All runs all scenarios that the server can do. They share a guest, which boots
// with two disks and gets and loses others while it runs.
func All(t *testing.T, serve Serve) {
	vmtest.Require(t)
	disks := []Disk{serve(t, diskSize), serve(t, diskSize)}
	var vm *vmtest.VM
	step(t, "boot", func() {
		vm = vmtest.Start(t, vmtest.Options{
			Disks: []vmtest.VhostUserBlk{attach(disks[0]), attach(disks[1])}, Modules: []string{"xfs"},
		})
	})
	for _, s := range []struct {
		name string
		run  func(*testing.T, *vmtest.VM)
	}{
		{"OneVM", func(t *testing.T, vm *vmtest.VM) { oneVM(t, vm, disks) }},
		{"HotPlug", func(t *testing.T, vm *vmtest.VM) { hotPlug(t, vm, serve) }},
		{"TwoVMs", func(t *testing.T, vm *vmtest.VM) { twoVMs(t, vm, serve) }},
		{"Kills", func(t *testing.T, vm *vmtest.VM) { kills(t, vm, serve) }},
		{"Resize", func(t *testing.T, vm *vmtest.VM) { resize(t, vm, serve) }},
	} {
		if vm == nil { // something failed in the one before
			vm = vmtest.Start(t, vmtest.Options{})
		}
		ok := t.Run(s.name, func(t *testing.T) {
			vm.Lend(t)
			s.run(t, vm)
			vm.CheckKernelLog()
		})
		if !ok {
			vm.Close()
			vm = nil
		}
	}
}

// Resize runs that scenario alone.
func Resize(t *testing.T, serve Serve) {
	vmtest.Require(t)
	vm := vmtest.Start(t, vmtest.Options{})
	resize(t, vm, serve)
	vm.CheckKernelLog()
}

// attach says how a VM gets a disk.
func attach(d Disk) vmtest.VhostUserBlk {
	return vmtest.VhostUserBlk{Socket: d.Socket, Listen: d.Dials, Queues: min(queues, d.Queues)}
}

// step runs a part of a scenario and logs how long it took.
func step(t testing.TB, name string, run func()) {
	t.Helper()
	began := time.Now()
	run()
	t.Logf("%-28s %6.1fs", name, time.Since(began).Seconds())
}

// oneVM has a guest use the two disks that it was booted with in every way: what
// it is told of them, both queues, partitions, ext4, xfs, zeroes, and both disks
// at once. Then it gives them up.
func oneVM(t *testing.T, vm *vmtest.VM, disks []Disk) {
	first, second := vm.Device("disk0"), vm.Device("disk1")
	step(t, "told", func() {
		told(t, vm, first, disks[0])
		told(t, vm, second, disks[1])
	})
	step(t, "write cache", func() { writeCache(vm, first) })
	step(t, "both queues", func() { bothQueues(t, vm, first) })
	step(t, "disks are apart", func() { apart(t, vm, first, second) })
	if disks[0].Discard {
		step(t, "zeroes and discard", func() { zeroes(t, vm, first) })
	}
	step(t, "partitions", func() { partition(vm, first) })
	step(t, "ext4", func() { ext4(t, vm, first+"1", disks[0].Discard) })
	step(t, "xfs", func() { xfs(t, vm, first+"2", disks[0].Discard) })
	step(t, "both disks at once", func() {
		a := vm.Start(verify("/dev/"+first, "4M"))
		b := vm.Start(verify("/dev/"+second, "4M"))
		a.Must()
		b.Must()
	})
	vm.RemoveDisk("disk0")
	vm.RemoveDisk("disk1")
}

// hotPlug plugs a disk into a running guest, takes it away, and plugs it in again
// beside another one: what was written is there.
func hotPlug(t *testing.T, vm *vmtest.VM, serve Serve) {
	one, other := serve(t, diskSize), serve(t, diskSize)
	var sum string
	step(t, "plug", func() {
		id := vm.AddDisk(attach(one))
		dev := vm.Device(id)
		told(t, vm, dev, one)
		vm.MustRun(verify("/dev/"+dev, "2M"))
		sum = vm.MustRun(checksum(dev))
		vm.RemoveDisk(id)
		vm.MustRun("[ ! -e /sys/block/" + dev + " ]")
	})
	step(t, "plug again", func() {
		added := vm.AddDisk(attach(other))
		again := vm.AddDisk(attach(one))
		if got := vm.MustRun(checksum(vm.Device(again))); got != sum {
			t.Errorf("a disk that was unplugged and plugged in again has other contents: checksum %s, was %s", got, sum)
		}
		vm.MustRun(verify("/dev/"+vm.Device(added), "2M"))
		vm.RemoveDisk(again)
		vm.RemoveDisk(added)
	})
}

// twoVMs boots a second guest, and both write and verify at the same time, each on
// its disk.
func twoVMs(t *testing.T, first *vmtest.VM, serve Serve) {
	var second *vmtest.VM
	step(t, "boot another", func() {
		second = vmtest.Start(t, vmtest.Options{Disks: []vmtest.VhostUserBlk{attach(serve(t, diskSize))}})
	})
	added := first.AddDisk(attach(serve(t, diskSize)))
	step(t, "verify in both", func() {
		a := first.Start(verify("/dev/"+first.Device(added), "4M"))
		b := second.Start(verify("/dev/"+second.Device("disk0"), "4M"))
		a.Must()
		b.Must()
	})
	second.CheckKernelLog()
	first.RemoveDisk(added)
}
