package sandbox

import (
	"strings"
	"testing"

	"blockengine/internal/vmtest"
)

// TestVM runs this package's tests where all controllers of cgroup v2 are to be
// had: as the engine of a small machine, with its group at the top, and in groups
// that were left to it, as systemd does it.
func TestVM(t *testing.T) {
	vm := vmtest.StartTests(t, vmtest.Options{})
	run := func(what, script string) {
		out, status := vm.Run(t.Context(), script)
		t.Logf("%s:\n%s", what, out)
		if status != 0 || !strings.Contains(out, "\nPASS") || strings.Contains(out, "no controller") {
			t.Errorf("%s: status %d", what, status)
		}
	}
	run("at the top", `
		export CI=true SANDBOX_GROUPS=1 HOME=/root
		/package.test -test.v -test.timeout=5m`)
	run("in a group that was left to it", `
		mkdir /sys/fs/cgroup/unit /tmp/user
		echo "+cpu +memory +pids" > /sys/fs/cgroup/cgroup.subtree_control
		export CI=true SANDBOX_GROUPS=1 HOME=/root
		exec /package.test unit /sys/fs/cgroup/unit -test.v -test.timeout=5m -test.run 'TestGroup|TestMemory|TestEngineKilled|TestForks'`)
	run("in one that was left to an ordinary user", `
		mkdir /sys/fs/cgroup/unit2
		export CI=true SANDBOX_GROUPS=1 HOME=/tmp/user TMPDIR=/tmp/user SANDBOX_USER=1
		exec /package.test unit /sys/fs/cgroup/unit2 -test.v -test.timeout=5m -test.run 'TestGroup|TestMemory|TestEngineKilled|TestForks'`)
}
