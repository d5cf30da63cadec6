package hostdisk_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// wasmPlugin is the nbd plugin in its sandbox.
const wasmPlugin = "[[plugin]]\nname = \"nbd\"\nruntime = \"wasm\"\npath = \"/lib/nbd.wasm\"\n"

// remote is a volume on a server of this host, whose disk lives as long as it does.
// Requests that a killed engine had wait in the kernel's NBD driver for its timeout
// and fence together, and more.
func remote(name, port string, n int) volume {
	return volume{name: name, plugin: "nbd", server: "tcp:10.0.2.2:" + port, device: n, patience: "11s",
		more: "timeout = \"10s\"\nfence = \"500ms\"\non_lost_cache = \"trust\"\n"}
}

// server has volumes on NBD servers of this host: versions of the plugin, and
// servers, change under a load. For ublk, and in long runs, the plugin is in its
// sandbox, which takes long to compile in the guest.
func server(g *guest) {
	nbdkit := freePort(g.t)
	nbdtest.StartProcess(g.t, "nbdkit", "-f", "-i", "127.0.0.1", "-p", nbdkit, "memory", "128M")
	own, port := growing(g)
	plugin := wasmPlugin
	if g.frontend != "ublk" && !long {
		plugin = ""
	}
	g.load("")
	g.configure(plugin, remote("w", nbdkit, 0), remote("r", port, 1))
	g.step("start", func() {
		g.sh("engine_start; await 60 size_is %s %d; await 60 size_is %s %d", g.dev(0), 128<<20, g.dev(1), small)
	})
	if plugin != "" {
		g.step("upgrades under load", func() { upgrades(g) })
	}
	g.step("kill under load", func() { killRemote(g) })
	g.step("server away during flush", func() { awayDuringFlush(g, own.Server) })
	g.step("a disk that grew", func() {
		own.grow()
		grown(g)
	})
}

// Sizes of a disk before it grows, and after, in bytes.
const (
	small = 64 << 20
	large = 96 << 20
)

// grower is a server of this host whose disk can grow.
type grower struct {
	*nbdtest.Server
	disk *nbdtest.Disk
}

// growing starts one, and gives its port.
func growing(g *guest) (s grower, port string) {
	s.disk = nbdtest.NewDisk(256 << 20)
	s.Server = nbdtest.StartServer(g.t, nbdtest.ServerOptions{Network: "tcp", Exports: []nbdtest.Export{{Disk: s.disk, Size: small}}})
	_, port, _ = net.SplitHostPort(s.Addr())
	return s, port
}

// grow has the disk grow, which the engine learns when it connects anew.
func (s grower) grow() {
	s.SetExports(nbdtest.Export{Disk: s.disk, Size: large})
	s.KillAll(nbdtest.FIN)
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// upgrades: the plugin is replaced while a load verifies what it reads.
func upgrades(g *guest) {
	load := g.Start("until [ -e /run/stop ]; do " + fio("/dev/"+g.dev(0), "2M") + " || exit 1; done")
	for _, order := range []string{"upgrade nbd /lib/nbd2.wasm", "rollback nbd", "upgrade nbd /lib/nbd2.wasm --method serial"} {
		g.sh(progress+"progress %s; engine plugin %s -c /run/engine.toml%s", g.dev(0), order, watchOf(order))
	}
	g.sh(progress+"progress %s; touch /run/stop", g.dev(0))
	load.Must()
	g.sh("rm /run/stop")
}

// watchOf is the flag of an upgrade that is settled at once.
func watchOf(order string) string {
	if strings.HasPrefix(order, "upgrade") {
		return " --watch 0s"
	}
	return ""
}

// killRemote: what the dead engine had sent is fenced before it is sent again.
func killRemote(g *guest) {
	load := g.Start("until [ -e /run/stop ]; do " + fio("/dev/"+g.dev(0), "2M") + " || exit 1; done")
	g.sh(progress+"progress %s; engine_kill; engine_start; progress %s; touch /run/stop", g.dev(0), g.dev(0))
	load.Must()
	g.sh("rm /run/stop")
}

// awayDuringFlush: the kernel flushes while the server cannot be reached; the
// flush waits, and succeeds when the server is back.
func awayDuringFlush(g *guest, s *nbdtest.Server) {
	g.sh("dd if=/dev/urandom of=/run/data bs=1M count=2 2>/dev/null; dd if=/run/data of=/dev/%s bs=1M 2>/dev/null", g.dev(1))
	s.StopListening()
	s.KillAll(nbdtest.FIN)
	flush := g.Start(fmt.Sprintf("sync /dev/%s && dd if=/dev/%s bs=1M count=2 iflag=direct 2>/dev/null | cmp - /run/data", g.dev(1), g.dev(1)))
	select {
	case <-flush.Done():
		g.t.Errorf("a flush ended without the server: %s", flush.Output())
	case <-time.After(2 * time.Second):
	}
	s.Listen()
	flush.Must()
}

// grown: the kernel learns it where it can; ublk can from Linux 6.16 on, and says
// so before.
func grown(g *guest) {
	if g.frontend != "ublk" {
		g.sh("await 60 size_is %s %d", g.dev(1), large)
		g.sh("dd if=/dev/urandom of=/dev/%s bs=1M seek=%d count=1 oflag=direct 2>&1", g.dev(1), large>>20-1)
		return
	}
	g.sh("await 60 grep -q '%s.*6[.]16' /run/e.log; size_is %s %d", g.dev(1), g.dev(1), small)
	g.sh("%s", fio("/dev/"+g.dev(1), "2M"))
}
