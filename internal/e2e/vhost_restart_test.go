package e2e_test

import (
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// TestVhostRestart: the engine is stopped with SIGTERM and started again with
// another version of the plugin, and the machine has no error and loses no write.
// How long it waits after it has redialled is told, not judged.
func TestVhostRestart(t *testing.T) {
	t.Parallel()
	for _, p := range recovering() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{}) // who drains breaks no rule
			c := config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), durable, 2)}}
			e := startEngine(t, c)
			e.waitUp("disk")
			l := startVhostLoad(t, e, vhosttest.LoadOptions{Options: e.machine(p, 2), Depth: 16, ReadPercent: 50,
				FlushEvery: 50, Verify: true, Length: 4 << 20})
			var redialled []time.Duration
			for i := range upgrades(4) {
				l.goesOn(200)
				c.nbdFile = []string{built.nbd2, built.nbd}[i%2]
				e.reconfigure(t, c)
				must(t, e.terminate(endLimit))
				l.spoke.Store(0)
				e.start()
				l.goesOn(200)
				redialled = append(redialled, time.Duration(l.spoke.Load()))
				e.runs("disk", []string{version2, version1}[i%2])
				e.unhurt("disk")
			}
			r := l.end()
			if len(r.Outages) != len(redialled) {
				t.Errorf("%d restarts, %d outages", len(redialled), len(r.Outages))
			}
			t.Logf("from the machine's first message to its first completion: %s", spread(pauses(t, r, redialled)))
		})
	}
}

// pauses gives, in seconds, how long a load has waited from each of the times on.
func pauses(t *testing.T, r *vhosttest.LoadResult, from []time.Duration) (all []float64) {
	t.Helper()
	for _, at := range from {
		g := r.LongestGap(at, at+1)
		if g.Length() == 0 {
			t.Errorf("the load has seen no gap at %v", at)
			continue
		}
		all = append(all, (g.To - at).Seconds())
	}
	return all
}

// TestVhostUpgradeUnderLoad: the plugin is swapped again and again under a
// machine's load, which has no error, loses no connection and reads what it has
// written. How long it waits is told, not judged.
func TestVhostUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), durable, 2)}})
	e.waitUp("disk")
	l := startVhostLoad(t, e, vhosttest.LoadOptions{Options: e.machine(vhosttest.QEMU(), 2), Depth: 16, ReadPercent: 50,
		FlushEvery: 100, Verify: true, Length: 4 << 20})
	windows := map[string][]window{}
	methods := []string{"handover", "second-session", "serial"}
	for range upgrades(4) {
		for _, method := range methods {
			l.goesOn(100)
			file, from := e.otherBuild(), l.Now()
			wantMethod(t, e.upgrade(file, "--method", method), method)
			windows[method] = append(windows[method], window{from, l.Now()})
		}
		from := l.Now()
		time.Sleep(50 * time.Millisecond)
		windows["none"] = append(windows["none"], window{from, l.Now()})
	}
	r := l.end()
	if len(r.Outages) != 0 {
		t.Errorf("%d outages", len(r.Outages))
	}
	e.unhurt("disk")
	for _, method := range append([]string{"none"}, methods...) {
		var gaps []float64
		for _, w := range windows[method] {
			gaps = append(gaps, r.LongestGap(w.from, w.to).Length().Seconds())
		}
		t.Logf("longest gap between completions, upgrade by %s (%d): %s", method, len(gaps), spread(gaps))
	}
}
