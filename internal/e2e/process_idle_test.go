package e2e_test

import (
	"syscall"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// TestIdleProcessKilled: a protocol plugin's process that dies while nothing is
// asked of it is missed at once: the volume is connected again before a request
// wants it.
func TestIdleProcessKilled(t *testing.T) {
	t.Parallel()
	server := nbdtest.StartNbdkit(t, "file", nbdtest.Image(t, diskSize, nil))
	e := startEngine(t, config{engine: section("apart", builtPrograms(t).nbd),
		volumes: []volume{{name: "disk", plugin: "apart", server: "unix:" + server.Addr(), more: trusting("30s", "500ms")}}})
	e.waitUp("disk")
	for n := range uint64(3) {
		e.killProcess("apart", syscall.SIGKILL)
		e.waitVolume("disk", "another process without a request", func(v admin.Volume) bool {
			return v.State == "online" && v.Session.Reconnects > n
		})
	}
	c := e.dial("disk", nbdtest.Options{})
	data := random(4096, 1)
	must(t, c.Write(0, data, 0))
	mustRead(t, c, 0, data)
	if v := e.volume("disk"); len(v.Errors) != 0 || v.Session.Traps != 3 {
		t.Errorf("errors %v, %+v", v.Errors, *v.Session)
	}
}
