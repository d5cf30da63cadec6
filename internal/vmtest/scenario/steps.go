package scenario

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"blockengine/internal/vmtest"
)

// verify is a fio load: two jobs, one a CPU and so one a queue, write at random
// places of their own halves, flush now and then, and read all back.
func verify(file, size string) string {
	return fio(file, size, "--size="+size, "--offset_increment="+size)
}

// fio is the common part of the loads. Each job's blocks have a pattern of their
// place and a checksum; the first block that differs ends the load with an error.
func fio(file, size string, more ...string) string {
	return "fio --name=verify --filename=" + file + " --thread --numjobs=2 --cpus_allowed=0-1 --cpus_allowed_policy=split" +
		" --direct=1 --ioengine=io_uring --iodepth=16 --rw=randwrite --bsrange=4k-32k --bs_unaligned=0" +
		" --randrepeat=0 --fsync=64 --end_fsync=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0" +
		" --group_reporting --minimal --output=/dev/null " + strings.Join(more, " ")
}

// checksum of the first MiB of a disk, read past the guest's cache.
func checksum(dev string) string {
	return "dd if=/dev/" + dev + " bs=1M count=1 iflag=direct 2>/dev/null | sha256sum"
}

// told compares what the guest's kernel knows of a disk with what it is.
func told(t testing.TB, vm *vmtest.VM, dev string, d Disk) {
	t.Helper()
	discard, cache := "0", "back"
	if d.Discard {
		discard = "1"
	}
	if d.Through {
		cache = "through"
	}
	want := fmt.Sprintf("serial %s\nsize %d\nqueues %d\ncache write %s\ndiscard %s\n",
		d.Serial, d.Size, min(queues, d.Queues), cache, discard)
	got := vm.MustRun(`
		cd /sys/block/` + dev + `
		echo "serial $(cat serial)"
		echo "size $(($(cat size) * 512))"
		echo "queues $(ls mq | wc -l)"
		echo "cache $(cat queue/write_cache)"
		[ "$(cat queue/discard_max_bytes)" = 0 ] && echo discard 0 || echo discard 1`)
	if got != want {
		t.Errorf("the guest was told of %s:\n%swant:\n%s", dev, got, want)
	}
}

// writeCache has the guest turn the disk's write cache off and on (CONFIG_WCE);
// it is on then, so flushes come.
func writeCache(vm *vmtest.VM, dev string) {
	vm.MustRun(`
		cd /sys/block/` + dev + `
		for mode in "write through" "write back"; do
			echo "$mode" >cache_type
			[ "$(cat cache_type)" = "$mode" ]
			[ "$(cat queue/write_cache)" = "$mode" ]
		done`)
}

// bothQueues runs a load and sees that each queue has interrupted the guest.
func bothQueues(t testing.TB, vm *vmtest.VM, dev string) {
	t.Helper()
	vm.MustRun(verify("/dev/"+dev, "8M"))
	// A line of /proc/interrupts: number, a count for each CPU, the controller's
	// names, "virtioN-req.Q".
	used := vm.MustRun(`
		name=$(basename "$(readlink -f /sys/block/` + dev + `/device)")
		awk -v name="$name-req" 'index($NF, name) == 1 && $2 + $3 > 0' /proc/interrupts | wc -l`)
	if n := strings.TrimSpace(used); n != strconv.Itoa(queues) {
		t.Errorf("%s of %d queues of %s have been used:\n%s", n, queues, dev, vm.MustRun("cat /proc/interrupts"))
	}
}

// apart writes to one disk and sees that another one stays as it was.
func apart(t testing.TB, vm *vmtest.VM, one, other string) {
	t.Helper()
	before := vm.MustRun(checksum(other))
	vm.MustRun("dd if=/dev/urandom of=/dev/" + one + " bs=1M count=1 oflag=direct 2>&1")
	mine, others := vm.MustRun(checksum(one)), vm.MustRun(checksum(other))
	if others != before {
		t.Errorf("a write to %s has changed %s", one, other)
	}
	if mine == others {
		t.Errorf("%s and %s have the same contents", one, other)
	}
}

