package nbd

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"blockengine/sdk/sdktest"
)

// realServer is a stock server.
type realServer struct {
	name, program, pkg string
	args               func(socket, image string) []string
}

// TestRealServers runs the suite against stock servers, if they are installed.
func TestRealServers(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not start servers")
	}
	for _, s := range []realServer{
		{"nbdkit", "nbdkit", "nbdkit", func(socket, _ string) []string {
			return []string{"-f", "-U", socket, "memory", "16M"}
		}},
		{"qemu-nbd", "qemu-nbd", "qemu-utils", func(socket, image string) []string {
			return []string{"-k", socket, "-f", "raw", "-t", "-e", "8", "--discard=unmap", image}
		}},
		{"qemu-nbd block status", "qemu-nbd", "qemu-utils", func(socket, image string) []string {
			return []string{"-k", socket, "-f", "raw", "-t", "-e", "8", "-x", "", "-A", image}
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			sdktest.Run(t, sdktest.Harness{
				Manifest: Plugin().Manifest(),
				Open:     sdktest.Linked(Plugin()),
				Dial:     s.start(t),
			})
		})
	}
}

// TestRealHandover hands connections to stock servers over between another build
// as a module and the plugin that is linked in. qemu-nbd admits one client, as it
// does by default: a second session would hang.
func TestRealHandover(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not start servers")
	}
	other := guests(t, buildVersion(t, "2.0.0"))
	for _, s := range []realServer{
		{"nbdkit", "nbdkit", "nbdkit", func(socket, _ string) []string {
			return []string{"-f", "-U", socket, "memory", "16M"}
		}},
		{"qemu-nbd, one client", "qemu-nbd", "qemu-utils", func(socket, image string) []string {
			return []string{"-k", socket, "-f", "raw", "-t", "-A", "--discard=unmap", image}
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			sdktest.RunHandover(t, sdktest.Harness{
				Manifest: Plugin().Manifest(),
				Open:     sdktest.Linked(Plugin()),
				Other:    other,
				Dial:     s.start(t),
			})
		})
	}
}

// start starts a server, if it is installed, and gives what connects to it.
func (s *realServer) start(t *testing.T) func(sdktest.TB) sdktest.Server {
	t.Helper()
	if _, err := exec.LookPath(s.program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing: install package %s", s.program, s.pkg)
		}
		t.Skipf("%s is missing: install package %s", s.program, s.pkg)
	}
	dir := t.TempDir()
	socket, image := filepath.Join(dir, "s"), filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	startServer(t, exec.Command(s.program, s.args(socket, image)...), socket)
	return func(t sdktest.TB) sdktest.Server {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		return sdktest.Over(c)
	}
}

// startServer starts a program and waits until its socket accepts.
func startServer(t *testing.T, c *exec.Cmd, socket string) {
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%v does not accept at %s", c.Args, socket)
}
