package hostdisk_test

import (
	"strings"
	"syscall"
	"time"
)

// kills is how often the engine is killed under a load.
const kills = 20

// recovery kills, restarts, and takes away in every way, under load and at every
// step.
func recovery(g *guest) {
	g.load("")
	g.step("kills under load", func() { killsUnderLoad(g) })
	g.step("orphans", func() { orphans(g) })
	g.step("a volume that shrank", func() { shrunk(g) })
	g.step("kills at every step", func() { killsAtSteps(g) })
	g.step("stop under load", func() { stopUnderLoad(g) })
	g.step("deleted under load", func() { deletedUnderLoad(g) })
}

// progress waits until more requests of a device have completed while a load is
// running.
const progress = `
	done_by() { set -- $(cat /sys/block/$1/stat); echo $(($1 + $5)); }
	moved() { [ $(done_by $1) -ge $2 ]; }
	progress() { await 60 moved $1 $(($(done_by $1) + 50)); }
`

// killsUnderLoad: a load that verifies what it reads on ext4 notices nothing but
// pauses while the engine is killed, and stopped in order, and started again.
func killsUnderLoad(g *guest) {
	hung := hang(g)
	dev := g.dev(0)
	g.configure("", file("a", 200, 0), file("b", 64, 1))
	g.sh("engine_start; mkfs.ext4 -q -b 4096 /dev/%s 2>&1; mount /dev/%s /mnt; rm -f /run/stop", dev, dev)
	load := g.Start("until [ -e /run/stop ]; do " + fio("/mnt/verify", "4M") + " || exit 1; done")
	for i := range kills {
		g.sh(progress+"progress %s; engine_kill; engine_start", dev)
		if i == 0 { // in order, and where the kernel can (Linux 6.16), the device is quiesced first
			g.sh(progress+"progress %s; engine_stop; engine_start", dev)
		}
	}
	g.sh(progress+"progress %s; touch /run/stop", dev)
	load.Must()
	g.sh("umount /mnt; fsck.ext4 -f -n /dev/%s 2>&1", dev)
	status := g.sh("engine status --json -c /run/engine.toml")
	if n := strings.Count(status, `"recovered": true`); n != 2 {
		g.t.Errorf("%d of 2 devices were recovered:\n%s", n, status)
	}
	hung()
	g.none()
}

// hang has a control command hang: somebody holds the character device of an
// orphan, so the kernel does not answer who deletes it. The deadline is long, so
// other things, and other devices, go on meanwhile; the function that is given
// judges.
func hang(g *guest) (judge func()) {
	if g.frontend != "ublk" {
		return func() {}
	}
	g.configure("", file("h", 16, 9))
	g.sh("sed -i s,/run/state,/run/state9, /run/engine.toml; cp /run/engine.toml /run/hang.toml; engine_start; engine_kill")
	holder := g.Start("exec 9<>/dev/ublkc9 && echo held; sleep 1000")
	for !strings.Contains(holder.Output(), "held") {
		g.sh("sleep 0.05")
	}
	order := g.Start("engine ublk delete -c /run/hang.toml 9 2>&1")
	return func() {
		g.t.Helper()
		out, status := order.Wait(g.t.Context())
		if status != 1 || !strings.Contains(out, "DEL_DEV of device 9: the kernel does not answer") {
			g.t.Errorf("a deletion that hangs ended with status %d: %s", status, out)
		}
		_ = holder.Signal(syscall.SIGKILL)
		g.sh("await 30 eval '! [ -e /sys/class/ublk-char/ublkc9 ]'; engine ublk delete -c /run/hang.toml h")
	}
}

// orphans: devices that no engine serves are listed, and can be removed; their
// memory goes with them.
func orphans(g *guest) {
	g.configure("", file("a", 64, 0), file("b", 64, 1))
	g.sh("engine_start; engine_kill")
	list := g.sh("engine %s list -c /run/engine.toml", g.command)
	if strings.Count(list, " yes") != 2 || !strings.Contains(list, "/dev/"+g.dev(0)) {
		g.t.Errorf("two orphans that can be recovered are listed as\n%s", list)
	}
	g.sh("engine %s delete -c /run/engine.toml 0; engine %s delete -c /run/engine.toml b", g.command, g.command)
	if list := g.sh("engine %s list -c /run/engine.toml --json", g.command); strings.TrimSpace(list) != "[]" {
		g.t.Errorf("after both were deleted: %s", list)
	}
	g.sh("engine_start; dd if=/dev/%s of=/dev/null bs=1M count=1 iflag=direct 2>&1", g.dev(0))
	g.none()
}

