package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// TestDescriptorLimit: an engine that may open few files says so when there are
// no more, and goes on afterwards: with clients, and with its storage server.
func TestDescriptorLimit(t *testing.T) {
	t.Parallel()
	nbdtest.Require(t, "prlimit", "util-linux")
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true})
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.Addr(), trusting("20s", "100ms"))}},
		"prlimit", "--nofile=64:64")
	if !e.waitLog("only 64 files may be open", startLimit) {
		t.Error("nothing is said of the low limit at the start")
	}
	c := e.dial("disk", nbdtest.Options{})
	must(t, c.Write(0, random(4096, 1), 0))
	var all []net.Conn
	for range 100 {
		n, err := net.Dial("unix", e.socket)
		must(t, err)
		defer n.Close()
		all = append(all, n)
	}
	if !e.waitLog("no file descriptors left; raise the limit", time.Minute) {
		t.Error("nothing is said of the limit when it is reached")
	}
	mustRead(t, c, 0, random(4096, 1))
	s.KillAll(nbdtest.FIN) // the volume needs a descriptor to come back
	for _, n := range all {
		n.Close()
	}
	mustRead(t, c, 0, random(4096, 1))
	e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > 0 })
	must(t, e.dial("disk", nbdtest.Options{}).Write(0, random(4096, 2), 0))
	mustRead(t, c, 0, random(4096, 2))
}

// needRoot skips what only root can set up; in CI tests run as root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("in CI nothing is skipped: run as root")
	}
	t.Skip("needs root")
}

// TestDiskFull: the errno of a full file system reaches the client, and when
// there is room again writes succeed.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	e := startEngine(t, config{volumes: []volume{{name: "disk", plugin: "file",
		options: fmt.Sprintf("path = %q\nsize = \"16MiB\"", filepath.Join(dir, "disk.img"))}}})
	c := e.dial("disk", nbdtest.Options{})
	full := uint64(0)
	for ; full < 16<<20; full += 1 << 20 {
		if err := c.Write(full, random(1<<20, full), 0); err != nil {
			wantErrno(t, err, nbdtest.ENOSPC)
			break
		}
	}
	if full < 2<<20 || full >= 5<<20 {
		t.Errorf("full after %d bytes", full)
	}
	mustRead(t, c, 0, random(1<<20, 0))
	if n := e.volume("disk").Errors["ENOSPC"]; n == 0 {
		t.Errorf("errors are counted as %v", e.volume("disk").Errors)
	}
	must(t, c.Trim(0, 2<<20, 0))
	must(t, c.Write(8<<20, random(1<<20, 9), 0))
	mustRead(t, c, 8<<20, random(1<<20, 9))
	if err := c.Flush(); err != nil && !isErrno(err) {
		t.Error(err)
	}
}

// TestPermissionDenied: a volume whose file may not be opened says so, by name,
// and the others are served.
func TestPermissionDenied(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const nobody = 65534
	must(t, os.Chmod(filepath.Dir(built.engine), 0o755))
	secret := nbdtest.Image(t, 1<<20, nil)
	must(t, os.Chmod(secret, 0o600))
	for dir := filepath.Dir(secret); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // it is the file that denies
	}
	dir := nbdtest.SocketDir(t)
	must(t, os.Chown(dir, nobody, nobody))
	c := config{volumes: []volume{{name: "secret", plugin: "file", options: fmt.Sprintf("path = %q", secret)},
		{name: "there", plugin: "memory", options: "size = \"1MiB\""}}}
	file, socket := filepath.Join(dir, "engine.toml"), filepath.Join(dir, "sock")
	must(t, os.WriteFile(file, []byte(c.text(filepath.Join(dir, "run"), socket)), 0o644))
	p, err := spawnAs(&syscall.Credential{Uid: nobody, Gid: nobody}, built.engine, "run", "-c", file)
	must(t, err)
	defer func() {
		if err := p.terminate(endLimit); err != nil {
			t.Errorf("the engine did not end well: %v", err)
		}
	}()
	if !p.waitOutput("ready\n", startLimit) {
		t.Fatalf("not ready: %s", p.log.String())
	}
	said := p.out.String()
	if !strings.Contains(said, "permission denied") || !strings.Contains(said, secret) {
		t.Errorf("what is said does not help:\n%s", said)
	}
	t.Log(said)
	there := nbdtest.Connect(t, "unix", socket, nbdtest.Options{Export: "there"})
	must(t, there.Write(0, random(512, 1), 0))
}
