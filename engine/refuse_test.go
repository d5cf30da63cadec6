package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const memoryVolume = "[[volume]]\nname = \"m\"\nplugin = \"memory\"\n[volume.options]\nsize = \"64MiB\"\n"

const memoryExport = "[[export]]\nname = \"m\"\nvolume = \"m\"\nfrontend = \"nbd\"\nlisten = \"NBD\"\n"

// Both run and check refuse the same, with 2, and leave nothing behind.
func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, config string
		want         []string // lines of stderr, with DIR for the directory
	}{
		{"unknown key", "HEAD\n[[volume]]\nnmae = \"m\"\nplugin = \"null\"\n", []string{
			`engine.toml:5: volume[1] has no name: add one, as in name = "volume1"`,
			`engine.toml:6: volume[1]: unknown key "nmae": write "name", or remove it; options of the plugin belong under [volume.options]`,
			`engine.toml:5: volume[1] has no option size: plugin "null" needs it, write size = "1GiB" under [volume.options] (size of the disk)`}},
		{"no such plugin", "HEAD\n[[volume]]\nname = \"m\"\nplugin = \"memroy\"\n", []string{
			`engine.toml:7: volume "m": plugin "memroy" is not known: write "memory", or add a [[plugin]] with that name`}},
		{"option", "HEAD\n" + memoryVolume + "sise = 1\n", []string{
			`engine.toml:10: volume "m": sise is no option of plugin "memory": write "size", or remove it`}},
		{"size", "HEAD\n[[volume]]\nname = \"m\"\nplugin = \"memory\"\n[volume.options]\nsize = \"64MB\"\n", []string{
			`engine.toml:9: volume "m": size "64MB" is no size: sizes are powers of two, write "64MiB"`}},
		{"plugin file missing", "HEAD\n[[plugin]]\nname = \"p\"\nruntime = \"wasm\"\npath = \"p.wasm\"\n", []string{
			`engine.toml:8: plugin "p": read plugin: open DIR/p.wasm: no such file or directory: build it (make plugins), or mend the path`}},
		{"plugin file no wasm", "HEAD\n[[plugin]]\nname = \"p\"\nruntime = \"wasm\"\npath = \"engine.toml\"\n", []string{
			`engine.toml:8: plugin "p": plugin DIR/engine.toml is no WebAssembly module: it starts with "[engine]"`}},
		{"admin over TCP", "[engine]\nstate_dir = \"run\"\nhttp = \"\"\nadmin = \"tcp:127.0.0.1:10909\"\n", []string{
			`engine.toml:4: engine: admin "tcp:127.0.0.1:10909" is no Unix socket, and only there can the engine tell who gives it orders: write "unix:PATH", or leave it out`}},
		{"no directory for a socket", "HEAD\n" + memoryVolume + strings.Replace(memoryExport, "NBD", "unix:none/x.sock", 1), []string{
			`engine.toml:14: export "m": listen "unix:DIR/none/x.sock" lies in DIR/none, which does not exist: make that directory`}},
		{"file in the socket's place", "HEAD\n" + memoryVolume + strings.Replace(memoryExport, "NBD", "unix:engine.toml", 1), []string{
			`engine.toml:14: export "m": listen "unix:DIR/engine.toml" is the path of a file that is no socket: remove it, or choose another path`}},
		{"not an address of this host", "HEAD\n" + memoryVolume + strings.Replace(memoryExport, "NBD", "tcp:192.0.2.1:10809", 1), []string{
			`engine.toml:14: export "m": listen "tcp:192.0.2.1:10809" is no address of this host: choose one that is (ip address)`}},
		{"state dir is a file", "[engine]\nstate_dir = \"engine.toml\"\nadmin = \"unix:a.sock\"\nhttp = \"\"\n", []string{
			`engine.toml:2: engine: state_dir "DIR/engine.toml" is no directory: choose another path`}},
	} {
		for _, command := range []string{"run", "check"} {
			t.Run(tc.name+"/"+command, func(t *testing.T) {
				s := newSite(t, tc.config)
				got := s.do(command, "-c", "engine.toml")
				if got.status != exitWrong || got.stdout != "" {
					t.Errorf("status %d, stdout %q", got.status, got.stdout)
				}
				for _, line := range tc.want {
					if line = strings.ReplaceAll(line, "DIR", s.dir); !strings.Contains(got.stderr, line+"\n") {
						t.Errorf("missing: %s\ngot: %s", line, got.stderr)
					}
				}
				if n := strings.Count(got.stderr, "\n"); n != len(tc.want) {
					t.Errorf("%d lines, want %d:\n%s", n, len(tc.want), got.stderr)
				}
				if sockets, _ := filepath.Glob(s.path("run/*.sock")); len(sockets) > 0 {
					t.Errorf("left behind: %v", sockets)
				}
			})
		}
	}
}

