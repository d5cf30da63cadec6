package hostdisk_test

import (
	"fmt"
	"strings"
)

// device has the guest use devices in every way: volumes in files, of 400 MiB
// because that is what xfs wants.
func device(g *guest) {
	g.step("no module", func() { noModule(g) })
	g.load("")
	g.step("no permission", func() { noPermission(g) })
	g.configure("", file("a", 400, 0), file("b", 64, 1))
	g.sh("engine check -c /run/engine.toml; engine_start")
	g.step("told", func() { told(g) })
	inEarnest(g)
	g.step("two at once", func() { twoAtOnce(g) })
	g.step("number taken", func() { numberTaken(g) })
	g.step("read only", func() { readOnly(g) })
	g.step("memory pressure", func() { memoryPressure(g) })
}

// inEarnest uses the first device: several queues, everything that a disk can do,
// and two file systems.
func inEarnest(g *guest) {
	g.step("queues", func() { g.sh("%s", fio("/dev/"+g.dev(0), "8M")) })
	g.step("discard, zeroes, flush", func() { zeroes(g) })
	g.step("ext4", func() { filesystem(g, "ext4", "mkfs.ext4 -q -b 4096", "fsck.ext4 -f -n") })
	g.step("xfs", func() { filesystem(g, "xfs", "mkfs.xfs -q -f", "xfs_repair -n") })
}

// noModule: what is refused says what to load.
func noModule(g *guest) {
	g.configure("", file("a", 400, 0))
	for _, command := range []string{"check", "run"} {
		out, status := g.Run(g.t.Context(), "engine "+command+" -c /run/engine.toml 2>&1")
		if status != 2 || !strings.Contains(out, "cannot be had on this host") || !strings.Contains(out, "modprobe "+g.module) {
			g.t.Errorf("engine %s without the module: status %d: %s", command, status, out)
		}
	}
}

// noPermission: a user who may not make devices is told so.
func noPermission(g *guest) {
	out, status := g.Run(g.t.Context(), "cp /run/engine.toml /tmp/; sed -i s,/run/state,/tmp/state, /tmp/engine.toml; su -s /bin/sh user -c 'exec engine check -c /tmp/engine.toml' 2>&1")
	if status != 2 || !strings.Contains(out, "cannot be had on this host") {
		g.t.Errorf("as a user: status %d: %s", status, out)
	}
}

// told compares what the kernel knows of the device with what it is.
func told(g *guest) {
	got := g.sh(`
		cd /sys/block/%s
		echo "size $(($(cat size) * 512)) ro $(cat ro) rotational $(cat queue/rotational) cache $(cat queue/write_cache)"
		[ $(cat queue/discard_max_bytes) -gt 0 ] && echo discard
		[ $(cat queue/logical_block_size) -le 4096 ] && echo block
		[ "$(ls mq | wc -l)" = 2 ] && echo queues`, g.dev(0))
	want := fmt.Sprintf("size %d ro 0 rotational 0 cache write back\ndiscard\nblock\nqueues\n", 400<<20)
	if got != want {
		g.t.Errorf("the kernel was told\n%swant\n%s", got, want)
	}
	status := g.sh("engine status --json -c /run/engine.toml")
	for _, want := range []string{`"path": "/dev/` + g.dev(0) + `"`, `"state": "serving"`} {
		if !strings.Contains(status, want) {
			g.t.Errorf("engine status lacks %s:\n%s", want, status)
		}
	}
	list := g.sh("engine %s list -c /run/engine.toml", g.command)
	if !strings.Contains(list, "/dev/"+g.dev(0)) || !strings.Contains(list, "/dev/"+g.dev(1)) {
		g.t.Errorf("engine %s list: %s", g.command, list)
	}
}

