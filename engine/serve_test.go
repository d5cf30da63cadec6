package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"blockengine/engine/admin"
	"blockengine/engine/metrics"
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

func TestStatus(t *testing.T) {
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := s.run()
	r.until("ready")
	c := s.client("m")
	if err := c.Write(4096, make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}
	st := s.status()
	if len(st.Volumes) != 1 || len(st.Exports) != 1 || len(st.Plugins) != 1 {
		t.Fatalf("got %+v", st)
	}
	v, x, p := st.Volumes[0], st.Exports[0], st.Plugins[0]
	if v.Name != "m" || v.State != "online" || v.Size != 64<<20 || v.Plugin != "memory" || v.Generation != 1 ||
		v.Options["size"] != "64MiB" || v.Ops["write"].Requests != 1 || v.Ops["write"].Bytes != 8192 {
		t.Errorf("volume %+v", v)
	}
	if x.Name != "m" || !x.Up || x.Connections != 1 || x.Ops["write"].Bytes != 8192 || x.Listen != "unix:"+s.path("run/nbd.sock") {
		t.Errorf("export %+v", x)
	}
	if p.Name != "memory" || p.Kind != "store" || p.Hash != "builtin" || len(p.Volumes) != 1 {
		t.Errorf("plugin %+v", p)
	}
	if e := st.Engine; e.PID != r.cmd.Process.Pid || e.Config != s.path("engine.toml") || len(e.Reactors) == 0 || e.Partial {
		t.Errorf("engine %+v", e)
	}
	for _, args := range []string{"status", "status -c engine.toml", "plugin list", "plugin list --admin unix:run/admin.sock"} {
		got := s.do(strings.Fields(args)...)
		if got.status != exitDone || !strings.Contains(got.stdout, "memory") || got.stderr != "" {
			t.Errorf("engine %s: %+v", args, got)
		}
	}
	r.stop()
}

func TestMetricsAndHealth(t *testing.T) {
	port := freePort(t)
	s := newSite(t, fmt.Sprintf("[engine]\nstate_dir = \"run\"\nhttp = \"127.0.0.1:%d\"\n", port)+memoryVolume+memoryExport)
	r := s.run()
	r.until("ready")
	if err := s.client("m").Write(0, make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	body := httpGet(t, port, "/metrics", http.StatusOK)
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var written float64
	for _, m := range families["engine_export_bytes_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "op" && l.GetValue() == "write" {
				written += m.GetCounter().GetValue()
			}
		}
	}
	if written != 512 {
		t.Errorf("%v bytes written, says the scrape", written)
	}
	var h struct{ Status string }
	if err := json.Unmarshal(httpGet(t, port, "/healthz", http.StatusOK), &h); err != nil || h.Status != "ok" {
		t.Errorf("health %q, %v", h.Status, err)
	}
	r.stop()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func httpGet(t *testing.T, port int, path string, want int) []byte {
	t.Helper()
	c := http.Client{Timeout: patience}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("GET %s: %s: %s", path, resp.Status, b.String())
	}
	return b.Bytes()
}

// A server that is away is named and waited for; the rest is served.
func TestServerComesLater(t *testing.T) {
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

// A client that is there when the signal comes has its replies and then the
// end; what it wrote is on the disk.
func TestDrainWithClients(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		disk := nbdtest.NewDisk(1 << 20)
		srv := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Name: "disk", Disk: disk}}})
		s := newSite(t, "HEAD\n"+nbdVolume("unix:"+srv.Addr()))
		r := s.run()
		r.until("ready")
		c := s.client("far")
		if err := c.Write(0, bytes.Repeat([]byte("z"), 4096), 0); err != nil {
			t.Fatal(err)
		}
		release := srv.StallReplies()
		if _, err := c.Send(nbdtest.Request{Op: nbdtest.CmdRead, Offset: 0, Length: 4096}); err != nil {
			t.Fatal(err)
		}
		nbdtest.WaitFor(t, "the read to come to the server", func() bool {
			return srv.Count(nbdtest.Op(nbdtest.CmdRead)) > 0
		})
		r.signal(sig)
		release()
		if reply, err := c.Recv(); err != nil || !bytes.Equal(reply.Data, bytes.Repeat([]byte("z"), 4096)) {
			t.Errorf("%v: the read's reply: %v", sig, err)
		}
		if err := c.ExpectClosed(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if status := r.end(); status != exitDone {
			t.Errorf("%v: exit status %d", sig, status)
		}
		stable := make([]byte, 4096)
		if disk.ReadStable(stable, 0); stable[0] != 'z' {
			t.Errorf("%v: the server was not told to flush", sig)
		}
		if left, _ := filepath.Glob(s.path("run/*.sock")); len(left) > 0 {
			t.Errorf("%v: left behind: %v", sig, left)
		}
	}
}

