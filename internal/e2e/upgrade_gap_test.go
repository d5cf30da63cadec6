package e2e_test

import (
	"context"
	"testing"
	"time"

	"blockengine/internal/nbdload"
	"blockengine/internal/nbdtest"
)

// TestUpgradeGaps: a client with 32 requests under way on each of two
// connections, which checks every block that it reads, bears upgrades by every
// method. How long it waits is told, not judged: that is the benchmark's.
func TestUpgradeGaps(t *testing.T) {
	for _, s := range strictServers(t) {
		t.Run(s.name, func(t *testing.T) {
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.real.Addr(), durable)}})
			e.waitUp("disk")
			load, err := nbdload.Start(context.Background(), nbdload.Options{Network: "unix", Addr: e.socket, Export: "disk",
				Connections: 2, ReadPercent: 60, FlushEvery: 200, Length: 8 << 20, Run: 5 * time.Minute, Timeout: time.Minute})
			must(t, err)
			ways := []string{"handover", "serial"}
			if s.name == "nbdkit" {
				ways = []string{"handover", "second-session", "serial"}
			}
			windows := map[string][]window{}
			for range max(upgrades(20)/10, 1) {
				for _, method := range ways {
					for _, file := range []string{built.nbd2, built.nbd} {
						windows["none"] = append(windows["none"], during(load, func() { time.Sleep(100 * time.Millisecond) }))
						windows[method] = append(windows[method], during(load, func() {
							wantMethod(t, e.upgrade(file, "--method", method), method)
						}))
					}
				}
			}
			goesOn(t, load, 100)
			r, err := load.Stop()
			if err != nil || r.Bad() != nil {
				t.Errorf("the load: %v, %v, %d requests", err, r.Bad(), r.Completed())
			}
			e.unhurt("disk")
			for _, method := range append([]string{"none"}, ways...) {
				var gaps []float64
				for _, w := range windows[method] {
					gaps = append(gaps, r.Gap(w.from, w.to).Seconds())
				}
				t.Logf("longest gap between completions, upgrade by %s (%d): %s", method, len(gaps), spread(gaps))
			}
		})
	}
}

// goesOn waits until a load has done n more requests.
func goesOn(t *testing.T, l *nbdload.Load, n uint64) {
	t.Helper()
	n += l.Progress().Completed
	nbdtest.WaitFor(t, "the load to go on", func() bool {
		select {
		case <-l.Done(): // too early: Stop tells why
			return true
		default:
			return l.Progress().Completed >= n
		}
	})
}

// window is a time on a load's clock.
type window struct{ from, to time.Duration }

func during(l *nbdload.Load, f func()) window {
	from := l.Now()
	f()
	return window{from, l.Now()}
}
