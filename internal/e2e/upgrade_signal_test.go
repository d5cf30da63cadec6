package e2e_test

import (
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// interruption is a moment of an upgrade in which the engine is told to end.
type interruption struct {
	phase string
	file  func(t *testing.T) string
	args  []string
	stall bool // the server does not answer, so that the drain goes on and on
}

var interruptions = map[string]interruption{
	"load":     {phase: "load", file: func(t *testing.T) string { return badManifest(t, "not-compiled-yet") }},
	"verify":   {phase: "verify", file: func(*testing.T) string { return built.bad }},
	"takeover": {phase: "takeover", file: second, args: []string{"--drain", "30s"}, stall: true},
	"serial":   {phase: "takeover", file: second, args: []string{"--drain", "30s", "--method", "serial"}, stall: true},
	"watch":    {phase: "watch", file: second, args: []string{"--watch", "1m"}},
}

func second(*testing.T) string { return built.nbd2 }

// begin gives an order and waits until it has come to its moment. The server
// goes on a little later, in which time the engine is told to end.
func (i *interruption) begin(t *testing.T, e *engine, s *nbdtest.Server) *order {
	t.Helper()
	if i.stall {
		release := s.StallReplies()
		defer time.AfterFunc(1500*time.Millisecond, release)
		t.Cleanup(release)
	}
	o := e.order(append([]string{"upgrade", "nbd", i.file(t)}, i.args...)...)
	if !o.waitPhase(i.phase) {
		t.Errorf("the upgrade does not come to phase %s: %s%s", i.phase, o.out.String(), o.log.String())
	}
	time.Sleep(20 * time.Millisecond)
	return o
}

// TestTerminateDuringUpgrade: SIGTERM ends an engine in any phase as it does at
// any other time: with 0, everything answered and flushed.
func TestTerminateDuringUpgrade(t *testing.T) {
	t.Parallel()
	for name, i := range interruptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := onServer(t, "hang-login", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
			m := startModel(t, e, "disk", 4, loadOptions{resend: true, pause: gentle})
			m.goesOn(50)
			o := i.begin(t, e, s)
			if err := e.terminate(endLimit); err != nil {
				t.Errorf("the engine did not end well: %v", err)
			}
			if err := o.wait(); err == nil && i.phase != "watch" {
				t.Errorf("the upgrade is said to have come to its end:\n%s", o.out.String())
			}
			if n := s.Disk("hang-login").Dirty(); n != 0 {
				t.Errorf("%d pages were not flushed", n)
			}
			e.comesBack(s)
			m.goesOn(50)
			m.end()
			if n := m.failures.Load(); n != 0 {
				t.Errorf("%d requests failed", n)
			}
			e.upgrade(built.nbd2)
			e.runs("disk", version2)
		})
	}
}

// comesBack starts an engine that has ended; it runs what the file names.
func (e *engine) comesBack(s *nbdtest.Server) {
	e.t.Helper()
	nbdtest.WaitFor(e.t, "the server to be done with the engine", func() bool { return s.Conns() == 0 })
	e.start()
	e.waitUp("disk")
	e.runs("disk", version1)
}

// TestKillDuringUpgrade: the same with SIGKILL. Clients send again what was not
// answered, and nothing stands in the way of the next upgrade.
func TestKillDuringUpgrade(t *testing.T) {
	t.Parallel()
	for name, i := range interruptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true, // half a request is sent by who is killed
				Exports: []nbdtest.Export{exportOf("hang-login", nbdtest.DefaultFlags)}})
			e := startEngine(t, config{engine: "reactors = 2",
				volumes: []volume{nbdOn("disk", s, "hang-login", trusting("60s", "1s"))}})
			e.waitUp("disk")
			m := startModel(t, e, "disk", 4, loadOptions{resend: true, pause: gentle})
			m.goesOn(50)
			o := i.begin(t, e, s)
			e.kill()
			if err := o.wait(); err == nil {
				t.Errorf("the upgrade is said to have come to its end:\n%s", o.out.String())
			}
			e.comesBack(s)
			m.goesOn(50)
			m.end()
			if n := m.failures.Load(); n != 0 {
				t.Errorf("%d requests failed", n)
			}
			e.upgrade(built.nbd2)
			e.runs("disk", version2)
			t.Logf("\n%s", tell(wantHistory(t, e)))
		})
	}
}
