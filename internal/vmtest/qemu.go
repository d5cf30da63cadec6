package vmtest

import (
	"fmt"
	"path/filepath"
	"strings"

	"blockengine/internal/vmtest/guest"
	"blockengine/internal/vmtest/wire"
)

// qemu is the emulator.
const qemu = "qemu-system-x86_64"

// minSlots is how many root ports a VM has at least: disks can only be plugged
// into one of these, and only as many are scanned at each boot.
const minSlots = 4

// firstSlot is the device number of the first root port on the root bus, far
// above those that QEMU gives out.
const firstSlot = 0x10

// kernelArguments: the console shows warnings and worse, a panic ends QEMU. A
// busy host lets CPUs stand still, so the kernel neither complains of that nor
// counts the timer's ticks at the start, where it would panic for too few. It
// still complains of tasks that wait for I/O for too long. The other CPUs come
// from the guest's init: while it boots, the kernel rewrites its own code, and
// QEMU's threads now and then execute what was there a moment before. How long a
// jiffy takes is said (lpj), near enough: measuring it takes the other CPU a second
// and more.
const kernelArguments = "console=ttyS0 quiet loglevel=5 log_buf_len=1M panic=-1 nokaslr mitigations=off " +
	"maxcpus=1 tsc=reliable lpj=10000000 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"

// arguments of QEMU: a machine without anything but what is named here.
func (vm *VM) arguments(img guest.Image) []string {
	o := vm.opts
	modules := strings.Join(append([]string{"virtio_blk"}, o.Modules...), ",")
	args := []string{
		"-accel", "tcg,thread=multi",
		"-machine", "q35,memory-backend=mem0",
		"-cpu", "max,la57=off",
		"-smp", fmt.Sprint(o.CPUs),
		"-m", fmt.Sprintf("%dM", o.Memory),
		// Back-ends map the guest's memory, so it must be shared.
		"-object", fmt.Sprintf("memory-backend-memfd,id=mem0,size=%dM,share=on", o.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", img.Kernel,
		"-initrd", img.Initramfs,
		"-append", kernelArguments + " guest.modules=" + modules,
		"-chardev", "file,id=console,path=" + vm.path("console"),
		"-serial", "chardev:console",
		"-chardev", "socket,id=qmp,path=" + vm.path("qmp"),
		"-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=agent,path=" + vm.path("agent"),
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=agent,name=" + wire.Port,
	}
	for i := range vm.slots {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=slot%d,chassis=%d,slot=%d,addr=%#x", i, i+1, i+1, firstSlot+i))
	}
	for _, d := range o.Disks {
		args = append(args, vm.diskArguments(d)...)
	}
	return append(args, o.Args...)
}

func (vm *VM) path(name string) string { return filepath.Join(vm.dir, name) }