// shrunk: the disk of a device became smaller while no engine ran. It is refused
// and the device stays; when the disk is whole again an order is enough.
func shrunk(g *guest) {
	g.configure("", volume{name: "a", plugin: "file", patience: "2s", options: "path = \"/tmp/a.img\"\n", device: 0, more: "timeout = \"1s\"\nfence = \"0s\"\n"})
	out := g.sh(`
		truncate -s 64M /tmp/a.img
		engine_start
		dd if=/dev/urandom of=/tmp/part bs=1M count=1 2>/dev/null; dd if=/tmp/part of=/dev/%s bs=1M oflag=direct 2>/dev/null
		engine_kill
		truncate -s 32M /tmp/a.img
		engine_start
		cat /run/e.out`, g.dev(0))
	if !strings.Contains(out, "not up: ") || !strings.Contains(out, "shr") {
		g.t.Errorf("with a disk that shrank: %s", out)
	}
	g.fails("engine %s recover -c /run/engine.toml a 2>&1", g.command)
	list := g.sh("engine %s list -c /run/engine.toml", g.command)
	if !strings.Contains(list, "/dev/"+g.dev(0)) {
		g.t.Errorf("the device did not stay: %s", list)
	}
	g.sh(`
		engine_stop
		truncate -s 64M /tmp/a.img
		engine_start
		dd if=/dev/%s bs=1M count=1 iflag=direct 2>/dev/null | cmp - /tmp/part`, g.dev(0))
	g.none()
}

// steps at which an engine is killed while it makes a device, and while it takes
// one over.
func (g *guest) steps() (making, taking []string) {
	if g.frontend == "ublk" {
		return []string{"ublk-recorded", "ublk-added", "ublk-named", "ublk-described", "ublk-fetched", "ublk-started"},
			[]string{"ublk-found", "ublk-verified", "ublk-taking", "ublk-taken", "ublk-refetch", "ublk-served"}
	}
	return []string{"nbd-sockets", "nbd-record", "nbd-connected"}, []string{"nbd-found", "nbd-reconfigured"}
}

// killsAtSteps: whatever step an engine dies at, the next one has the device, one
// and no more, with what was written to it.
func killsAtSteps(g *guest) {
	making, taking := g.steps()
	g.configure("", file("a", 64, 0))
	one := func(after string) {
		list := g.sh("engine %s list -c /run/engine.toml --json", g.command)
		if strings.Count(list, `"number"`) != 1 || !strings.Contains(list, `"number": 0`) {
			g.t.Errorf("after a kill at %s the devices are %s", after, list)
		}
	}
	for _, step := range making {
		g.sh(`
			engine_begin ENGINE_FAILPOINT=%s:1; engine_gone
			engine_start
			dd if=/dev/urandom of=/tmp/part bs=64k count=1 2>/dev/null
			dd if=/tmp/part of=/dev/%s bs=64k oflag=direct 2>/dev/null
			dd if=/dev/%s bs=64k count=1 iflag=direct 2>/dev/null | cmp - /tmp/part`, step, g.dev(0), g.dev(0))
		one(step)
		g.none()
	}
	g.configure("", file("a", 64, 0))
	g.sh("engine_start; dd if=/tmp/part of=/dev/%s bs=64k oflag=direct 2>/dev/null; engine_kill", g.dev(0))
	for _, step := range taking {
		g.sh(`
			engine_begin ENGINE_FAILPOINT=%s:1; engine_gone
			engine_start
			dd if=/dev/%s bs=64k count=1 iflag=direct 2>/dev/null | cmp - /tmp/part
			engine_kill`, step, g.dev(0))
		one(step)
	}
	g.sh("engine_start")
	g.none()
}

