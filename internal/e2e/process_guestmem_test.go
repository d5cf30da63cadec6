package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// guestEngine runs a machine's disk on teststore, whose process may have the
// machine's memory.
func guestEngine(t *testing.T) *engine {
	t.Helper()
	_, line, options := storeImage(t)
	e := startEngine(t, config{engine: "reactors = 2\n" + section("store", builtPrograms(t).store, `memory_sharing = "guest"`, `memory = "64MiB"`, line),
		volumes: []volume{{name: "disk", plugin: "store", options: options, more: trusting("30s", "1s"), vhost: 2}}})
	e.waitUp("disk")
	return e
}

// payloadOf is what status says of the payload of teststore's process.
func (e *engine) payloadOf() admin.Payload {
	e.t.Helper()
	p := e.processOf("store").Payload
	if p == nil {
		e.t.Fatal("status says nothing of where payload lies")
	}
	return *p
}

// guestLoad is a checked load by a machine whose memory can be lent, or not.
func guestLoad(t *testing.T, e *engine, sealed bool) *vhostLoad {
	t.Helper()
	o := e.machine(recovering()[rand.IntN(2)], 2)
	o.Sealed = sealed
	return startVhostLoad(t, e, vhosttest.LoadOptions{Options: o, Depth: 16, BlockSize: 16 << 10, ReadPercent: 50,
		FlushEvery: 50, Verify: true, Length: 8 << 20, Seed: rand.Uint64()})
}

// hasGuestMemory tells whether a process has some of a machine's memory mapped.
func hasGuestMemory(t *testing.T, pid int) bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	return err == nil && strings.Contains(string(b), "memfd:vhosttest-")
}

// TestGuestMemoryUnderKills: a process that has the machine's memory is killed
// about once a second. The machine has no error and reads what it has written, its
// payload was not copied, and when it is gone its memory is not in the process.
func TestGuestMemoryUnderKills(t *testing.T) {
	t.Parallel()
	e := guestEngine(t)
	l := guestLoad(t, e, true)
	l.goesOn(500)
	before := e.payloadOf()
	l.goesOn(500)
	after := e.payloadOf()
	if lent, copied := after.LentRequests-before.LentRequests, after.CopiedRequests-before.CopiedRequests; lent < 100 || copied > lent/10 {
		t.Errorf("%d requests lent, %d copied", lent, copied)
	}
	if !hasGuestMemory(t, e.processOf("store").PID) {
		t.Error("the process does not have the machine's memory")
	}
	kills := 0
	for end := time.Now().Add(loadTime(5 * time.Second)); time.Now().Before(end); kills++ {
		time.Sleep(800*time.Millisecond + rand.N(400*time.Millisecond))
		e.killProcess("store", syscall.SIGKILL)
		l.goesOn(100)
	}
	l.goesOn(500)
	l.end()
	v := e.volume("disk")
	if kills == 0 || v.Session.Traps == 0 || len(v.Errors) != 0 {
		t.Errorf("%d kills, errors %v, %+v", kills, v.Errors, *v.Session)
	}
	nbdtest.WaitFor(t, "the process to be without the machine's memory", func() bool {
		pid := e.processOf("store").PID
		return pid > 0 && !hasGuestMemory(t, pid)
	})
}

// TestGuestMemoryAndTheEngineKilled: the engine is killed while a process has the
// machine's memory. The next one goes on when that process is gone.
func TestGuestMemoryAndTheEngineKilled(t *testing.T) {
	t.Parallel()
	e := guestEngine(t)
	l := guestLoad(t, e, true)
	for range 4 {
		l.goesOn(300 + rand.Uint64N(300))
		pid := e.processOf("store").PID
		e.kill()
		died(t, e.process)
		e.start()
		e.waitUp("disk")
		if hasGuestMemory(t, pid) {
			t.Errorf("process %d of the dead engine has the machine's memory", pid)
		}
	}
	l.goesOn(500)
	l.end()
	if v := e.volume("disk"); len(v.Errors) != 0 {
		t.Errorf("errors %v", v.Errors)
	}
}

// TestGuestMemoryThatCanShrink: such memory is copied, because a machine that
// truncates it would take the process from all others.
func TestGuestMemoryThatCanShrink(t *testing.T) {
	t.Parallel()
	e := guestEngine(t)
	l := guestLoad(t, e, false)
	l.goesOn(500)
	l.end()
	if p := e.payloadOf(); p.LentRequests != 0 || p.CopiedRequests < 500 {
		t.Errorf("%+v", p)
	}
	if !e.waitLog("can be truncated", startLimit) {
		t.Error("the log does not say why")
	}
}

// TestGuestMemoryForAProtocol: there is no use in that, which is said with the line.
func TestGuestMemoryForAProtocol(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "engine.toml")
	must(t, os.WriteFile(file, []byte(fmt.Sprintf("[engine]\nstate_dir = %q\nhttp = \"\"\n%s", filepath.Join(dir, "run"),
		section("apart", builtPrograms(t).nbd, `memory_sharing = "guest"`))), 0o600))
	out, err := exec.CommandContext(t.Context(), built.engine, "check", "-c", file).CombinedOutput()
	const line = `engine.toml:8: plugin "apart": memory_sharing: `
	if err == nil || !strings.Contains(string(out), line) || !strings.Contains(string(out), "its payload never leaves the engine") {
		t.Errorf("%v: %s", err, out)
	}
}
