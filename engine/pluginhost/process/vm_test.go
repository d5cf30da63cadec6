package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/internal/vmtest"
)

// TestVM runs what is about memory where a cgroup holds processes to it: there the
// kernel counts, page by page, for whoever touched it first.
func TestVM(t *testing.T) {
	vmtest.Require(t)
	exe := filepath.Join(t.TempDir(), "process.test")
	build := exec.Command("go", "test", "-c", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vm := vmtest.Start(t, vmtest.Options{Memory: 1024, Files: map[string]string{"/process.test": exe}})
	out, status := vm.Run(t.Context(), `
		mkdir -p /tmp /home /root /run /var/tmp
		chmod 1777 /tmp
		ip link set lo up || ifconfig lo up
		export CI=true HOME=/root
		/process.test -test.v -test.timeout=5m -test.run 'TestGuestMemoryIsNotCounted'`)
	t.Log(out)
	if status != 0 || strings.Count(out, "\n--- PASS: ") != 1 || strings.Contains(out, "not limited by a cgroup") {
		t.Errorf("status %d", status)
	}
}
