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

// TestRealServers runs the suite against stock servers, if they are installed.
func TestRealServers(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not start servers")
	}
	for _, s := range []struct {
		name, program, pkg string
		args               func(socket, image string) []string
	}{
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
			sdktest.Run(t, sdktest.Harness{
				Manifest: Plugin().Manifest(),
				Open:     sdktest.Linked(Plugin()),
				Dial: func(t testing.TB) sdktest.Server {
					c, err := net.Dial("unix", socket)
					if err != nil {
						t.Fatal(err)
					}
					return sdktest.Over(c)
				},
			})
		})
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
