package hostdisk_test

import (
	"fmt"
	"strings"
)

// failIO: with recovery "fail-io" (Linux 6.13) requests fail while there is no
// engine, and what was acknowledged before is there when the next one is.
func failIO(g *guest) {
	g.load("")
	v := file("a", 64, 0)
	v.export = "recovery = \"fail-io\"\n"
	g.configure("", v)
	g.step("without an engine", func() { withoutEngine(g) })
	g.step("kills under load", func() { killsThatFail(g) })
}

// withoutEngine: nothing waits for an engine that is not there.
func withoutEngine(g *guest) {
	g.sh(`
		engine_start
		dd if=/dev/urandom of=/tmp/part bs=1M count=1 2>/dev/null; dd if=/tmp/part of=/dev/%s bs=1M oflag=direct conv=fsync 2>/dev/null
		engine_kill
		await 30 eval 'engine ublk list -c /run/engine.toml | grep -q fail_io'`, g.dev(0))
	for _, use := range []string{"if=/dev/%s of=/dev/null iflag=direct", "if=/dev/zero of=/dev/%s oflag=direct"} {
		if out := g.fails("dd "+use+" bs=4k count=1 2>&1", g.dev(0)); !strings.Contains(out, "I/O error") {
			g.t.Errorf("without an engine: %s", out)
		}
	}
	g.sh("engine_start; dd if=/dev/%s bs=1M count=1 iflag=direct 2>/dev/null | cmp - /tmp/part", g.dev(0))
	if status := g.sh("engine status --json -c /run/engine.toml"); !strings.Contains(status, `"recovered": true`) {
		g.t.Errorf("the device was not recovered:\n%s", status)
	}
}

// killsThatFail: under a load that goes on after errors, each write that was
// acknowledged is read back afterwards.
func killsThatFail(g *guest) {
	dev := g.dev(0)
	load := g.Start("until [ -e /run/stop ]; do " + fio("/dev/"+dev, "8M", "--offset=1M", "--continue_on_error=io") + "; done >/dev/null 2>&1; true")
	// Blocks of a random MiB in turns, each to a place of its own behind fio's.
	writer := g.Start(fmt.Sprintf(`
		i=0; : >/run/written
		until [ -e /run/stop ]; do
			if dd if=/tmp/part of=/dev/%s bs=4k skip=$((i %% 256)) seek=$((8192 + i)) count=1 oflag=direct 2>/dev/null; then echo $i >>/run/written; fi
			i=$(((i + 1) %% 8192))
		done`, dev))
	for range 10 {
		// Failures count as progress, so it is the writer's that is waited for.
		g.sh(`
			enough() { [ $(wc -l </run/written) -ge $1 ]; }
			await 60 enough $(($(wc -l </run/written) + 5))
			engine_kill; engine_start`)
	}
	g.sh("touch /run/stop")
	load.Must()
	writer.Must()
	g.sh(`
		rm /run/stop
		dd if=/dev/%s of=/tmp/back bs=1M skip=32 iflag=direct 2>/dev/null
		for i in $(sort -nu /run/written); do
			dd if=/tmp/back bs=4k skip=$i count=1 2>/dev/null >/run/is
			dd if=/tmp/part bs=4k skip=$((i %% 256)) count=1 2>/dev/null | cmp - /run/is || { echo "block $i is lost"; exit 1; }
		done`, dev)
	g.sh("%s", fio("/dev/"+dev, "8M"))
}

// zeroCopy: a volume in a file, whose requests are carried out on the kernel's own
// pages (Linux 6.16), in earnest and when its engine is killed under a load.
func zeroCopy(g *guest) {
	g.load("")
	g.keys += "copy = \"zero\"\n"
	v := file("a", 400, 0)
	v.options += "io = \"io_uring\"\n"
	g.configure("", v, file("b", 64, 1))
	g.sh("engine_start")
	inEarnest(g)
	g.step("memory pressure", func() { memoryPressure(g) })
	g.step("kills under load", func() { killsByLoad(g, 5) })
}

