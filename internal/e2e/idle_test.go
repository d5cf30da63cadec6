package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// TestThousandIdleExports: a thousand exports on builtin volumes, each with a
// client that is connected and silent, cost no processor and under 100 MiB.
func TestThousandIdleExports(t *testing.T) {
	const exports, most = 1000, 100 << 20
	dir := t.TempDir()
	c := config{}
	for i := range exports {
		v := volume{name: fmt.Sprintf("disk%d", i), plugin: "memory", options: "size = \"1GiB\""}
		switch i % 10 {
		case 1, 2, 3:
			v.plugin = "null"
		case 4:
			v.plugin = "file"
			v.options = fmt.Sprintf("path = %q\nsize = \"1GiB\"", filepath.Join(dir, v.name))
		}
		c.volumes = append(c.volumes, v)
	}
	e := startEngine(t, c)
	idleWithin(t, e, "without clients", most)
	for i := range exports {
		nbdtest.Connect(t, "unix", e.socket, nbdtest.Options{Export: fmt.Sprintf("disk%d", i)})
	}
	idleWithin(t, e, "with a client each", most)
	first := e.dial("disk0", nbdtest.Options{})
	must(t, first.Write(0, random(4096, 1), 0))
	mustRead(t, first, 0, random(4096, 1))
}

// idleWithin wants an engine that has nothing to do to do nothing, and to hold
// no more than limit bytes.
func idleWithin(t *testing.T, e *engine, what string, limit int64) {
	t.Helper()
	if rss := residentBytes(t, e.cmd.Process.Pid); rss > limit && !raced {
		t.Errorf("%s: %.1f MiB are held, more than %d", what, float64(rss)/(1<<20), limit>>20)
	} else {
		t.Logf("%s: %.1f MiB", what, float64(rss)/(1<<20))
	}
	// What was begun comes to an end first: buffers are given back, and so on.
	// Nobody asks the engine anything meanwhile, which would wake it.
	const wakeups, ticks = 20, 1
	var woken, cpu int64
	idle := false
	for try := 0; try < 20 && !idle; try++ {
		w, c := activity(t, e.cmd.Process.Pid)
		time.Sleep(time.Second)
		woken, cpu = activity(t, e.cmd.Process.Pid)
		woken, cpu = woken-w, cpu-c
		idle = woken <= wakeups && cpu <= ticks
		t.Logf("%s: threads were woken %d times, %d ticks of processor time", what, woken, cpu)
	}
	if !idle {
		t.Errorf("%s: an engine with nothing to do is woken %d times and uses %d ticks", what, woken, cpu)
	}
}

// activity is how often the threads of a process have gone to sleep so far, and
// its processor time in ticks (100 a second).
func activity(t *testing.T, pid int) (sleeps, ticks int64) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		var n int64
		_, err = fmt.Sscan(rest, &n)
		must(t, err)
		sleeps += n
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), ") ") // the fields after the name, proc(5)
	fields := strings.Fields(rest)
	for _, f := range fields[11:13] { // utime, stime
		var n int64
		_, err = fmt.Sscan(f, &n)
		must(t, err)
		ticks += n
	}
	return sleeps, ticks
}
