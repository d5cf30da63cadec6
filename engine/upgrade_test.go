package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/internal/nbdtest"
)

// upgradable is a site with volume "far" on the builtin nbd plugin, whose server
// serves disk, and a module of the same plugin in new.wasm.
func upgradable(t *testing.T) (*site, *nbdtest.Disk) {
	t.Helper()
	module, err := nbdWasm()
	if err != nil {
		t.Fatal(err)
	}
	disk := nbdtest.NewDisk(1 << 20)
	srv := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Name: "disk", Disk: disk}}})
	s := newSite(t, "HEAD\n"+nbdVolume("unix:"+srv.Addr()))
	text, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	s.write("new.wasm", string(text))
	return s, disk
}

// plugin gives the only plugin of the running engine.
func (s *site) plugin() admin.Plugin {
	s.t.Helper()
	list := s.status().Plugins
	if len(list) != 1 {
		s.t.Fatalf("got %+v", list)
	}
	return list[0]
}

// order runs an order that has to succeed and gives its lines.
func (s *site) order(args ...string) string {
	s.t.Helper()
	got := s.do(append([]string{"plugin"}, args...)...)
	if got.status != exitDone || got.stderr != "" {
		s.t.Fatalf("engine plugin %q: %+v", args, got)
	}
	return got.stdout
}

// An upgrade under a client's eyes, the way back, and what is told of both.
func TestUpgradeAndRollback(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	c := s.client("far")
	want := bytes.Repeat([]byte("u"), 4096)
	if err := c.Write(0, want, 0); err != nil {
		t.Fatal(err)
	}
	text := s.order("upgrade", "nbd", "new.wasm", "--watch", "100ms") // relative, for the engine too
	for _, start := range []string{"load ", "verify ", "takeover ", "watch ", "done "} {
		if !strings.Contains("\n"+text, "\n"+start) {
			t.Errorf("phase %s is not told:\n%s", start, text)
		}
	}
	if !strings.Contains(text, "generation 2 (1.0.0) runs") || !strings.Contains(text, "far: handover: ") {
		t.Errorf("got\n%s", text)
	}
	if got, err := c.Read(0, 4096, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %.8q, %v", got, err)
	}
	p := s.plugin()
	if p.Runtime != "wasm" || p.Generation != 2 || p.Path != s.path("new.wasm") || p.Previous == nil || p.Previous.Runtime != "builtin" ||
		len(p.History) != 2 || p.History[0].Ended == "" || p.Upgrades.Done != 1 || p.Differs == "" {
		t.Errorf("got %+v", p)
	}
	if v := s.status().Volumes[0]; v.Generation != 2 || v.Hash != p.Hash {
		t.Errorf("volume %+v", v)
	}
	if got := s.do("status"); !strings.Contains(got.stdout, "\nplugin nbd: runs generation 2 ") {
		t.Errorf("status does not say that another version runs than is configured: %+v", got)
	}
	if got := s.do("plugin", "list", "--history"); !strings.Contains(got.stdout, "nbd (previous)") ||
		!strings.Contains(got.stdout, "replaced by generation 2") {
		t.Errorf("list: %+v", got)
	}

	if text := s.order("rollback", "nbd"); !strings.Contains(text, "generation 1 (1.0.0) runs") {
		t.Errorf("got\n%s", text)
	}
	if p := s.plugin(); p.Runtime != "builtin" || p.Previous != nil || p.Differs != "" || p.Upgrades.Rollbacks["operator"] != 1 {
		t.Errorf("got %+v", p)
	}
	if got, err := c.Read(0, 4096, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %.8q, %v", got, err)
	}
	r.stop()
}

func TestRefusedOrders(t *testing.T) {
	s, _ := upgradable(t)
	s.write("text.wasm", "hello")
	r := s.run()
	r.until("ready")
	for _, tc := range []struct{ args, want string }{
		{"upgrade nbd none.wasm", "none.wasm: no such file"},
		{"upgrade nbd text.wasm", "is no WebAssembly module"},
		{"upgrade nbd new.wasm --sha256 " + strings.Repeat("0", 64), "000 is wanted"},
		{"upgrade ndb new.wasm", `engine: no plugin "ndb" is loaded: did you mean "nbd"?`},
		{"upgrade a/b%2f? new.wasm", `engine: no plugin "a/b%2f?" is loaded`},
		{"upgrade nbd new.wasm --volume near", `there is no volume "near"`},
		{"rollback nbd", "there is no generation to go back to"},
	} {
		got := s.do(append([]string{"plugin"}, strings.Fields(tc.args)...)...)
		if got.status != exitFailed || !strings.Contains(got.stderr, tc.want) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: %+v, want %s", tc.args, got, tc.want)
		}
	}
	if p := s.plugin(); p.Generation != 1 || p.Runtime != "builtin" {
		t.Errorf("something was changed: %+v", p)
	}
	r.stop()
}