// zeroes: of three random MiB the second is zeroed and the third discarded.
func zeroes(g *guest) {
	g.sh(`
		dev=/dev/%s
		dd if=/dev/urandom of=$dev bs=1M count=3 oflag=direct 2>&1
		before=$(dd if=$dev bs=1M count=1 iflag=direct 2>/dev/null | sha256sum)
		blkdiscard --zeroout --offset 1MiB --length 1MiB $dev
		blkdiscard --offset 2MiB --length 1MiB $dev
		[ "$(dd if=$dev bs=1M skip=1 count=2 iflag=direct 2>/dev/null | tr -d '\0' | wc -c)" = 0 ]
		[ "$(dd if=$dev bs=1M count=1 iflag=direct 2>/dev/null | sha256sum)" = "$before" ]
		set -- $(cat /sys/block/%s/stat); was=${16}
		dd if=/dev/urandom of=$dev bs=4k count=1 conv=fsync 2>&1
		set -- $(cat /sys/block/%s/stat); [ ${16} -gt $was ]
		blkdiscard $dev`, g.dev(0), g.dev(0), g.dev(0))
}

func filesystem(g *guest, kind, make, check string) {
	g.sh(`
		dev=/dev/%s
		%s $dev 2>&1
		mount -t %s $dev /mnt
		dd if=/dev/urandom of=/mnt/file bs=100001 count=30 conv=fsync 2>&1
		%s
		cd /mnt && sha256sum file >/run/sum && cd /
		umount /mnt && mount -t %s $dev /mnt
		cd /mnt && sha256sum -c /run/sum && rm verify && cd /
		fstrim -v /mnt
		umount /mnt
		%s $dev 2>&1`, g.dev(0), make, kind, fio("/mnt/verify", "4M"), kind, check)
}

func twoAtOnce(g *guest) {
	a := g.Start(fio("/dev/"+g.dev(0), "4M"))
	b := g.Start(fio("/dev/"+g.dev(1), "4M"))
	a.Must()
	b.Must()
}

// numberTaken: another engine cannot have the number, and says so; what it can
// serve it serves.
func numberTaken(g *guest) {
	out := g.sh(`
		sed -e s,/run/state,/run/state2, -e 's,"/tmp/[ab].img",&,' -e 's,/tmp/a.img,/tmp/c.img,' -e 's,/tmp/b.img,/tmp/d.img,' /run/engine.toml >/run/other.toml
		sed -i 's/^device = 1/device = 5/' /run/other.toml
		setsid engine run -c /run/other.toml >/run/other.out 2>&1 &
		await 30 grep -q ^ready /run/other.out
		cat /run/other.out
		kill -TERM $!; await 30 eval '! kill -0 $! 2>/dev/null'
		engine %s delete -c /run/other.toml b`, g.command)
	if !strings.Contains(out, `export "a": not up: `) || !strings.Contains(out, "device:/dev/"+g.dev(5)) {
		g.t.Errorf("an engine whose number is taken said: %s", out)
	}
}

// readOnly: an export of that kind refuses writes, and the kernel knows it.
func readOnly(g *guest) {
	v := file("b", 64, 1)
	v.export = "read_only = true\n"
	g.none()
	g.configure("", file("a", 400, 0), v)
	g.sh("engine_start; [ $(cat /sys/block/%s/ro) = 1 ]", g.dev(1))
	g.fails("dd if=/dev/zero of=/dev/%s bs=4k count=1 oflag=direct 2>&1", g.dev(1))
}

// memoryPressure: much is written into the page cache by a group of processes
// that may have little memory, so the engine has to work while the kernel
// reclaims. The group is slowed down at its limit: with a limit for good the
// kernel, where a busy host makes the guest's disks slow, rather kills the writer
// than to wait for its pages.
func memoryPressure(g *guest) {
	g.sh(`
		mkfs.ext4 -q -b 4096 /dev/%s 2>&1; mount /dev/%s /mnt
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control
		mkdir /sys/fs/cgroup/tight; echo 24M >/sys/fs/cgroup/tight/memory.high
		sh -c 'echo $$ >/sys/fs/cgroup/tight/cgroup.procs; exec dd if=/dev/zero of=/mnt/big bs=1M count=160 2>&1'
		[ "$(sed -n 's/^high //p' /sys/fs/cgroup/tight/memory.events)" -gt 0 ]
		sync
		[ "$(tr -d '\0' </mnt/big | wc -c)" = 0 ]
		umount /mnt
		fsck.ext4 -f -n /dev/%s 2>&1
		rmdir /sys/fs/cgroup/tight`, g.dev(0), g.dev(0), g.dev(0))
}
