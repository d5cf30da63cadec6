package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/internal/vmtest"
)

// TestVM runs this package's tests where all controllers of cgroup v2 are to be
// had: as the engine of a small machine, with its group at the top, and in groups
// that were left to it, as systemd does it.
func TestVM(t *testing.T) {
	vmtest.Require(t)
	exe := filepath.Join(t.TempDir(), "sandbox.test")
	build := exec.Command("go", "test", "-c", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vm := vmtest.Start(t, vmtest.Options{Files: map[string]string{"/sandbox.test": exe}})
	run := func(what, script string) {
		out, status := vm.Run(t.Context(), script)
		t.Logf("%s:\n%s", what, out)
		if status != 0 || !strings.Contains(out, "\nPASS") || strings.Contains(out, "no controller") {
			t.Errorf("%s: status %d", what, status)
		}
	}
	run("at the top", `
		mkdir -p /tmp /home /root /run /var/tmp
		chmod 1777 /tmp
		ip link set lo up || ifconfig lo up
		export CI=true SANDBOX_GROUPS=1 HOME=/root
		/sandbox.test -test.v -test.timeout=5m`)
	run("in a group that was left to it", `
		mkdir /sys/fs/cgroup/unit /tmp/user
		echo "+cpu +memory +pids" > /sys/fs/cgroup/cgroup.subtree_control
		export CI=true SANDBOX_GROUPS=1 HOME=/root
		exec /sandbox.test unit /sys/fs/cgroup/unit -test.v -test.timeout=5m -test.run 'TestGroup|TestMemory|TestEngineKilled|TestForks'`)
	run("in one that was left to an ordinary user", `
		mkdir /sys/fs/cgroup/unit2
		export CI=true SANDBOX_GROUPS=1 HOME=/tmp/user TMPDIR=/tmp/user SANDBOX_USER=1
		exec /sandbox.test unit /sys/fs/cgroup/unit2 -test.v -test.timeout=5m -test.run 'TestGroup|TestMemory|TestEngineKilled|TestForks'`)
}