// zeroes has the second of three random MiB zeroed and the third discarded; the
// first one must stay.
func zeroes(t testing.TB, vm *vmtest.VM, dev string) {
	t.Helper()
	vm.MustRun("dd if=/dev/urandom of=/dev/" + dev + " bs=1M count=3 oflag=direct 2>&1")
	before := vm.MustRun(checksum(dev))
	was := stats(vm, dev)
	left := vm.MustRun(`
		blkdiscard --zeroout --offset 1MiB --length 1MiB /dev/` + dev + `
		blkdiscard --offset 2MiB --length 1MiB /dev/` + dev + `
		dd if=/dev/` + dev + ` bs=1M skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\0' | wc -c`)
	if strings.TrimSpace(left) != "0" {
		t.Errorf("of a zeroed MiB %s bytes are not zero", strings.TrimSpace(left))
	}
	if vm.MustRun(checksum(dev)) != before {
		t.Errorf("zeroes and discard have changed what is before them")
	}
	if stats(vm, dev).discards == was.discards {
		t.Errorf("no discard has reached %s", dev)
	}
}

// partition makes two, of 256 MiB and the rest.
func partition(vm *vmtest.VM, dev string) {
	vm.MustRun(`
		printf 'label: gpt\nsize=256MiB\nsize=+\n' | sfdisk --quiet /dev/` + dev + ` 2>&1
		blockdev --rereadpt /dev/` + dev + `
		cd /dev && ls -d ` + dev + `1 ` + dev + `2
		sfdisk --verify /dev/` + dev + ` 2>&1`)
}

// ext4 makes a filesystem on a partition, uses it and checks it.
func ext4(t testing.TB, vm *vmtest.VM, part string, discard bool) {
	t.Helper()
	vm.MustRun("mkfs.ext4 -q -b 4096 /dev/" + part + " 2>&1")
	useFilesystem(t, vm, part, "ext4", discard)
	vm.MustRun("fsck.ext4 -f -n /dev/" + part + " 2>&1")
}

// xfs does the same with the other one.
func xfs(t testing.TB, vm *vmtest.VM, part string, discard bool) {
	t.Helper()
	vm.MustRun("mkfs.xfs -q -f /dev/" + part + " 2>&1")
	useFilesystem(t, vm, part, "xfs", discard)
	vm.MustRun("xfs_repair -n /dev/" + part + " 2>&1")
}

// trimmed finds the number in fstrim's "/mnt: 1 MiB (1048576 bytes) trimmed".
var trimmed = regexp.MustCompile(`\((\d+) bytes\) trimmed`)

// useFilesystem mounts, verifies files, finds a file again after the next mount,
// flushes, trims and unmounts.
func useFilesystem(t testing.TB, vm *vmtest.VM, part, kind string, discard bool) {
	t.Helper()
	disk := strings.TrimRight(part, "0123456789")
	was := stats(vm, disk)
	vm.MustRun("mount -t " + kind + " /dev/" + part + " /mnt")
	vm.MustRun(fio("/mnt/verify", "4M", "--size=4M", "--offset_increment=4M"))
	vm.MustRun(`
		dd if=/dev/urandom of=/mnt/file bs=100001 count=30 conv=fsync 2>&1
		cd /mnt && sha256sum file >/run/sum && cd /
		umount /mnt
		mount -t ` + kind + ` /dev/` + part + ` /mnt
		cd /mnt && sha256sum -c /run/sum
		rm verify && sync`)
	if discard {
		out := vm.MustRun("fstrim -v /mnt 2>&1")
		m := trimmed.FindStringSubmatch(out)
		if m == nil || m[1] == "0" {
			t.Errorf("fstrim of %s trimmed nothing: %s", kind, out)
		}
	}
	vm.MustRun("umount /mnt")
	is := stats(vm, disk)
	if is.flushes == was.flushes {
		t.Errorf("%s was synced, and no flush has reached %s", kind, disk)
	}
	if discard && is.discards == was.discards {
		t.Errorf("%s was trimmed, and no discard has reached %s", kind, disk)
	}
}

// counts of a disk's requests that have completed.
type counts struct{ reads, writes, discards, flushes int64 }

// stats reads them (the kernel's Documentation/block/stat: fields 1, 5, 12, 16).
func stats(vm *vmtest.VM, dev string) counts {
	fields := strings.Fields(vm.MustRun("cat /sys/block/" + dev + "/stat"))
	at := func(i int) int64 {
		if i >= len(fields) {
			return 0
		}
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		return n
	}
	return counts{at(0), at(4), at(11), at(15)}
}
