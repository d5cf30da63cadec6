package e2e_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// historyLoad loads a disk with overlapping requests, whose history is judged as
// registers, and sometimes flushes.
func historyLoad(t *testing.T, e *engine, p *vhosttest.Personality) (*vhostLoad, *blockHistory) {
	t.Helper()
	h := &blockHistory{Recorder: nbdtest.NewRecorder(modelBlock, rand.Uint64()), pause: 300 * time.Microsecond}
	l := startVhostLoad(t, e, vhosttest.LoadOptions{Options: e.machine(p, 2), Depth: 8, BlockSize: modelBlock, ReadPercent: 50,
		FlushEvery: 40, Length: 2 * 64 * modelBlock, History: h, Seed: rand.Uint64()})
	return l, h
}

// TestVhostRandomKills: the engine is killed with SIGKILL at any moment and
// started again, and the history of what the machine has read and written is that
// of a disk.
func TestVhostRandomKills(t *testing.T) {
	t.Parallel()
	rounds, kills := 2, 25
	if long {
		rounds = 40
	} else if raced {
		kills = 8
	}
	for round := range rounds {
		p := recovering()[round%2]
		t.Run(fmt.Sprintf("%s/%d", p.Name, round), func(t *testing.T) {
			t.Parallel()
			s := diskServer(t)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), noFence, 2)}})
			e.waitUp("disk")
			l, h := historyLoad(t, e, p)
			for range kills {
				time.Sleep(rand.N(60 * time.Millisecond))
				e.killed(t, s)
				e.start()
				l.goesOn(uint64(rand.IntN(40)))
			}
			r := l.end()
			h.MustCheck(t)
			if len(r.Outages) < kills/2 {
				t.Errorf("%d kills, and %d outages", kills, len(r.Outages))
			}
		})
	}
}

// TestVhostEverythingAtOnce: in one run the server loses its connections or dies,
// the plugin is swapped and the engine is killed, mixed at random, and the
// machine has no error and reads what a disk would give.
func TestVhostEverythingAtOnce(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T) mixed{
		"connections": scriptedMix, "nbdkit": nbdkitMix, "nbdkit one by one": nbdkitOneByOne} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := make(t)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(m.addr, trusting("60s", m.fence), 2)}})
			e.waitUp("disk")
			l, judge := m.load(t, e)
			c := mayhem{t: t, e: e, l: l, m: m}
			c.run(loadTime(3 * time.Second))
			l.end()
			judge()
			t.Logf("%d engines killed, %d faults of the server, %d upgrades and %d that were refused", c.kills, c.faults, c.upgrades, c.refused)
			e.waitState("disk", "online")
			if v := e.volume("disk"); len(v.Errors) != 0 {
				t.Errorf("requests failed: %v", v.Errors)
			}
		})
	}
}

// mixed is a server for a mayhem.
type mixed struct {
	addr  string
	fence string // for how long it holds what it has of a connection that has ended
	// whole: requests that overlap are carried out one after the other, and
	// answered in that order. So blocks are registers, over a replay too: what a
	// write has left that is sent again was seen by nobody who then saw a newer
	// write's.
	whole bool
	fault func()
	quiet func() // waits until nothing is left of a dead engine
}

// load is the hardest one that the server's promises allow to judge.
func (m *mixed) load(t *testing.T, e *engine) (l *vhostLoad, judge func()) {
	t.Helper()
	p := recovering()[rand.IntN(2)]
	if m.whole {
		l, h := historyLoad(t, e, p)
		return l, func() { t.Helper(); h.MustCheck(t) }
	}
	l = startVhostLoad(t, e, vhosttest.LoadOptions{Options: e.machine(p, 2), Depth: 8, ReadPercent: 50,
		FlushEvery: 40, Verify: true, Length: 2 * 64 * blockSize, Seed: rand.Uint64()})
	return l, func() {}
}

// scriptedMix is a server whose connections end. It lives on, and holds nothing
// for longer than it takes to carry out.
func scriptedMix(t *testing.T) mixed {
	s := diskServer(t)
	return mixed{addr: s.Addr(), fence: "100ms", whole: true,
		fault: func() { s.KillAll([]nbdtest.Ending{nbdtest.FIN, nbdtest.RST}[rand.IntN(2)]) },
		quiet: func() { forgotten(t, s) }}
}

// nbdkitMix is a stock server, which is killed. What is gone holds nothing; what
// it had written is in the page cache. It carries out requests side by side, and
// a page cache moves bytes under a read that is on its way: a read that overlaps
// a write may give half of it. So here none does, and all reads are exact.
func nbdkitMix(t *testing.T) mixed {
	return killedMix(nbdtest.StartNbdkit(t, "file", nbdtest.Image(t, 16<<20, nil)))
}

// nbdkitOneByOne is the same with one request at a time, of all connections.
func nbdkitOneByOne(t *testing.T) mixed {
	m := killedMix(nbdtest.StartNbdkit(t, "--filter=noparallel", "file", nbdtest.Image(t, 16<<20, nil), "serialize=all-requests"))
	m.whole = true
	return m
}

func killedMix(s *nbdtest.Real) mixed {
	kill := func() { s.Kill(); s.Restart() }
	return mixed{addr: s.Addr(), fence: "0s", fault: kill, quiet: kill}
}

// mayhem does things to an engine and its server.
type mayhem struct {
	t *testing.T
	e *engine
	l *vhostLoad
	m mixed

	kills, faults, upgrades, refused int
}

