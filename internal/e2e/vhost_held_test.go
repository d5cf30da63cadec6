package e2e_test

import (
	"bytes"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// heldFence is longer than it takes to start an engine and see what it does
// before the fence.
const heldFence = "6s"

// TestVhostHeldWrite is rule 1 over the death of an engine: the server holds
// write A, the engine is killed, the next one sends A again, and the machine
// writes B over it when A is done. The held copy of A lands then, unless B waits
// for the fence; and it must not come back over B.
func TestVhostHeldWrite(t *testing.T) {
	for name, c := range map[string]struct {
		closeAtOnce bool // the server ends the connection of the held write
		deaths      int  // so many copies of A are held
	}{
		"the engine is killed":     {deaths: 1},
		"the server closes before": {closeAtOnce: true, deaths: 1},
		"two engines are killed":   {deaths: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := diskServer(t)
			held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), c.deaths, c.closeAtOnce, nbdtest.FIN)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), trusting("30s", heldFence), 1)}})
			e.waitUp("disk")
			m := newHeldMachine(t, e)
			must(t, m.d.Submit(m.a))
			for n := range c.deaths {
				held.Wait(t, n+1)
				e.kill()
				died(t, e.process)
				e.start()
				redial(t, m.f)
			}
			m.overwrite()
			must(t, m.d.Write(4096, m.b.Data)) // what does not overlap goes on
			held.Release()
			m.judge()
		})
	}
}

// heldMachine is a machine with a write A, and B that overlaps it.
type heldMachine struct {
	t    *testing.T
	f    *vhosttest.Frontend
	d    *vhosttest.Driver
	a, b *vhosttest.IO
	made bool // B was submitted
}

func newHeldMachine(t *testing.T, e *engine) *heldMachine {
	t.Helper()
	f := e.openMachine(e.machine(vhosttest.QEMU(), 1))
	m := &heldMachine{t: t, f: f, d: f.Driver(0),
		a: &vhosttest.IO{Op: vhosttest.OpOut, Data: bytes.Repeat([]byte{'A'}, 8192)},
		b: &vhosttest.IO{Op: vhosttest.OpOut, Sector: 4, Data: bytes.Repeat([]byte{'B'}, 4096)}}
	m.d.Timeout = vhostLimit
	t.Cleanup(m.d.Close)
	return m
}

// overwrite writes B as soon as A is done, and returns when B is done too, or
// when so much time has passed that they wait for the fence, which is not over.
func (m *heldMachine) overwrite() {
	m.t.Helper()
	for end := time.Now().Add(time.Second); time.Now().Before(end) && !m.b.Done; time.Sleep(time.Millisecond) {
		_, err := m.d.Collect()
		must(m.t, err)
		if m.a.Done && !m.made {
			m.submitB()
		}
	}
}

func (m *heldMachine) submitB() {
	m.made = true
	must(m.t, m.d.Submit(m.b))
}

// judge waits for both and wants B to lie over A.
func (m *heldMachine) judge() {
	m.t.Helper()
	must(m.t, m.d.Wait(m.a))
	if !m.made {
		m.submitB()
	}
	must(m.t, m.d.Wait(m.b))
	must(m.t, m.a.Err())
	must(m.t, m.b.Err())
	got, err := m.d.Read(0, 8192)
	must(m.t, err)
	want := bytes.Repeat([]byte{'A'}, 8192)
	copy(want[2048:], m.b.Data)
	if i := differ(got, want); i >= 0 {
		m.t.Errorf("byte %d is %q, want %q: the dead engine's write has come back", i, got[i], want[i])
	}
}