// What comes over the socket is checked by the engine as well.
func TestOrdersAreChecked(t *testing.T) {
	minus, long := -1.0, 3601.0
	for _, tc := range []struct {
		r    admin.UpgradeRequest
		want string
	}{
		{admin.UpgradeRequest{}, "names no file"},
		{admin.UpgradeRequest{Path: "x.wasm"}, "relative path"},
		{admin.UpgradeRequest{Path: "/x", Builtin: true}, "neither a file nor a hash"},
		{admin.UpgradeRequest{SHA256: "ab", Builtin: true}, "neither a file nor a hash"},
		{admin.UpgradeRequest{Path: "/x", SHA256: "ab"}, "no SHA-256"},
		{admin.UpgradeRequest{Path: "/x", Method: "magic"}, `no method "magic"`},
		{admin.UpgradeRequest{Path: "/x", Drain: -1}, "out of range"},
		{admin.UpgradeRequest{Path: "/x", Drain: 1e300}, "out of range"},
		{admin.UpgradeRequest{Path: "/x", Watch: &minus}, "out of range"},
		{admin.UpgradeRequest{Path: "/x", Watch: &long}, "out of range"},
	} {
		_, err := upgradeRequest("p", tc.r)
		if r, ok := err.(*admin.Refusal); !ok || r.Status != 400 || !strings.Contains(r.Text, tc.want) {
			t.Errorf("%+v: %v, want %s", tc.r, err, tc.want)
		}
	}
	zero := 0.0
	got, err := upgradeRequest("p", admin.UpgradeRequest{Path: "/x", Drain: 1.5, Watch: &zero})
	if err != nil || got.Watch != 0 || got.Drain.Seconds() != 1.5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := upgradeRequest("p", admin.UpgradeRequest{Builtin: true}); err != nil || got.Watch >= 0 || got.Path != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// What was saved is there after a restart, and not longer than it fits.
func TestSaveIsKeptOverARestart(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	s.order("upgrade", "nbd", "new.wasm", "--watch", "0s", "--save")
	file := config.DropInFile(s.path("run"), "nbd")
	if p := s.plugin(); p.DropIn != file || !strings.Contains(p.Differs, "a restart keeps what runs") {
		t.Errorf("got %+v", p)
	}
	r.stop()

	r = s.run()
	r.until("ready")
	if p := s.plugin(); p.Runtime != "wasm" || p.Path != s.path("new.wasm") || p.DropIn != file || p.Differs == "" {
		t.Errorf("after a restart: %+v", p)
	}
	if got := s.do("status"); !strings.Contains(got.stdout, "engine.toml names the builtin one") {
		t.Errorf("got %s", got.stdout)
	}
	r.stop()
	note := fmt.Sprintf("plugin \"nbd\" is %s (sha256 ", s.path("new.wasm"))
	if got := s.do("check"); got.status != exitDone || !strings.HasPrefix(got.stdout, note) || strings.Contains(got.stdout, "warning") ||
		!strings.Contains(got.stdout, " by "+file+", and not the builtin one, which engine.toml names\n") {
		t.Errorf("check: %+v", got)
	}

	// The operator changes the file: what was saved does not fit any more.
	text, err := os.ReadFile(s.path("engine.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("engine.toml", "[[plugin]]\nname = \"nbd\"\nruntime = \"wasm\"\npath = \"new.wasm\"\n"+string(text))
	want := file + ":4: plugin \"nbd\": is ignored: the configuration itself names " + s.path("new.wasm") + ": remove it"
	if got := s.do("check"); got.status != exitDone || !strings.HasPrefix(got.stdout, "warning: "+want+"\n") {
		t.Errorf("check: %+v, want %s", got, want)
	}
	r = s.run()
	r.until("ready")
	if log := r.stderr.String(); strings.Count(log, "is ignored: ") != 1 || !strings.Contains(log, "level=WARN") {
		t.Errorf("the log does not tell of the drop-in:\n%s", log)
	}
	s.order("upgrade", "nbd", "--builtin", "--watch", "0s")
	s.order("rollback", "nbd", "--save")
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("what the file says needs no drop-in: %v", err)
	}
	r.stop()
}

// A module that was changed since it was saved is refused, in words that name
// the drop-in and the ways out.
func TestSavedModuleIsPinned(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	s.order("upgrade", "nbd", "new.wasm", "--watch", "0s", "--save")
	r.stop()
	f, err := os.OpenFile(s.path("new.wasm"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{0, 2, 1, 'x'}); err != nil { // a custom section, which changes nothing else
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	file := config.DropInFile(s.path("run"), "nbd")
	for _, command := range []string{"check", "run"} {
		got := s.do(command)
		if got.status != exitWrong || !strings.HasPrefix(got.stderr, file+":6: ") ||
			!strings.Contains(got.stderr, "is wanted") || !strings.HasSuffix(got.stderr, "remove "+file+
			", and the configuration's own plugin is loaded; engine plugin upgrade --save writes it anew\n") {
			t.Errorf("%s: %+v", command, got)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r = s.run()
	r.until("ready")
	if p := s.plugin(); p.Runtime != "builtin" {
		t.Errorf("got %+v", p)
	}
	r.stop()
}

// follower is an order that runs as a process.
type follower struct {
	*server
	out *lockedBuffer
}

// follow starts an order.
func (s *site) follow(args ...string) *follower {
	s.t.Helper()
	f := &follower{&server{site: s, stderr: &lockedBuffer{}}, &lockedBuffer{}}
	f.cmd = exec.Command(engineBinary, append([]string{"plugin"}, args...)...)
	f.cmd.Dir, f.cmd.Env = s.dir, cleanEnv()
	f.cmd.Stdout, f.cmd.Stderr = f.out, f.stderr
	if err := f.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if f.cmd.ProcessState == nil {
			_ = f.cmd.Process.Kill()
			_ = f.cmd.Wait()
		}
	})
	return f
}

func (f *follower) waitFor(text string) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(f.out.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("the order has not printed %q:\n%s%s", text, f.out, f.stderr)
		}
	}
}

// end waits for the order and gives its status.
func (f *follower) end() int {
	_ = f.cmd.Wait()
	return f.cmd.ProcessState.ExitCode()
}

// Who interrupts an order leaves it to the engine, says so, and another one sees
// how it goes.
func TestInterruptedOrderGoesOn(t *testing.T) {
	t.Parallel()
	s, _ := upgradable(t)
	r := s.run()
	r.until("ready")
	f := s.follow("upgrade", "nbd", "new.wasm", "--watch", "1h")
	f.waitFor("\nwatch ")
	f.signal(syscall.SIGINT)
	if status := f.end(); status != exitFailed || !strings.Contains(f.stderr.String(), "interrupted: what the engine has begun it goes on with") {
		t.Errorf("status %d, %s", status, f.stderr)
	}
	if p := s.plugin(); p.Phase != "watch" || p.WatchUntil.IsZero() {
		t.Errorf("got %+v", p)
	}
	if v := s.status().Volumes[0]; v.Generation != 2 {
		t.Errorf("got %+v", v)
	}
	if got := s.do("status"); !strings.Contains(got.stdout, "plugin nbd: the new version is watched until ") {
		t.Errorf("got %s", got.stdout)
	}
	got := s.do("plugin", "upgrade", "nbd", "--builtin")
	if got.status != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "another upgrade of plugin \"nbd\" is under way") {
		t.Errorf("a second upgrade: %+v", got)
	}
	s.order("rollback", "nbd") // which ends the watch
	if p := s.plugin(); p.Phase != "" || p.Runtime != "builtin" {
		t.Errorf("got %+v", p)
	}
	r.stop()
}

