package e2e_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// TestUpgradeAcrossRuntimes: a module, a process and what is linked in take over
// from each other under fio, which sees neither an error nor a mismatch.
func TestUpgradeAcrossRuntimes(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	image := nbdtest.Image(t, diskSize, nil)
	e := startEngine(t, config{engine: "reactors = 2",
		volumes: []volume{nbdVolume("disk", nbdtest.StartQemuNBD(t, image).Addr(), durable)}})
	e.waitUp("disk")
	ways := []struct{ runtime, file string }{
		{"process", programs.nbd}, {"wasm", built.nbd2}, {"process", programs.nbd2}, {"builtin", ""}, {"process", programs.nbd}, {"wasm", built.nbd},
	}
	var n atomic.Int64
	underUpgrades(t, e, upgrades(12), func() {
		w := ways[(int(n.Add(1))-1)%len(ways)]
		file := w.file
		if file == "" {
			file = "--builtin"
		}
		o := e.order("upgrade", "nbd", file, "--watch", "0s")
		if err := o.wait(); err != nil {
			t.Errorf("to %s: %v", w.runtime, err)
			return
		}
		wantMethod(t, o.steps(), "handover")
		if got := e.plugin("nbd"); got.Runtime != w.runtime || (got.Process != nil) != (w.runtime == "process") {
			t.Errorf("it runs %+v, and %s is wanted", got.Loaded, w.runtime)
		}
	})
	e.unhurt("disk")
}

// TestStoreUpgrade: a store's process takes over from another one under fio.
func TestStoreUpgrade(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	e, _ := storeEngine(t)
	var n atomic.Int64
	underUpgrades(t, e, upgrades(6), func() {
		file := []string{programs.store2, programs.store}[(n.Add(1)-1)%2]
		o := e.order("upgrade", "store", file, "--watch", "0s")
		if err := o.wait(); err != nil {
			t.Error(err)
		}
	})
	if v := e.volume("disk"); v.State != "online" || len(v.Errors) != 0 || v.Generation != int(n.Load())+1 {
		t.Errorf("after %d upgrades: %s, errors %v, generation %d", n.Load(), v.State, v.Errors, v.Generation)
	}
}

// TestUpgradeToAProcessIsKept: a restart of the engine finds the runtime again,
// and the way back.
func TestUpgradeToAProcessIsKept(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	server := nbdtest.StartNbdkit(t, "memory", "64M")
	e := startEngine(t, config{volumes: []volume{nbdVolume("disk", server.Addr(), durable)}})
	e.waitUp("disk")
	data := random(4096, 1)
	must(t, e.dial("disk", nbdtest.Options{}).Write(0, data, 0))
	if err := e.order("upgrade", "nbd", programs.nbd2, "--watch", "0s", "--save").wait(); err != nil {
		t.Fatal(err)
	}
	must(t, e.terminate(endLimit))
	e.start()
	e.waitUp("disk")
	got := e.plugin("nbd")
	if got.Runtime != "process" || got.Version != version2 || got.Process.Sandbox != "strict" || got.Generation != 2 {
		t.Errorf("after a restart it runs %+v", got.Loaded)
	}
	mustRead(t, e.dial("disk", nbdtest.Options{}), 0, data)
	if err := e.order("upgrade", "nbd", built.nbd, "--watch", "0s", "--save").wait(); err != nil {
		t.Fatal(err)
	}
	must(t, e.terminate(endLimit))
	e.start()
	e.waitUp("disk")
	if got := e.plugin("nbd"); got.Runtime != "wasm" || got.DropIn != "" {
		t.Errorf("after the way back it runs %+v, drop-in %q", got.Loaded, got.DropIn)
	}
}

// TestRefusedAcrossKinds: what is not the same kind of plugin, or no plugin,
// changes nothing.
func TestRefusedAcrossKinds(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	server := nbdtest.StartNbdkit(t, "memory", "64M")
	e := startEngine(t, config{volumes: []volume{nbdVolume("disk", server.Addr(), durable)}})
	e.waitUp("disk")
	for file, word := range map[string]string{
		programs.store: "is a store plugin and what runs is a protocol plugin",
		"/bin/true":    "did not come up",
	} {
		err := e.order("upgrade", "nbd", file, "--watch", "0s").wait()
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("upgrade to %s: %v", file, err)
		}
	}
	if v := e.volume("disk"); v.Generation != 1 || v.State != "online" {
		t.Errorf("generation %d, %s", v.Generation, v.State)
	}
	if plugins := e.status().Plugins; slices.ContainsFunc(plugins, func(p admin.Plugin) bool { return p.Process != nil }) {
		t.Error("the process of a refused plugin is left")
	}
}
