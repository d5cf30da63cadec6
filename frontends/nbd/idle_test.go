package nbd

import (
	"runtime"
	"testing"

	"blockengine/internal/nbdtest"
)

// A thousand idle connections must stay cheap: what each costs beside its
// descriptor is bounded here, clients' own memory included.
func TestManyIdleConnections(t *testing.T) {
	const n, each = 1000, 16 << 10
	r := newRig(t, newDisk(1<<20))
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range 5 { // what the pools keep
		if _, err := r.connect(nbdtest.Options{}).Read(0, 4096, 0); err != nil {
			t.Fatal(err)
		}
	}
	before := memory()
	for range n {
		c := r.connect(nbdtest.Options{})
		if _, err := c.Read(0, 4096, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("no payload memory in use", func() bool { return r.inUse() == 0 })
	used := int64(memory()-before) / n
	t.Logf("%d bytes a connection", used)
	if used > each {
		t.Errorf("%d bytes a connection, client's side included; more than %d", used, each)
	}
}
