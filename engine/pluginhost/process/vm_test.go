package process

import (
	"strings"
	"testing"

	"blockengine/internal/vmtest"
)

// TestVM runs what is about memory where a cgroup holds processes to it: there the
// kernel counts, page by page, for whoever touched it first.
func TestVM(t *testing.T) {
	vm := vmtest.StartTests(t, vmtest.Options{Memory: 1024})
	out, status := vm.Run(t.Context(), `
		export CI=true HOME=/root
		/package.test -test.v -test.timeout=5m -test.run 'TestGuestMemoryIsNotCounted'`)
	t.Log(out)
	if status != 0 || strings.Count(out, "\n--- PASS: ") != 1 || strings.Contains(out, "not limited by a cgroup") {
		t.Errorf("status %d", status)
	}
}
