package builtin

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loopDevice makes a block device of a sparse file in dir, or skips the test.
func loopDevice(t testing.TB, dir string, size uint64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skip("losetup is missing: install the package mount (util-linux)")
	}
	back := filepath.Join(dir, "back")
	f, err := os.Create(back)
	if err == nil {
		err = f.Truncate(int64(size))
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", back).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %s", out)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", name).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %s", name, out)
		}
	})
	return name
}
