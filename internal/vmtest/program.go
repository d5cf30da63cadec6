package vmtest

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Program builds a program that runs in every guest, which may lack this machine's
// libraries, and gives its file. args are go's, but for the output: "build" and a
// package, for instance.
func Program(t testing.TB, args ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append([]string{args[0], "-buildvcs=false", "-o", file}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("vmtest: %v: %v\n%s", cmd.Args, err, out)
	}
	return file
}

// StartTests starts a guest like [Start] that has the tests of the package whose
// test this is as /package.test, and what they expect of a host: directories and a
// loopback device.
func StartTests(t testing.TB, o Options) *VM {
	t.Helper()
	Require(t)
	files := map[string]string{"/package.test": Program(t, "test", "-c", ".")}
	maps.Copy(files, o.Files)
	o.Files = files
	vm := Start(t, o)
	vm.MustRun(`
		mkdir -p /tmp /home /root /run /var/tmp
		chmod 1777 /tmp
		ip link set lo up || ifconfig lo up`)
	return vm
}