// A second signal does not wait for a server that holds a write.
func TestSecondSignalCutsShort(t *testing.T) {
	srv := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true,
		Exports: []nbdtest.Export{{Name: "disk", Disk: nbdtest.NewDisk(1 << 20)}}})
	s := newSite(t, "HEAD\n"+nbdVolume("unix:"+srv.Addr()))
	r := s.run()
	r.until("ready")
	held := srv.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.RST)
	if _, err := s.client("far").Send(nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, 4096)}); err != nil {
		t.Fatal(err)
	}
	held.Wait(t, 1)
	r.signal(syscall.SIGTERM)
	nbdtest.WaitFor(t, "the engine to drain", func() bool { return strings.Contains(r.stderr.String(), "msg=draining") })
	r.signal(syscall.SIGTERM)
	if status := r.end(); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(r.stderr.String(), "ended before everything was drained") {
		t.Error("the engine does not say what it has left undone")
	}
	held.Release()
}

func TestServiceManagerIsTold(t *testing.T) {
	dir := nbdtest.SocketDir(t)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := s.run("NOTIFY_SOCKET=" + filepath.Join(dir, "n"))
	want := func(state string) {
		b := make([]byte, 64)
		n, err := l.Read(b)
		if err != nil || string(b[:n]) != state {
			t.Errorf("told %q, %v, want %q", b[:n], err, state)
		}
	}
	want("READY=1")
	r.stop()
	want("STOPPING=1")
}

// A reader of stdout that is gone is no reason to end.
func TestClosedStdout(t *testing.T) {
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := &server{site: s, lines: make(chan string), stderr: &lockedBuffer{}}
	close(r.lines)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = pr.Close()
	r.start(pw)
	_ = pw.Close()
	nbdtest.WaitFor(t, "the export", func() bool {
		c, err := nbdtest.Dial("unix", s.path("run/nbd.sock"), nbdtest.Options{Export: "m"})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
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
	if got := s.do("check"); got.status != exitDone || got.stdout != "engine.toml: no problems: 2 plugins, 2 volumes, 4 exports\n" {
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

func TestInspect(t *testing.T) {
	module, err := nbdWasm()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "HEAD")
	got := s.do("plugin", "inspect", "--json", module)
	var r struct {
		SHA256   string
		ABI      string
		Manifest struct {
			Name    string
			Options []struct{ Name, Type string }
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.status != exitDone {
		t.Fatalf("%v: %+v", err, got)
	}
	if len(r.SHA256) != 64 || r.Manifest.Name != "nbd" || r.ABI != thisBuild().ABI ||
		len(r.Manifest.Options) == 0 || r.Manifest.Options[0].Type != "string" {
		t.Errorf("got %+v", r)
	}
	if got := s.do("plugin", "inspect", module); got.status != exitDone || !strings.Contains(got.stdout, r.SHA256) {
		t.Errorf("got %+v", got)
	}
	if got := s.do("plugin", "inspect", "engine.toml"); got.status != exitFailed || !strings.Contains(got.stderr, "would be refused") {
		t.Errorf("got %+v", got)
	}
	if got := s.do("version", "--json"); got.status != exitDone || !json.Valid([]byte(got.stdout)) {
		t.Errorf("got %+v", got)
	}
}

var _ admin.Source = (*engine)(nil)

// The sampler never lets who asks wait for a reactor that hangs.
func TestSamplerIsBounded(t *testing.T) {
	e := &engine{}
	hang := make(chan struct{})
	e.sampler.collect = func() (s metrics.Snapshot) { <-hang; s.Listeners = 3; return s }
	if s := e.sampler.get(); !s.Partial {
		t.Error("a sample that was never taken is not marked")
	}
	close(hang)
	if s := e.sampler.get(); s.Partial || s.Listeners != 3 {
		t.Errorf("got %+v", s)
	}
}

// Whoever has started the engine and does not read what it prints gets the
// same service and the same end.
func TestUnreadStdout(t *testing.T) {
	var config strings.Builder
	config.WriteString("HEAD\n" + memoryVolume)
	for i := range 1000 { // together more than a pipe holds
		config.WriteString(strings.Replace(memoryExport, `"m"`, fmt.Sprintf(`"m%d"`, i), 1))
	}
	s := newSite(t, config.String())
	r := &server{site: s, lines: make(chan string), stderr: &lockedBuffer{}}
	close(r.lines)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	r.start(pw)
	_ = pw.Close()
	nbdtest.WaitFor(t, "the last export", func() bool {
		c, err := nbdtest.Dial("unix", s.path("run/nbd.sock"), nbdtest.Options{Export: "m999"})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	r.stop()
}

// A server that never came is no reason to wait, nor for a failure.
func TestDrainWithoutServer(t *testing.T) {
	s := newSite(t, "HEAD\n"+nbdVolume("unix:none.sock"))
	r := s.run()
	r.until("ready")
	r.stop()
}

// A signal that comes while the engine waits for volumes ends it, too.
func TestSignalDuringStart(t *testing.T) {
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport+nbdVolume("unix:none.sock"))
	r := s.run()
	r.until(`export "m"`) // and far keeps ready waiting
	r.stop()
	if out := strings.Join(r.seen, "\n"); strings.Contains(out, "ready") {
		t.Errorf("an engine that was told to end says that it is ready:\n%s", out)
	}
}
