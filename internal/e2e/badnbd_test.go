package e2e_test

import (
	"testing"

	"blockengine/internal/nbdtest"
)

// TestBadNBDWithoutFault: the plugin that the bad versions are made of is well
// as long as no fault is written into it, and so is its thousandth request.
func TestBadNBDWithoutFault(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	e := startEngine(t, config{nbdFile: badNBD(t, ""), volumes: []volume{nbdVolume("disk", s.Addr(), durable)}})
	m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
	nbdtest.WaitFor(t, "a load", func() bool { return m.ops.Load() > 1500 || t.Failed() })
	m.end()
	e.runs("disk", "bad-")
	e.unhurt("disk")
}
