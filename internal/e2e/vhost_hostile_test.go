package e2e_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"blockengine/internal/vhosttest"
)

// TestVhostHostileMachines: whatever a front-end says or a guest writes into its
// memory, the engine lives, the machine beside it notices nothing, and the
// export serves the next one.
func TestVhostHostileMachines(t *testing.T) {
	s := diskServer(t)
	beside := nbdVolume("beside", s.Addr(), durable)
	beside.vhost = 1
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), durable, 2), beside}})
	e.waitUp("disk")
	e.waitUp("beside")
	o := e.machine(vhosttest.CloudHypervisor(), 1)
	o.Socket = e.vhost("beside")
	// Far from what the others write.
	l := startVhostLoad(t, e, vhosttest.LoadOptions{Options: o, Depth: 2, ReadPercent: 50, FlushEvery: 20, Verify: true,
		Offset: 8 << 20, Length: 1 << 20})

	for _, m := range append(vhosttest.BadMessages(), vhosttest.BadRings()...) {
		misbehaveOnce(t, e, m)
		l.ended()
	}
	l.goesOn(20)
	if r := l.end(); len(r.Outages) != 0 {
		t.Errorf("the machine beside has seen %d outages", len(r.Outages))
	}
	e.unhurt("beside")
	// Requests whose memory was taken away have failed; nobody else's.
	if v := e.volume("disk"); v.State != "online" || v.Session.Losses+v.Session.Violations != 0 {
		t.Errorf("volume disk is %s (%s), %+v", v.State, v.Reason, *v.Session)
	}
	d := e.openMachine(e.machine(vhosttest.QEMU(), 2)).Driver(1)
	defer d.Close()
	want := random(64<<10, 5)
	must(t, d.Write(128, want))
	must(t, d.Flush())
	got, err := d.Read(128, len(want))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("what was written is not there")
	}
}

// waits are misdeeds that could end a connection, and here are waited out: what
// a ring needs may come in any order.
var waits = map[string]bool{"order: addresses before memory": true}

func misbehaveOnce(t *testing.T, e *engine, m *vhosttest.Misdeed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
	defer cancel()
	o := e.machine(nil, 2)
	o.Timeout = 20 * time.Second
	out, err := m.Commit(ctx, o)
	ended := out.Closed || out.Refused != nil || out.Left
	switch {
	case err != nil:
		t.Errorf("%s: %v", m.Name, err)
	case m.Legal && ended && !out.Left:
		t.Errorf("%s: legal, but %+v", m.Name, out)
	case m.Fatal && !ended && !waits[m.Name]:
		t.Errorf("%s: nothing has come of it", m.Name)
	}
}