func TestAllProblemsInOneRun(t *testing.T) {
	s := newSite(t, "[engine]\nstate_dir = \"run\"\nhttp = \"HTTP\"\n[[plugin]]\nname = \"p\"\nruntime = \"wasm\"\npath = \"p.wasm\"\n"+
		"[[volume]]\nname = \"m\"\nplugin = \"memory\"\n[[export]]\nname = \"x\"\nvolume = \"m\"\nfrontend = \"nbd\"\nlisten = \"NBD\"\ncolor = 1\n")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	text, err := os.ReadFile(s.path("engine.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("engine.toml", strings.Replace(string(text), "HTTP", busy.Addr().String(), 1))
	got := s.do("run", "-c", "engine.toml")
	if got.status != exitWrong {
		t.Errorf("status %d", got.status)
	}
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(got.stderr), "\n") {
		lines = append(lines, strings.SplitN(l, ": ", 2)[0])
	}
	want := "engine.toml:3 engine.toml:7 engine.toml:8 engine.toml:16" // port busy, no plugin, no size, unknown key
	if strings.Join(lines, " ") != want {
		t.Errorf("got problems at %v, want %s:\n%s", lines, want, got.stderr)
	}
	if _, err := os.Stat(s.path("run")); !os.IsNotExist(err) {
		t.Errorf("the state directory was made for a file that cannot be served: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	s := newSite(t, "HEAD\n"+memoryVolume+strings.Replace(memoryExport, "NBD", "tcp:"+busy.Addr().String(), 1))
	got := s.do("run")
	want := fmt.Sprintf("engine.toml:14: export \"m\": listen \"tcp:%s\" is in use by another process: stop it, or choose another address\n", busy.Addr())
	if got.status != exitWrong || got.stderr != want {
		t.Errorf("status %d, %q, want %q", got.status, got.stderr, want)
	}
}

func TestStateDirOfOthersIsRefused(t *testing.T) {
	s := newSite(t, "HEAD")
	if err := os.Mkdir(s.path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.path("run"), 0o777); err != nil {
		t.Fatal(err)
	}
	if got := s.do("run"); got.status != exitWrong || !strings.Contains(got.stderr, "may be written by others") {
		t.Errorf("writable by all: %+v", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: to give a directory to another user")
	}
	if err := os.Chmod(s.path("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.path("run"), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"run", "check"} {
		if got := s.do(command); got.status != exitWrong || !strings.Contains(got.stderr, "belongs to user 12345") {
			t.Errorf("%s: %+v", command, got)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	s := newSite(t, "HEAD")
	for _, tc := range []struct{ args, want string }{
		{"", "engine: name a command: check, nbd-kernel, plugin, run, status, ublk, version, volume: see engine --help\n"},
		{"chekc", "engine: there is no command \"chekc\": do you mean check: see engine --help\n"},
		{"plugin", "engine: name a command: inspect, list, new, record, replay, rollback, test, upgrade: see engine plugin --help\n"},
		{"ublk", "engine: name a command: delete, list, recover: see engine ublk --help\n"},
		{"nbd-kernel recover", "engine: engine nbd-kernel recover takes one argument, EXPORT, and got 0: see engine nbd-kernel recover --help\n"},
		{"plugin lits", "engine: there is no command \"lits\": do you mean list: see engine plugin --help\n"},
		{"plugin inspect", "engine: engine plugin inspect takes one argument, FILE, and got 0: see engine plugin inspect --help\n"},
		{"run now", "engine: engine run takes no argument, and got \"now\": see engine run --help\n"},
		{"run --fast", "engine: unknown flag: --fast: see engine run --help\n"},
		{"status -c a --admin b", "engine: --admin and --config both say where the engine is: give one: see engine status --help\n"},
		{"check -c none.toml", "none.toml: there is no such file: name the configuration file with -c FILE\n"},
		{"status --admin nowhere", "engine: --admin: \"nowhere\" is no address: write tcp:HOST:PORT or unix:PATH: see engine status --help\n"},
	} {
		got := s.do(strings.Fields(tc.args)...)
		if got.status != exitWrong || got.stderr != tc.want || got.stdout != "" {
			t.Errorf("engine %s: status %d\ngot  %swant %s", tc.args, got.status, got.stderr, tc.want)
		}
	}
}

func TestNoEngine(t *testing.T) {
	s := newSite(t, "HEAD")
	for _, args := range []string{"status", "plugin list -c engine.toml", "status --json --admin unix:run/admin.sock"} {
		got := s.do(strings.Fields(args)...)
		if got.status != exitFailed || !strings.Contains(got.stderr, "no engine is running at "+s.dir+"/run/admin.sock") {
			t.Errorf("engine %s: %+v", args, got)
		}
	}
}

func TestSecondEngineIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	first := s.run()
	first.until("ready")
	for _, command := range []string{"run", "check"} {
		got := s.do(command)
		want := fmt.Sprintf("engine.toml:2: engine: state_dir %q is in use by another engine (pid %d): stop that one, or give this one a state_dir of its own\n",
			s.path("run"), first.cmd.Process.Pid)
		if got.status != exitWrong || got.stderr != want {
			t.Errorf("%s: status %d, %swant %s", command, got.status, got.stderr, want)
		}
	}
	first.stop()
	again := s.run()
	again.until("ready")
	again.stop()
}

// What an engine that was killed has left is no obstacle.
func TestAfterKill(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	first := s.run()
	first.until("ready")
	first.signal(syscall.SIGKILL)
	first.end()
	if _, err := os.Lstat(s.path("run/nbd.sock")); err != nil {
		t.Fatalf("the test wants a socket that was left: %v", err)
	}
	if got := s.do("check"); got.status != exitDone {
		t.Errorf("check: %+v", got)
	}
	again := s.run()
	again.until("ready")
	again.stop()
}
