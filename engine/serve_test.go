package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// nbdVolume is a volume "far" on the builtin nbd plugin, exported as "far".
func nbdVolume(address string) string {
	return fmt.Sprintf(`[[volume]]
name = "far"
plugin = "nbd"
timeout = "20s"
fence = "0s"
[volume.options]
export = "disk"
[[volume.path]]
address = %q
[[export]]
name = "far"
volume = "far"
frontend = "nbd"
listen = "NBD"
`, address)
}

func (s *site) client(export string) *nbdtest.Client {
	s.t.Helper()
	return nbdtest.Connect(s.t, "unix", s.path("run/nbd.sock"), nbdtest.Options{Export: export, Structured: true})
}

func (s *site) status() *admin.Status {
	s.t.Helper()
	got := s.do("status", "--json")
	if got.status != exitDone {
		s.t.Fatalf("status: %+v", got)
	}
	var st admin.Status
	if err := json.Unmarshal([]byte(got.stdout), &st); err != nil {
		s.t.Fatal(err)
	}
	return &st
}

func TestReadyAndHowToConnect(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport+strings.NewReplacer("name = \"m\"", "name = \"a b'c\"", "NBD", "tcp:127.0.0.1:0").Replace(memoryExport))
	r := s.run()
	r.until("ready")
	out := strings.Join(r.seen, "\n")
	port := strings.TrimPrefix(s.status().Exports[1].Listen, "tcp:127.0.0.1:")
	for _, want := range []string{
		"    nbdinfo 'nbd+unix:///m?socket=" + s.dir + "/run/nbd.sock'",
		"    nbd-client -unix " + s.dir + "/run/nbd.sock /dev/nbd0 -N m",
		"    qemu-img info nbd://127.0.0.1:" + port + "/a%20b%27c",
		"    nbd-client 127.0.0.1 " + port + ` /dev/nbd0 -N 'a b'\''c'`,
	} {
		if !strings.Contains(out+"\n", want+"\n") {
			t.Errorf("missing: %s\ngot:\n%s", want, out)
		}
	}
	if r.seen[len(r.seen)-1] != "ready" {
		t.Errorf("ready is not the last line")
	}
	nbdtest.Connect(t, "tcp", "127.0.0.1:"+port, nbdtest.Options{Export: "a b'c"})
	r.stop()
}

// What is printed is what a real client takes.
func TestPrintedCommandWorks(t *testing.T) {
	nbdtest.Require(t, "nbdinfo", "libnbd-bin")
	s := newSite(t, "HEAD\n"+memoryVolume+strings.Replace(memoryExport, "name = \"m\"", "name = \"ä/%?&'x\"", 1))
	r := s.run()
	r.until("ready")
	for _, line := range r.seen {
		if strings.HasPrefix(line, "    nbdinfo ") {
			out := nbdtest.MustRun(t, patience, "sh", "-c", strings.TrimSpace(line)+" --size")
			if strings.TrimSpace(out) != "67108864" {
				t.Errorf("%s: %s", line, out)
			}
			r.stop()
			return
		}
	}
	t.Error("nothing says how to use nbdinfo")
}

// A server that is away is named and waited for; the rest is served.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	sock := filepath.Join(nbdtest.SocketDir(t), "s")
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport+nbdVolume("unix:"+sock))
	r := s.run()
	line := r.until(`export "far": not up yet`)
	if !strings.Contains(line, `volume "far" is opening: `) || strings.HasSuffix(line, "no answer yet") {
		t.Errorf("the line does not say why: %s", line)
	}
	r.until("ready")
	s.client("m")
	if st := s.status(); st.Exports[1].Up || st.Volumes[1].State != "opening" || st.Volumes[1].Reason == "" {
		t.Errorf("status %+v", st)
	}
	nbdtest.StartServer(t, nbdtest.ServerOptions{Addr: sock, Exports: []nbdtest.Export{{Name: "disk", Disk: nbdtest.NewDisk(1 << 20)}}})
	r.until(`export "far": volume "far", 1MiB`)
	c := s.client("far")
	want := bytes.Repeat([]byte("x"), 4096)
	if err := c.Write(0, want, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(0, 4096, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back %.8q, %v", got, err)
	}
	r.stop()
}

// A store that cannot be opened is tried again.
func TestFileComesLater(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n[[volume]]\nname = \"f\"\nplugin = \"file\"\n[volume.options]\npath = \"disk.img\"\n"+
		strings.ReplaceAll(memoryExport, `"m"`, `"f"`))
	r := s.run()
	r.until("ready")
	s.write("disk.img", strings.Repeat("y", 8192))
	r.until(`export "f": volume "f", 8KiB`)
	if got, err := s.client("f").Read(4096, 4096, 0); err != nil || string(got) != strings.Repeat("y", 4096) {
		t.Errorf("read %.8q, %v", got, err)
	}
	r.stop()
}

// The configuration at the root, as make run serves it: a disk, and the same
// disk through the nbd plugin in its sandbox, whose server is the engine.
func TestDemo(t *testing.T) {
	module, err := nbdWasm()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../engine.toml")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, strings.NewReplacer("build/plugins/nbd.wasm", module, "127.0.0.1:9177", fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		"tcp:127.0.0.1:10809", fmt.Sprintf("tcp:127.0.0.1:%d", freePort(t))).Replace(string(text)))
	if got := s.do("check"); got.status != exitDone || !strings.HasSuffix(got.stdout, "\nengine.toml: no problems: 2 plugins, 2 volumes, 4 exports\n") ||
		!strings.HasPrefix(got.stdout, "frontend \"ublk\": ") || !strings.Contains(got.stdout, "\nfrontend \"nbd-kernel\": ") {
		t.Fatalf("check: %+v", got)
	}
	if _, err := os.Stat(s.path("run")); !os.IsNotExist(err) {
		t.Errorf("check has made the state directory: %v", err)
	}
	r := s.run()
	r.until("ready")
	if n := strings.Count(strings.Join(r.seen, "\n"), "export \""); n != 4 {
		t.Errorf("%d exports are up", n)
	}
	want := bytes.Repeat([]byte("engine!\n"), 1<<14)
	if err := s.client("proxy").Write(1<<20, want, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := s.client("disk0").Read(1<<20, len(want), 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was written through the proxy is not on the disk: %v", err)
	}
	st := s.status()
	if p := st.Plugins[0]; p.Runtime != "wasm" || len(p.Hash) != 64 || p.ABI == "" {
		t.Errorf("plugin %+v", p)
	}
	if v := st.Volumes[1]; v.Path == nil || v.Path.Connections == 0 || v.Version == "" {
		t.Errorf("volume %+v", v)
	}
	r.stop() // with both clients there
	on := make([]byte, len(want))
	f, err := os.Open(s.path("run/disk0.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(on, 1<<20); err != nil || !bytes.Equal(on, want) {
		t.Errorf("not in the file: %v", err)
	}
	r = s.run() // from the cache of compiled plugins
	r.until("ready")
	if strings.Contains(r.stderr.String(), "level=WARN") {
		t.Errorf("the demo warns of something:\n%s", r.stderr)
	}
	r.stop()
}
