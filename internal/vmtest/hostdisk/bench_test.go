package hostdisk_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vmtest"
)

// TestFigures compares, in one guest and in turns, a null volume on ublk with the
// kernel's NBD driver on nbdkit's null plugin, by 4 KiB random reads of one job;
// and tells how long a read waits for an engine that is killed and started at
// once. It prints what it has measured and judges only that there was something:
// under emulation nothing but the ratios means anything.
func TestFigures(t *testing.T) {
	vmtest.Require(t)
	nbdtest.Require(t, "nbd-client", "nbd-client")
	g := &guest{VM: boot(t, vmtest.DefaultKernel(), peers(t)), kind: ublkKind, kernel: vmtest.DefaultKernel(), t: t}
	g.keys = "queues = 1\ndepth = 64\n"
	g.load("")
	g.configure("", volume{name: "null", plugin: "null", options: "size = \"1GiB\"\n", device: 0})
	g.Start("exec nbdkit -f -U /run/nk.sock -P /run/nk.pid /lib/nbdkit-null-plugin.so 1G </dev/null >/run/nk.log 2>&1")
	g.sh(`modprobe nbd
		engine_start
		await 30 test -s /run/nk.pid
		nbd-client -unix /run/nk.sock /dev/nbd0 >/dev/null 2>&1
		await 30 size_is nbd0 %d`, 1<<30)
	for _, depth := range []int{64, 1} {
		mine, peer := compare(g, depth)
		t.Logf("depth %2d: ublk %v; kernel NBD to nbdkit %v; ublk/NBD: IOPS %.2f, latency %.2f, server CPU a request %.2f",
			depth, mine, peer, mine.iops/peer.iops, mine.latency/peer.latency, mine.cpu/peer.cpu)
	}
	pauses(g)
	g.sh("nbd-client -d /dev/nbd0 >/dev/null 2>&1")
	g.none()
}

// peers are the programs that the engine is compared with, by their paths in the
// guest, with the libraries that they are linked with.
func peers(t *testing.T) map[string]string {
	t.Helper()
	plugin, _ := filepath.Glob("/usr/lib/*/nbdkit/plugins/nbdkit-null-plugin.so")
	if len(plugin) != 1 {
		nbdtest.Require(t, "nbdkit with its null plugin", "nbdkit")
		t.Skip("nbdkit has no null plugin here")
	}
	files := map[string]string{"/lib/nbdkit-null-plugin.so": plugin[0]}
	for _, program := range []string{"nbdkit", "nbd-client"} {
		path, err := exec.LookPath(program)
		if err != nil {
			path = "/usr/sbin/" + program
		}
		files["/usr/sbin/"+program] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", path, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if filepath.IsAbs(word) {
				files[word] = word
			}
		}
	}
	return files
}

// figures of one of the two.
type figures struct {
	iops    float64
	latency float64 // µs, mean
	cpu     float64 // µs of the server's CPU time a request
}

func (f figures) String() string {
	return fmt.Sprintf("%.0f IOPS, %.0f µs, server CPU %.1f µs a request", f.iops, f.latency, f.cpu)
}

// rounds of each comparison; a single one only shows that there are figures.
func rounds() int {
	if long {
		return 3
	}
	return 1
}

// compare gives the medians of some rounds, in which the two take turns.
func compare(g *guest, depth int) (mine, peer figures) {
	var a, b []figures
	for range rounds() {
		a = append(a, measure(g, g.dev(0), "/run/e.pid", depth))
		b = append(b, measure(g, "nbd0", "/run/nk.pid", depth))
	}
	return median(a), median(b)
}

func median(list []figures) figures {
	slices.SortFunc(list, func(a, b figures) int { return int(a.iops - b.iops) })
	return list[len(list)/2]
}

// measure runs a load and gives what it cost. CPU time is in the kernel's ticks,
// of which there are 100 a second (proc(5), fields 14 and 15 of stat).
func measure(g *guest, dev, pid string, depth int) figures {
	g.t.Helper()
	out := g.sh(`
		cpu() { set -- $(sed 's/.*) //' /proc/$(cat %s)/stat); echo $((${12} + ${13})); }
		from=$(cpu)
		fio --name=r --filename=/dev/%s --direct=1 --ioengine=io_uring --rw=randread --bs=4k --iodepth=%d --numjobs=1 \
			--time_based --runtime=2 --minimal --output=/run/fio.out >/dev/null
		echo "$(($(cpu) - from));$(grep '^3;' /run/fio.out)"`, pid, dev, depth)
	f := strings.Split(strings.TrimSpace(out), ";")
	if len(f) < 42 {
		g.t.Fatalf("fio says %q", out)
	}
	// Terse output, version 3, counted from 1 because of the ticks before it: total
	// KiB read 6, IOPS 8, mean latency 40 (fio(1), TERSE OUTPUT).
	requests := number(g, f[6]) / 4
	if requests == 0 {
		g.t.Fatalf("nothing was read from %s: %s", dev, out)
	}
	return figures{iops: number(g, f[8]), latency: number(g, f[40]), cpu: number(g, f[0]) * 10000 / requests}
}

func number(g *guest, text string) float64 {
	g.t.Helper()
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		g.t.Fatalf("fio: %v", err)
	}
	return n
}

// pauses kills the engine a few times under one reader, which never has more than
// one request: its longest wait is the pause.
func pauses(g *guest) {
	var list []string
	for range rounds() {
		load := g.Start(fmt.Sprintf("fio --name=p --filename=/dev/%s --direct=1 --ioengine=io_uring --rw=randread --bs=4k --iodepth=1 "+
			"--time_based --runtime=6 --minimal --output=/run/pause.out >/dev/null; grep '^3;' /run/pause.out", g.dev(0)))
		time.Sleep(3 * time.Second)
		// /proc/uptime is in hundredths of a second.
		start := g.sh(`now() { cut -d' ' -f1 /proc/uptime | tr -d .; }; began=$(now); engine_kill; engine_start; echo $((($(now) - began) * 10))`)
		f := strings.Split(strings.TrimSpace(load.Must()), ";")
		if len(f) < 42 {
			g.t.Fatalf("fio says %v", f)
		}
		list = append(list, fmt.Sprintf("%.0f ms (ready after %s ms)", number(g, f[38])/1000, strings.TrimSpace(start)))
	}
	g.t.Logf("a reader's longest wait for an engine that is killed and started at once, guest time: %s", strings.Join(list, ", "))
}