// run does each of them at least once.
func (c *mayhem) run(total time.Duration) {
	end := time.Now().Add(total)
	for round := 0; (round == 0 || time.Now().Before(end)) && !c.t.Failed(); round++ {
		for _, what := range rand.Perm(4) {
			time.Sleep(rand.N(150 * time.Millisecond))
			c.do(what)
			c.l.ended()
		}
	}
}

func (c *mayhem) do(what int) {
	switch what {
	case 0:
		c.kill()
	case 1:
		c.m.fault()
		c.faults++
	case 2: // an upgrade may find the server away, and be refused
		if _, err := c.e.tryUpgrade(c.e.otherBuild()); err == nil {
			c.upgrades++
		} else {
			c.refused++
		}
	case 3: // all at once
		c.together()
	}
}

// kill kills the engine. The next one serves as soon as it can.
func (c *mayhem) kill() {
	c.e.kill()
	died(c.t, c.e.process)
	c.m.quiet()
	c.e.start()
	c.kills++
	c.e.waitUp("disk")
}

// together has an upgrade, a fault of the server and the death of the engine
// overlap.
func (c *mayhem) together() {
	o := c.e.order("upgrade", "nbd", c.e.otherBuild(), "--watch", "0s")
	var both sync.WaitGroup
	both.Go(func() { time.Sleep(rand.N(30 * time.Millisecond)); c.m.fault() })
	time.Sleep(rand.N(60 * time.Millisecond))
	both.Wait()
	c.faults++
	c.kill()
	_ = o.wait() // it may have been carried out, or have lost its engine
}

// TestVhostServerAway: the engine is killed while its server is away, and the
// next one has to wait for it with what was in flight.
func TestVhostServerAway(t *testing.T) {
	t.Parallel()
	s := diskServer(t)
	e := startEngine(t, config{volumes: []volume{machineDisk(s.Addr(), noFence, 1)}})
	e.waitUp("disk")
	f := e.openMachine(e.machine(vhosttest.QEMU(), 1))
	d := f.Driver(0)
	defer d.Close()
	d.Timeout = vhostLimit
	s.StopListening()
	s.KillAll(nbdtest.FIN)
	e.waitVolume("disk", "away", func(v admin.Volume) bool { return v.State != "online" })
	var ios []*vhosttest.IO
	for i := range uint64(20) {
		ios = append(ios, &vhosttest.IO{Op: vhosttest.OpOut, Sector: 8 * i, Data: random(blockSize, i)})
	}
	must(t, d.Submit(ios...))
	e.killed(t, s)
	e.start() // its export comes up with the server
	s.Listen()
	redial(t, f)
	must(t, d.Wait(ios...))
	for i, io := range ios {
		must(t, io.Err())
		got, err := d.Read(io.Sector, blockSize)
		must(t, err)
		if !bytes.Equal(got, random(blockSize, uint64(i))) {
			t.Errorf("sector %d does not hold what was written", io.Sector)
		}
	}
}

// TestVhostWithoutInflight: monitors that keep no in-flight region, and do not
// redial by themselves; here they are made to. The used index alone tells the
// next engine where to go on, which says all if there is one request at a time,
// or if nothing is outstanding, as after SIGTERM.
func TestVhostWithoutInflight(t *testing.T) {
	t.Parallel()
	for _, p := range []*vhosttest.Personality{vhosttest.Crosvm(), vhosttest.Firecracker()} {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			s := diskServer(t)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), noFence, 1)}})
			e.waitUp("disk")
			t.Run("killed at depth 1", func(t *testing.T) {
				withoutInflight(t, e, p, 1, func() { e.killed(t, s); e.start() })
			})
			t.Run("stopped at depth 16", func(t *testing.T) {
				withoutInflight(t, e, p, 16, func() { must(t, e.terminate(endLimit)); e.start() })
			})
			t.Run("killed when idle", func(t *testing.T) { killedIdle(t, e, s, p) })
		})
	}
}

func withoutInflight(t *testing.T, e *engine, p *vhosttest.Personality, depth int, replace func()) {
	t.Helper()
	l := startVhostLoad(t, e, vhosttest.LoadOptions{Options: e.machine(p, 1), Depth: depth, ReadPercent: 50,
		FlushEvery: 20, Verify: true, Length: uint64(6 * depth * blockSize)})
	for range upgrades(3) {
		l.goesOn(50)
		replace()
	}
	l.goesOn(50)
	l.end()
}

// killedIdle has requests done at any depth and in any order, then kills the
// engine.
func killedIdle(t *testing.T, e *engine, s *nbdtest.Server, p *vhosttest.Personality) {
	t.Helper()
	f := e.openMachine(e.machine(p, 1))
	d := f.Driver(0)
	defer d.Close()
	d.Timeout = vhostLimit
	for life := range uint64(3) {
		var ios []*vhosttest.IO
		for i := range uint64(30) {
			ios = append(ios, &vhosttest.IO{Op: vhosttest.OpOut, Sector: 8 * i, Data: random(blockSize, 100*life+i)})
		}
		must(t, d.Submit(ios...))
		must(t, d.Wait(ios...))
		e.killed(t, s)
		e.start()
		redial(t, f)
		for _, io := range slices.Backward(ios) {
			must(t, io.Err())
			got, err := d.Read(io.Sector, blockSize)
			must(t, err)
			if !bytes.Equal(got, io.Data) {
				t.Fatalf("sector %d does not hold what was written", io.Sector)
			}
		}
	}
	f.Hangup()
}
