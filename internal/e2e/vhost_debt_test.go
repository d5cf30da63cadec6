package e2e_test

import (
	"bytes"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// TestVhostHeldWriteAcknowledged: as TestVhostHeldWrite, but the engine that has
// sent A again, and had it acknowledged, is killed too before its fence is over.
// Nothing is in flight then; the first engine's copy is still on the server.
func TestVhostHeldWriteAcknowledged(t *testing.T) {
	s := diskServer(t)
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), trusting("30s", heldFence), 1)}})
	e.waitUp("disk")
	m := newHeldMachine(t, e)
	must(t, m.d.Submit(m.a))
	held.Wait(t, 1)
	for life := range 2 {
		if life == 1 { // until A is done, or waits for the fence
			for end := time.Now().Add(time.Second); time.Now().Before(end) && !m.a.Done; time.Sleep(time.Millisecond) {
				_, err := m.d.Collect()
				must(t, err)
			}
		}
		e.kill()
		died(t, e.process)
		e.start()
		redial(t, m.f)
	}
	m.overwrite()
	held.Release()
	m.judge()
}

// TestVhostHeldPair: two overlapping writes were in flight together, and one is
// held. Whichever lies on top when both are done must stay there.
func TestVhostHeldPair(t *testing.T) {
	s := diskServer(t)
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	stalled := s.StallReplies()
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), trusting("30s", heldFence), 1)}})
	nbdtest.WaitFor(t, "x", func() bool { stalled(); return true })
	e.waitUp("disk")
	m := newHeldMachine(t, e)
	stalled = s.StallReplies()
	m.made = true
	must(t, m.d.Submit(m.a, m.b))
	nbdtest.WaitFor(t, "both to come", func() bool { return s.Count(nbdtest.Op(nbdtest.CmdWrite)) == 2 })
	e.kill()
	died(t, e.process)
	stalled()
	e.start()
	redial(t, m.f)
	for end := time.Now().Add(time.Second); time.Now().Before(end) && !(m.a.Done && m.b.Done); time.Sleep(time.Millisecond) {
		_, err := m.d.Collect()
		must(t, err)
	}
	if m.a.Done && m.b.Done {
		before, err := m.d.Read(0, 8192)
		must(t, err)
		held.Release()
		after, err := m.d.Read(0, 8192)
		must(t, err)
		if !bytes.Equal(before, after) {
			t.Error("what was read has changed by itself")
		}
		return
	}
	held.Release()
	must(t, m.d.Wait(m.a, m.b))
}

var _ = vhosttest.OpOut
