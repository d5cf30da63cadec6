package pluginhost

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockengine/engine/config"
)

// fullDir names the directory that the second life of TestFullDisk fills.
const fullDir = "PLUGINHOST_TEST_FULL"

// TestFullDisk loads a version while the disk of the compilation cache is full:
// that is an error which says so, and leaves nothing half done behind. It needs
// a small file system, so it runs once more in namespaces of its own.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		fullDisk(t, dir)
		return
	}
	if raceEnabled {
		t.Skip("the compiler takes minutes under the race detector")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), fullDir+"="+t.TempDir(), "PLUGINHOST_TEST_NBD="+builtNBD(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &failed):
		t.Skipf("no namespaces to be had here: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS: TestFullDisk"):
		t.Errorf("it did not run:\n%s", out)
	}
	t.Logf("%s", out)
}

func fullDisk(t *testing.T, dir string) {
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "cache")
	for name, self := range map[string][]string{"here": nil, "helper": {"/proc/self/exe", compileHelper}} {
		r := &Registry{opt: Options{CacheDir: cache, Self: self, Log: discard}}
		p, err := r.load(t.Context(), config.Plugin{Name: "nbd", Memory: config.DefaultPluginMemory,
			Source: config.Source{Runtime: config.RuntimeWasm, Path: os.Getenv("PLUGINHOST_TEST_NBD")}})
		if err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
			t.Errorf("%s: loaded %v, error %v", name, p, err)
		}
		t.Logf("%s says: %v", name, err)
		left, err := os.ReadDir(cache)
		if err != nil || len(left) > 0 {
			t.Errorf("%s: left behind %v, %v", name, left, err)
		}
	}
}
