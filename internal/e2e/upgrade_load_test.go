package e2e_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// upgrades is how many a load has to bear.
func upgrades(short int) int {
	switch {
	case long:
		return 200
	case raced:
		return max(short/4, 2)
	}
	return short
}

// durable is for volumes that nothing may be lost of: with a connection lost,
// the next flush would fail.
const durable = "timeout = \"60s\"\nfence = \"1s\"\non_lost_cache = \"error\"\n"

// strictServer is a server whose volume is upgraded under load.
type strictServer struct {
	name  string
	image string // the file behind it, "" if there is none
	real  *nbdtest.Real
}

// strictServers are one that allows several connections, one that admits a
// single client, and one that promises nothing.
func strictServers(t *testing.T) []strictServer {
	t.Helper()
	file, qemu, plain := nbdtest.Image(t, diskSize, nil), nbdtest.Image(t, diskSize, nil), nbdtest.Image(t, diskSize, nil)
	return []strictServer{
		{"nbdkit", file, nbdtest.StartNbdkit(t, "file", file)},
		{"qemu-nbd", qemu, nbdtest.StartQemuNBD(t, qemu)},
		{"no multi-conn", plain, nbdtest.StartNbdkit(t, "--filter=multi-conn", "file", plain, "multi-conn-mode=disable")},
	}
}

// TestUpgradeUnderLoad: two builds of the plugin that differ in hash and cookies
// alternate under fio, on every kind of server and by every method that it
// bears, and fio sees no error and no mismatch.
func TestUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	for _, s := range strictServers(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			v := nbdVolume("disk", s.real.Addr(), durable)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{v}})
			e.waitUp("disk")
			n := alternate(t, e, upgrades(20), "handover")
			if s.name == "nbdkit" {
				n += alternate(t, e, upgrades(6), "second-session", "--method", "second-session")
			}
			n += alternate(t, e, upgrades(6), "serial", "--method", "serial")
			e.unhurt("disk")
			if v := e.volume("disk"); v.Generation != n+1 {
				t.Errorf("generation %d after %d upgrades", v.Generation, n)
			}
			if s.name == "qemu-nbd" { // it admits nobody beside the engine
				compare(t, e.uri("disk"), s.image)
			} else {
				compare(t, s.real.URI(""), e.uri("disk"))
			}
		})
	}
}

// TestUpgradeBetweenRuntimes: from a module to what is linked in and back.
func TestUpgradeBetweenRuntimes(t *testing.T) {
	t.Parallel()
	image := nbdtest.Image(t, diskSize, nil)
	e := startEngine(t, config{engine: "reactors = 2",
		volumes: []volume{nbdVolume("disk", nbdtest.StartQemuNBD(t, image).Addr(), durable)}})
	e.waitUp("disk")
	var n atomic.Int64
	underUpgrades(t, e, upgrades(6), func() {
		var steps []step
		if n.Add(1)%2 == 1 {
			o := e.order("upgrade", "nbd", "--builtin", "--watch", "0s")
			if err := o.wait(); err != nil {
				t.Error(err)
			}
			steps = o.steps()
		} else {
			steps = e.upgrade(built.nbd2)
		}
		wantMethod(t, steps, "handover")
	})
	if v, builtin := e.volume("disk"), n.Load()%2 == 1; (v.Hash == "builtin") != builtin {
		t.Errorf("after %d upgrades the volume runs %s", n.Load(), v.Hash)
	}
	e.unhurt("disk")
}

// alternate upgrades n times or a few more under fio and gives the number. It
// logs the pauses that the engine has told of.
func alternate(t *testing.T, e *engine, n int, method string, args ...string) int {
	t.Helper()
	var pauses []float64
	underUpgrades(t, e, n, func() {
		file := built.nbd2
		if e.volume("disk").Version == version2 {
			file = built.nbd
		}
		steps := e.upgrade(file, args...)
		wantMethod(t, steps, method)
		pauses = append(pauses, takeovers(steps)["disk"].Pause)
	})
	t.Logf("%s: %d upgrades, longest pauses: %s", method, len(pauses), spread(pauses))
	return len(pauses)
}

// underUpgrades runs fio, which verifies, until upgrade has been called n times.
func underUpgrades(t *testing.T, e *engine, n int, upgrade func()) {
	t.Helper()
	var done atomic.Int64
	for done.Load() < int64(n) && !t.Failed() {
		underFaults(t, e.uri("disk"), 2*time.Second, 2*time.Millisecond, func(int) {
			if !t.Failed() {
				upgrade()
				done.Add(1)
			}
		})
	}
}

func wantMethod(t *testing.T, steps []step, want string) {
	t.Helper()
	if got := takeovers(steps)["disk"]; got.Method != want && !t.Failed() {
		t.Errorf("taken over by %q, want %s: %+v", got.Method, want, steps)
	}
}

// spread gives the distribution of times in seconds.
func spread(s []float64) string {
	if len(s) == 0 {
		return "none"
	}
	s = slices.Clone(s)
	slices.Sort(s)
	at := func(p int) float64 { return 1e3 * s[(len(s)-1)*p/100] }
	return fmt.Sprintf("p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, max %.1f ms", at(50), at(90), at(99), at(100))
}

// TestUpgradeKeepsTheSocket: a handover is no new connection, and what comes
// after it is the other build's, which numbers its cookies in another way.
func TestUpgradeKeepsTheSocket(t *testing.T) {
	t.Parallel()
	s, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	c := e.dial("disk", nbdtest.Options{})
	conn := 0
	mask := map[uint64]bool{}
	for i, file := range []string{built.nbd, built.nbd2, built.nbd} {
		if i > 0 {
			e.upgrade(file)
		}
		must(t, c.Write(0, random(4096, uint64(i)), 0))
		last := lastWrite(s)
		if i == 0 {
			conn = last.Conn
		}
		if last.Conn != conn {
			t.Errorf("%v went over a new connection", last)
		}
		mask[last.Cookie>>32] = true
	}
	if len(mask) != 2 {
		t.Errorf("two builds, and the halves of cookies %v", mask)
	}
	e.unhurt("disk")
}

func lastWrite(s *nbdtest.Server) (last nbdtest.Record) {
	for _, r := range s.Log() {
		if r.Op == nbdtest.CmdWrite {
			last = r
		}
	}
	return last
}