// killsByLoad kills the engine under a load that verifies what it reads.
func killsByLoad(g *guest, kills int) {
	load := g.Start("until [ -e /run/stop ]; do " + fio("/dev/"+g.dev(0), "8M") + " || exit 1; done")
	for range kills {
		g.sh(progress+"progress %s; engine_kill; engine_start", g.dev(0))
	}
	g.sh(progress+"progress %s; touch /run/stop", g.dev(0))
	load.Must()
	g.sh("rm /run/stop")
}

// growth: a disk grows under a mounted file system and a load (Linux 6.16), the
// file system grows after it, and an engine that is killed then finds it so.
func growth(g *guest) {
	own, port := growing(g)
	g.load("")
	g.configure("", remote("r", port, 0))
	dev := g.dev(0)
	g.sh(`
		engine_start; await 60 size_is %s %d
		mkfs.ext4 -q -b 4096 /dev/%s 2>&1; mount /dev/%s /mnt`, dev, small, dev, dev)
	load := g.Start("until [ -e /run/stop ]; do " + fio("/mnt/verify", "4M") + " || exit 1; done")
	g.sh(progress+"progress %s", dev)
	own.grow()
	g.sh(progress+`
		await 60 size_is %s %d
		resize2fs /dev/%s 2>&1
		dd if=/dev/urandom of=/mnt/big bs=1M count=%d conv=fsync 2>&1
		sum=$(sha256sum </mnt/big)
		progress %s; engine_kill; engine_start; progress %s; touch /run/stop
		size_is %s %d
		echo 3 >/proc/sys/vm/drop_caches
		[ "$(sha256sum </mnt/big)" = "$sum" ]`, dev, large, dev, small>>20, dev, dev, dev, large)
	load.Must()
	g.sh("umount /mnt; fsck.ext4 -f -n /dev/%s 2>&1", dev)
}

// chown does what a rule of udev's does, which this guest does not have: devices
// of a user's become the user's.
const chown = `
	chmod 666 /dev/ublk-control
	until [ -e /run/stop ]; do
		for f in /dev/ublk[bc]*; do [ "$(stat -c %u $f)" = 1000 ] || chown user $f; done 2>/dev/null
		sleep 0.02
	done
	chmod 600 /dev/ublk-control
`

// users: a user without any right over the host makes a device, uses it, and it
// goes with the user's engine, however that ends.
func users(g *guest) {
	g.load("")
	v := file("v", 64, -1)
	v.export = "unprivileged = true\nrecovery = \"none\"\n"
	g.configure("", v)
	g.sh("sed -e s,/run/state,/tmp/state, /run/engine.toml >/tmp/engine.toml; chmod 644 /tmp/engine.toml")
	udev := g.Start(chown)
	for _, end := range []string{"TERM", "KILL"} {
		g.step("ended by "+end, func() { asUser(g, end) })
	}
	g.sh("touch /run/stop")
	udev.Must()
}

// asUser runs an engine as a user until a signal ends it.
func asUser(g *guest, end string) {
	g.sh(`
		rm -f /run/user.out; setsid su -s /bin/sh user -c 'echo $$ >/tmp/pid; exec engine run -c /tmp/engine.toml' >/run/user.out 2>&1 </dev/null &
		await 30 grep -q ^ready /run/user.out || { cat /run/user.out; exit 1; }
		[ -b /dev/ublkb0 ] || { cat /run/user.out; exit 1; }
		await 10 eval '[ "$(stat -c %%u /dev/ublkb0)" = 1000 ]'
		su -s /bin/sh user -c '%s'
		su -s /bin/sh user -c 'exec engine ublk list -c /tmp/engine.toml' 2>&1 | grep ublkb0`, fio("/dev/ublkb0", "4M"))
	// After a kill the driver keeps a dead device, as after every kill, and its user
	// can take it away.
	g.sh(`
		kill -%s $(cat /tmp/pid); await 30 eval '! [ -e /sys/block/ublkb0 ]' || { cat /run/user.out; exit 1; }
		if [ %s = KILL ]; then su -s /bin/sh user -c 'exec engine ublk delete -c /tmp/engine.toml v' 2>&1; fi
		await 10 eval '! [ -e /sys/class/ublk-char/ublkc0 ]'; rm -rf /tmp/state`, end, end)
}
