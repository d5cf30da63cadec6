package sandbox

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// withGroups skips where cgroups hold no limits, unless it is known that they can.
func withGroups(t *testing.T) *hierarchy {
	t.Helper()
	h, err := groupHome()
	if err == nil && len(h.controllers) == len(wanted) {
		return h
	}
	if os.Getenv("SANDBOX_GROUPS") != "" {
		t.Fatalf("no cgroup v2 with all controllers: %+v, %v", h, err)
	}
	t.Skip("no cgroup v2 here with the controllers cpu, memory, pids (scripts/vm-test.sh has them): ", err)
	return nil
}

// TestGroupLimits reads from the kernel what a program is held to.
func TestGroupLimits(t *testing.T) {
	h := withGroups(t)
	w := newWorld(t)
	s := w.spec("spin")
	s.Name, s.Memory, s.CPUs = "vil/lain é", 64<<20, 0.5
	r := w.start(s)
	r.line()
	if dir := filepath.Dir(r.group.dir); dir != h.dir || !strings.HasPrefix(filepath.Base(r.group.dir), "vil_lain__-") {
		t.Errorf("its group is %s", r.group.dir)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "memory.oom.group": "1", "cpu.max": "50000 100000", "pids.max": fmt.Sprint(tasks)} {
		b, err := os.ReadFile(filepath.Join(r.group.dir, file))
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("%s: %q, want %q (%v)", file, got, want, err)
		}
	}
	if pids, ok := r.group.members(); !ok || !slices.Equal(pids, []int{r.PID()}) {
		t.Errorf("in it: %v, and not %d", pids, r.PID())
	}
	if u, err := r.Usage(); err != nil || u.CPU == 0 || u.Memory == 0 || u.Peak < u.Memory {
		t.Errorf("usage %+v, %v", u, err)
	}
	if r.memory != 0 {
		t.Error("the engine watches what the kernel holds")
	}
	r.Kill()
	r.wait()
	if _, err := os.Stat(r.group.dir); err == nil {
		t.Error("the group stays")
	}
}

// TestGroupHoldsForks has the forks of a program without walls leave its session.
func TestGroupHoldsForks(t *testing.T) {
	if _, err := groupHome(); err != nil {
		t.Skip("no cgroup v2 here: ", err)
	}
	w := newWorld(t)
	mark := fmt.Sprintf("group-%d", os.Getpid())
	s := w.spec("fork", mark)
	s.Mode = Off
	r := w.start(s)
	if said := r.line(); said != "forked" {
		t.Fatal(said)
	}
	eventually(t, "forks run", func() bool { return marked("stay\x00"+mark) == 3 })
	r.Kill()
	r.wait()
	if n := marked("stay\x00" + mark); n != 0 {
		t.Errorf("%d forks live", n)
	}
}

func TestOwnGroup(t *testing.T) {
	const hybrid = `
25 30 0:23 / /sys rw - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`
	for _, c := range []struct{ mounts, groups, mount, own string }{
		{"1 2 0:3 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw", "0::/system.slice/engine.service\n", "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/engine.service"},
		{hybrid, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"},
		{"1 2 0:3 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/pod/engine\n", "/sys/fs/cgroup", "/sys/fs/cgroup/engine"},
		{"1 2 0:3 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/other\n", "", ""},
		{"1 2 0:3 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/\n", "", ""},
		{"1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "1:cpu:/\n", "", ""},
		{"", "0::/\n", "", ""},
	} {
		mount, own, err := ownGroup(c.mounts, c.groups)
		if mount != c.mount || own != c.own || (err == nil) != (c.mount != "") {
			t.Errorf("%q, %q: %q, %q, %v", c.mounts, c.groups, mount, own, err)
		}
	}
}

// TestGroupFiles writes limits into plain files.
func TestGroupFiles(t *testing.T) {
	read := func(g *cgroup, file string) string {
		b, _ := os.ReadFile(filepath.Join(g.dir, file))
		return string(b)
	}
	files := func() *cgroup {
		g := &cgroup{dir: t.TempDir()}
		for file, text := range map[string]string{"memory.max": "", "memory.oom.group": "", "cpu.max": "", "pids.max": "",
			"cpu.stat": "usage_usec 1500\nuser_usec 1\n", "memory.current": "4096\n", "memory.events": "low 0\noom 1\noom_kill 2\n"} {
			if err := os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	g := files()
	if err := g.limit(&Spec{Memory: 1 << 20, CPUs: 1.5}, wanted); err != nil || !g.limitsMemory() {
		t.Error(err)
	}
	for file, want := range map[string]string{"memory.max": "1048576", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "512"} {
		if got := read(g, file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	u, k := g.usage()
	if u.CPU.Microseconds() != 1500 || u.Memory != 4096 || u.Peak != 4096 || k != (known{true, true}) || !g.endedForMemory() {
		t.Errorf("%+v %+v", u, k)
	}
	g = files()
	err := g.limit(&Spec{Memory: 1 << 20, CPUs: math.SmallestNonzeroFloat64}, []string{"cpu"})
	if g.limitsMemory() || err == nil || !strings.Contains(err.Error(), `no controller "memory"`) || !strings.Contains(err.Error(), `no controller "pids"`) {
		t.Errorf("without controllers: %v", err)
	}
	if got := read(g, "cpu.max"); got != "1000 100000" {
		t.Errorf("cpu.max: %q", got)
	}
	var none *cgroup
	if _, k := none.usage(); none.limitsMemory() || none.endedForMemory() || none.remove() != "" || k != (known{}) {
		t.Error("a group that is not there knows something")
	}
}
