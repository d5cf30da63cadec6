package e2e_test

import (
	"testing"

	"blockengine/internal/nbdtest"
)

// TestUpgradeWhileAway: a version cannot be tried on a server that is away, and
// need not be: it is the one that goes on when the server comes.
func TestUpgradeWhileAway(t *testing.T) {
	t.Parallel()
	s, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	c := e.dial("disk", nbdtest.Options{})
	must(t, c.Write(0, random(4096, 1), 0))
	must(t, c.Flush())
	s.Kill(nbdtest.FIN)
	e.waitState("disk", "away")
	waiting := goDo(c, nbdtest.Request{Op: nbdtest.CmdWrite, Offset: 8192, Data: random(4096, 2)})
	e.upgrade(built.nbd2)
	e.runs("disk", version2)
	if waiting.answered() {
		t.Errorf("a write was answered without a server: %v", waiting.wait())
	}
	s.Listen()
	must(t, waiting.wait())
	mustRead(t, c, 0, random(4096, 1))
	mustRead(t, c, 8192, random(4096, 2))
	must(t, c.Flush())
	e.rollback()
	e.runs("disk", version1)
	mustRead(t, c, 8192, random(4096, 2))
}

// TestUpgradeBeforeTheFirstLogin: the server has never been there.
func TestUpgradeBeforeTheFirstLogin(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	s.StopListening()
	e := startEngine(t, config{volumes: []volume{nbdVolume("disk", s.Addr(), durable)}})
	e.upgrade(built.nbd2)
	s.Listen()
	e.waitUp("disk")
	e.runs("disk", version2)
	must(t, e.dial("disk", nbdtest.Options{}).Write(0, random(4096, 1), 0))
}

// TestUpgradeMends: the version that the file names traps at every login. A good
// one is what helps.
func TestUpgradeMends(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"trap-login", "fail-login", "hang-login"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true, // who gives up a login may leave without a word
				Exports: []nbdtest.Export{exportOf(fault, nbdtest.DefaultFlags)}})
			e := startEngine(t, config{nbdFile: built.bad, volumes: []volume{nbdOn("disk", s, fault, durable)}})
			if v := e.volume("disk"); v.State == "online" {
				t.Fatalf("%+v", v)
			}
			e.upgrade(built.nbd)
			e.waitUp("disk")
			e.runs("disk", version1)
			c := e.dial("disk", nbdtest.Options{})
			must(t, c.Write(0, random(4096, 1), 0))
			mustRead(t, c, 0, random(4096, 1))
		})
	}
}
