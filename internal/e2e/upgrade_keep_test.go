package e2e_test

import (
	"os"
	"strings"
	"testing"

	"blockengine/internal/nbdtest"
)

// onTwo starts an engine with two volumes, disk and other, each on a server of
// its own, under load. built.bad has the fault on both.
func onTwo(t *testing.T, fault, more string) (e *engine, end func()) {
	t.Helper()
	c := config{engine: "reactors = 2"}
	for _, name := range []string{"disk", "other"} {
		s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{exportOf(fault, nbdtest.DefaultFlags)}})
		c.volumes = append(c.volumes, nbdOn(name, s, fault, more))
	}
	e = startEngine(t, c)
	var loads []*modelLoad
	for _, name := range []string{"disk", "other"} {
		e.waitUp(name)
		loads = append(loads, startModel(t, e, name, 2, loadOptions{pause: gentle}))
	}
	return e, func() {
		for _, m := range loads {
			m.end()
			if n := m.failures.Load(); n != 0 {
				t.Errorf("%d requests of %s failed", n, m.export)
			}
			if fault == "slow" || m.export == "other" { // a trap loses disk's connections
				e.unhurt(m.export)
			}
		}
	}
}

// TestCanary: one volume goes first, then the rest, then both go back.
func TestCanary(t *testing.T) {
	t.Parallel()
	e, end := onTwo(t, "slow", durable)
	e.upgrade(built.nbd2, "--volume", "disk")
	e.runs("disk", version2)
	e.runs("other", version1)
	p := e.plugin("nbd")
	if p.Canary == nil || p.Canary.Version != version2 || strings.Join(p.Canary.Volumes, ",") != "disk" ||
		p.Version != version1 || strings.Join(p.Volumes, ",") != "other" {
		t.Errorf("status does not tell of the canary: %+v, canary %+v", p, p.Canary)
	}
	for _, g := range p.History {
		if g.Version == version2 && strings.Join(g.Volumes, ",") != "disk" {
			t.Errorf("the history does not say for which volume: %+v", g)
		}
	}

	e.upgrade(built.nbd2)
	e.runs("disk", version2)
	e.runs("other", version2)
	if p := e.plugin("nbd"); p.Canary != nil || p.Version != version2 || len(p.Volumes) != 2 {
		t.Errorf("after the rest: %+v, canary %+v", p, p.Canary)
	}

	e.rollback()
	e.runs("disk", version1)
	e.runs("other", version1)
	end()
}

// TestCanaryGoesBack: the rest has never seen the version.
func TestCanaryGoesBack(t *testing.T) {
	t.Parallel()
	e, end := onTwo(t, "slow", durable)
	other := e.volume("other").Generation
	e.upgrade(built.nbd2, "--volume", "disk")
	e.rollback("--volume", "disk")
	e.runs("disk", version1)
	if v := e.runs("other", version1); v.Generation != other {
		t.Errorf("volume other went from generation %d to %d", other, v.Generation)
	}
	if p := e.plugin("nbd"); p.Canary != nil || p.Version != version1 {
		t.Errorf("status: %+v, canary %+v", p, p.Canary)
	}
	end()
}

// TestBadCanary: a version that goes wrong on one volume is taken off that one,
// and costs the other nothing.
func TestBadCanary(t *testing.T) {
	t.Parallel()
	e, end := onTwo(t, "trap-thousandth", trusting("60s", "1s"))
	o := e.order("upgrade", "nbd", built.bad, "--volume", "disk", "--watch", "15s")
	if err := o.wait(); err == nil {
		t.Errorf("the bad version was kept:\n%s", o.out.String())
	}
	e.runs("disk", version1)
	e.runs("other", version1)
	end()
}

// restart ends the engine in order and starts it again.
func (e *engine) restart() {
	e.t.Helper()
	must(e.t, e.terminate(endLimit))
	e.start()
	e.waitUp("disk")
}

// TestHistoryIsKept over restarts, and generations are numbered on.
func TestHistoryIsKept(t *testing.T) {
	t.Parallel()
	_, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	e.upgrade(built.nbd2)
	e.rollback()
	before := wantHistory(t, e)
	if len(before) != 3 {
		t.Errorf("after an upgrade and a rollback:\n%s", tell(before))
	}
	e.restart()
	after := wantHistory(t, e)
	if len(after) < len(before) {
		t.Fatalf("the history was forgotten:\n%s", tell(after))
	}
	for i, g := range before {
		if a := after[i]; a.Version != g.Version || a.Hash != g.Hash || !a.Since.Equal(g.Since) {
			t.Errorf("the history says %+v, and said %+v", a, g)
		}
	}
	e.upgrade(built.nbd2)
	t.Logf("\n%s", tell(wantHistory(t, e)))
}

// TestUpgradeIsNotKept: engine.toml says what a restart loads, and until then
// status tells that something else runs.
func TestUpgradeIsNotKept(t *testing.T) {
	t.Parallel()
	_, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	before, err := os.ReadFile(e.file)
	must(t, err)
	if p := e.plugin("nbd"); p.Differs != "" {
		t.Errorf("at the start: %+v", p)
	}
	e.upgrade(built.nbd2)
	if p := e.plugin("nbd"); p.Differs == "" || p.DropIn != "" {
		t.Errorf("status does not say that what runs is not what the file names: %+v", p)
	} else {
		t.Log(p.Differs)
	}
	e.restart()
	e.runs("disk", version1)
	if p := e.plugin("nbd"); p.Differs != "" {
		t.Errorf("after the restart: %+v", p)
	}
	if after, err := os.ReadFile(e.file); err != nil || string(after) != string(before) {
		t.Errorf("engine.toml was rewritten: %v", err)
	}
}

// TestUpgradeIsKept, with --save, until engine.toml itself says something else.
func TestUpgradeIsKept(t *testing.T) {
	t.Parallel()
	_, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	e.upgrade(built.nbd2, "--save")
	e.restart()
	e.runs("disk", version2)
	p := e.plugin("nbd")
	if p.DropIn == "" || p.Differs == "" {
		t.Errorf("status does not tell of the drop-in: %+v", p)
	}
	text, err := os.ReadFile(e.file)
	must(t, err)
	edited := strings.Replace(string(text), built.nbd, built.nbd+"\"\nsha256 = \""+hashOf(t, built.nbd), 1)
	must(t, os.WriteFile(e.file, []byte(edited), 0o600))
	must(t, e.terminate(endLimit))
	e.start()
	e.waitUp("disk")
	e.runs("disk", version1)
	if said := e.log.String() + e.out.String(); !strings.Contains(said, p.DropIn) {
		t.Errorf("nothing is said of the drop-in that has no use any more:\n%s", said)
	}
}

// TestRollbackIsKept: the way back from a version that was saved.
func TestRollbackIsKept(t *testing.T) {
	t.Parallel()
	_, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	e.upgrade(built.nbd2, "--save")
	e.rollback("--save")
	e.restart()
	e.runs("disk", version1)
	if p := e.plugin("nbd"); p.Differs != "" {
		t.Errorf("after the restart: %+v", p)
	}
}
