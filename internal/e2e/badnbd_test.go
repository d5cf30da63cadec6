package e2e_test

import (
	"testing"

	"blockengine/internal/nbdtest"
)

// TestBadNBDWithoutFault: the plugin that the bad versions are made of is well on
// an export whose name is no fault, and so is its thousandth request.
func TestBadNBDWithoutFault(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	e := startEngine(t, config{nbdFile: built.bad, volumes: []volume{nbdVolume("disk", s.Addr(), durable)}})
	m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
	m.goesOn(1500)
	m.end()
	e.runs("disk", versionBad)
	e.unhurt("disk")
}