// stopUnderLoad: an engine that is to take its devices along does so, whoever
// uses them, and ends in time.
func stopUnderLoad(g *guest) {
	v := file("a", 64, 0)
	v.export = "on_stop = \"remove\"\n"
	g.configure("", v)
	g.sh("engine_start")
	load := g.Start(fio("/dev/"+g.dev(0), "8M", "--time_based", "--runtime=60"))
	g.sh(progress+"progress %s; engine_stop", g.dev(0))
	ended(g, load.Done())
	if list := g.sh("engine %s list -c /run/engine.toml --json", g.command); strings.TrimSpace(list) != "[]" {
		g.t.Errorf("the device is still there: %s", list)
	}
	g.none()
}

// deletedUnderLoad: somebody removes a device that is in use. Its user gets
// errors, the engine says so, and serves the others.
func deletedUnderLoad(g *guest) {
	g.configure("", file("a", 64, 0), file("b", 64, 1))
	g.sh("engine_start")
	load := g.Start(fio("/dev/"+g.dev(0), "8M", "--time_based", "--runtime=60"))
	g.sh(progress+"progress %s; engine %s delete -c /run/engine.toml 0", g.dev(0), g.command)
	ended(g, load.Done())
	g.sh(`await 30 eval 'engine status --json -c /run/engine.toml | grep -q "\"state\": \"removed\""'
		dd if=/dev/zero of=/dev/%s bs=1M count=4 oflag=direct 2>&1
		engine_stop`, g.dev(1))
	g.none()
}

// ended waits for a load whose device is gone.
func ended(g *guest, done <-chan struct{}) {
	g.t.Helper()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		g.t.Error("the load still runs without its device")
	}
}

// limits: what the driver refuses is said in words, and costs nobody else.
func limits(g *guest) {
	g.load("ublks_max=0")
	g.step("ublks_max", func() { tooMany(g) })
	g.step("recovery", func() { noFailIO(g) })
	g.step("depth", func() { deepest(g) })
}

// deepest: the deepest queue that the driver allows works, with a tag of it left to
// the driver (this kernel is before 6.16), and a deeper one is refused before
// anything is made.
func deepest(g *guest) {
	g.none()
	v := file("a", 16, 0)
	g.keys = "depth = 4096\nmax_io = \"4KiB\"\n"
	g.configure("", v)
	g.sh("engine_start; [ $(cat /sys/block/%s/queue/nr_requests) = 4095 ]; %s", g.dev(0), fio("/dev/"+g.dev(0), "4M"))
	g.none()
	out := g.fails("sed -i s/4096/4097/ /run/engine.toml; engine check -c /run/engine.toml 2>&1")
	if !strings.Contains(out, "depth") || !strings.Contains(out, "4096") {
		g.t.Errorf("a queue that is too deep: %s", out)
	}
}

// tooMany: the driver's limit is on devices of users, so here it is on the first
// one already. The engine says so and runs on.
func tooMany(g *guest) {
	v := file("v", 16, -1)
	v.export = "unprivileged = true\nrecovery = \"none\"\n"
	g.configure("", v)
	out := g.sh(`
		chmod 666 /dev/ublk-control
		sed -e s,/run/state,/tmp/state, /run/engine.toml >/tmp/engine.toml; chmod 644 /tmp/engine.toml
		su -s /bin/sh user -c 'exec engine run -c /tmp/engine.toml' >/run/user.out 2>&1 </dev/null &
		await 30 grep -q ^ready /run/user.out || true
		cat /run/user.out
		kill -TERM $! 2>/dev/null || true
		chmod 600 /dev/ublk-control; rm -rf /tmp/state`)
	if !strings.Contains(out, "not up: ") || !strings.Contains(out, "ublks_max") {
		g.t.Errorf("with ublks_max=0: %s", out)
	}
}

// noFailIO: on a kernel that has no FAIL_IO the wish is refused, and the reason said.
func noFailIO(g *guest) {
	v := file("a", 16, 0)
	v.export = "recovery = \"fail-io\"\n"
	g.configure("", v)
	out := g.sh("engine_start; cat /run/e.out")
	if !strings.Contains(out, "not up: ") || !strings.Contains(out, "6.1") {
		g.t.Errorf("fail-io on a kernel without it: %s", out)
	}
	g.none()
	v.export = "recovery = \"none\"\n"
	g.configure("", v)
	g.sh("engine_start; dd if=/dev/%s of=/dev/null bs=64k count=1 2>&1; engine_kill; await 30 eval '! [ -e /sys/block/%s ]'", g.dev(0), g.dev(0))
}
