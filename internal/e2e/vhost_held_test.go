package e2e_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// heldLook is how long it is looked what an engine does before the fence is over.
const heldLook = 500 * time.Millisecond

// heldFence is much longer than it takes to start an engine, which took as long as
// start, and to look for heldLook.
func heldFence(start time.Duration) time.Duration {
	return 8*heldLook + 8*start.Round(100*time.Millisecond)
}

// TestVhostHeldWrite is rule 1 over the death of an engine: the server holds
// write A, the engine is killed, and as soon as the next one says that A is done
// the machine writes B over it. The held copy of A lands when B is done, or when
// it is clear that they wait for the fence, and must not come over B. An engine
// that has said before its time that A is done could not be mended by the one
// after it, which finds nothing in flight.
func TestVhostHeldWrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		closeAtOnce bool // the server ends the connection of the held write
		deaths      int
	}{
		"the engine is killed":     {deaths: 1},
		"the server closes before": {closeAtOnce: true, deaths: 1},
		"two engines are killed":   {deaths: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := heldServer(t)
			held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, c.closeAtOnce, nbdtest.FIN)
			m := newHeldMachine(t, e)
			must(t, m.d.Submit(m.a))
			held.Wait(t, 1)
			m.replaceEngine()
			for range c.deaths - 1 {
				m.look(m.a)
				m.replaceEngine()
			}
			must(t, m.d.Write(4096, m.b.Data)) // what does not overlap goes on
			m.overwrite(held)
		})
	}
}

// TestVhostHeldPair: A and B overlap and were in flight together; the server has
// carried out B and holds A when the engine is killed. Either may lie on top, but
// when both are done it stays there.
func TestVhostHeldPair(t *testing.T) {
	t.Parallel()
	s, e := heldServer(t)
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	m := newHeldMachine(t, e)
	release := s.StallReplies()
	must(t, m.d.Submit(m.a, m.b))
	nbdtest.WaitFor(t, "both to come", func() bool { return s.Count(nbdtest.Op(nbdtest.CmdWrite)) == 2 })
	e.kill()
	release()
	m.nextEngine()
	if !m.look(m.a, m.b) {
		held.Release()
		must(t, m.d.Wait(m.a, m.b))
	}
	before, err := m.d.Read(0, len(m.a.Data))
	must(t, err)
	held.Release()
	after, err := m.d.Read(0, len(m.a.Data))
	must(t, err)
	if i := differ(before, after); i >= 0 {
		t.Errorf("byte %d was %q and is %q, and nobody has written", i, before[i], after[i])
	}
}

func heldServer(t *testing.T) (*nbdtest.Server, *engine) {
	t.Helper()
	s := diskServer(t)
	c := config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), trusting("120s", "1s"), 1)}}
	begin := time.Now()
	e := startEngine(t, c)
	e.waitUp("disk")
	c.volumes[0].more = trusting("120s", heldFence(time.Since(begin)).String())
	e.reconfigure(t, c) // for the engines that come after this one
	return s, e
}

// heldMachine is a machine with a write A, and B that overlaps it.
type heldMachine struct {
	t    *testing.T
	e    *engine
	f    *vhosttest.Frontend
	d    *vhosttest.Driver
	a, b *vhosttest.IO
}

func newHeldMachine(t *testing.T, e *engine) *heldMachine {
	t.Helper()
	f := e.openMachine(e.machine(vhosttest.QEMU(), 1))
	m := &heldMachine{t: t, e: e, f: f, d: f.Driver(0),
		a: &vhosttest.IO{Op: vhosttest.OpOut, Data: bytes.Repeat([]byte{'A'}, 8192)},
		b: &vhosttest.IO{Op: vhosttest.OpOut, Sector: 4, Data: bytes.Repeat([]byte{'B'}, 4096)}}
	m.d.Timeout = vhostLimit
	t.Cleanup(m.d.Close)
	return m
}

func (m *heldMachine) replaceEngine() {
	m.t.Helper()
	m.e.kill()
	m.nextEngine()
}

// nextEngine starts an engine where another one was killed.
func (m *heldMachine) nextEngine() {
	m.t.Helper()
	died(m.t, m.e.process)
	m.e.start()
	redial(m.t, m.f)
}

// look waits for requests, for a time in which the fence is not over, and says
// whether they are done.
func (m *heldMachine) look(ios ...*vhosttest.IO) bool {
	m.t.Helper()
	done := func(io *vhosttest.IO) bool { return io.Done }
	for end := time.Now().Add(heldLook); time.Now().Before(end); time.Sleep(time.Millisecond) {
		_, err := m.d.Collect()
		must(m.t, err)
		if all(ios, done) {
			return true
		}
	}
	return all(ios, done)
}

func all[T any](of []T, is func(T) bool) bool {
	return !slices.ContainsFunc(of, func(one T) bool { return !is(one) })
}

// overwrite writes B when A is done, has the held copy of A land when B is done
// or it is clear that one of them waits for the fence, and wants B to lie over A.
func (m *heldMachine) overwrite(held *nbdtest.Held) {
	m.t.Helper()
	early := m.look(m.a)
	if early {
		must(m.t, m.d.Submit(m.b))
		m.look(m.b)
	}
	held.Release()
	must(m.t, m.d.Wait(m.a))
	if !early {
		must(m.t, m.d.Submit(m.b))
	}
	must(m.t, m.d.Wait(m.b))
	must(m.t, m.a.Err())
	must(m.t, m.b.Err())
	got, err := m.d.Read(0, len(m.a.Data))
	must(m.t, err)
	want := bytes.Clone(m.a.Data)
	copy(want[m.b.Sector*vhosttest.SectorSize:], m.b.Data)
	if i := differ(got, want); i >= 0 {
		m.t.Errorf("byte %d is %q, want %q: the dead engine's write has come back", i, got[i], want[i])
	}
}