// A signal to the engine ends what is under way, and who follows it hears of it.
func TestSignalDuringUpgrade(t *testing.T) {
	t.Parallel()
	s, disk := upgradable(t)
	r := s.run()
	r.until("ready")
	c := s.client("far")
	if err := c.Write(0, bytes.Repeat([]byte("z"), 4096), 0); err != nil {
		t.Fatal(err)
	}
	f := s.follow("upgrade", "nbd", "new.wasm", "--watch", "1h", "--json")
	f.waitFor(`"phase":"watch"`)
	r.signal(syscall.SIGTERM)
	if status := f.end(); status != exitFailed || !strings.Contains(f.stderr.String(), "the engine ends") {
		t.Errorf("the order: status %d, %s", status, f.stderr)
	}
	lines := strings.Split(strings.TrimSpace(f.out.String()), "\n")
	var last admin.Event
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Phase != admin.PhaseFailed || last.Error == "" {
		t.Errorf("the last line is %s, %v", lines[len(lines)-1], err)
	}
	if status := r.end(); status != exitDone {
		t.Errorf("the engine: status %d", status)
	}
	stable := make([]byte, 4096)
	if disk.ReadStable(stable, 0); stable[0] != 'z' {
		t.Error("the server was not told to flush")
	}
	if _, err := os.Stat(filepath.Join(s.path("run"), "conf.d")); !os.IsNotExist(err) {
		t.Errorf("something was saved: %v", err)
	}
}
