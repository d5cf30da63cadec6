package kit

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/engine/pluginhost/sandbox"
	"blockengine/sdk/manifest"
	"blockengine/sdk/sdktest/badplugins"
	tinyserver "blockengine/sdk/sdktest/testplugins/tiny/server"
)

// TestMain is also the sandbox's shim, as the engine is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// built compiles one of the project's main packages.
func built(t *testing.T, pkg string, wasm bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.plugin")
	args := []string{"build", "-o", path}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if wasm {
		args, env = append(args, "-buildmode=c-shared"), append(env, "GOOS=wasip1", "GOARCH=wasm")
	}
	c := exec.Command("go", append(args, pkg)...)
	c.Dir, c.Env = "../..", env
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return path
}

// tinyServer serves a disk with the test protocol.
func tinyServer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d := tinyserver.NewDisk(1 << 20)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = d.Serve(c); c.Close() }()
		}
	}()
	return "unix:" + path
}

// What a plugin does wrong is found in its file too, with the place in the
// manual, and fuzzing says how to have it again.
func TestFindings(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugin")
	}
	path, address := built(t, "./sdk/sdktest/badplugins/wasm", true), tinyServer(t)
	for fault, place := range map[string]string{
		badplugins.CompleteTwice: "chapter 5, Completing", badplugins.Panic: "chapter 9", badplugins.WantNothing: "chapter 5, Receiving",
	} {
		sum, err := Test(t.Context(), Options{Path: path, Address: address, Values: []string{"fault=" + fault}, Fuzz: time.Second, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		found, again := false, false
		for _, r := range sum.Results {
			for _, f := range r.Findings {
				found = found || f.Manual == place
				again = again || r.Name == "fuzz" && strings.Contains(f.Text, "--seed")
			}
		}
		if sum.Failed == 0 || !found || !again {
			t.Errorf("%s: %d failed; something about %s is found: %v; how to have it again: %v", fault, sum.Failed, place, found, again)
		}
	}
}

// The same plugin, in a process.
func TestProcess(t *testing.T) {
	needsSandbox(t)
	sum, err := Test(t.Context(), Options{Path: built(t, "./examples/protocol-go/process", false), Fuzz: time.Second / 2, Seed: 1,
		Server: "exec " + built(t, "./examples/protocol-go/server/cmd", false) + " $SOCKET"})
	passes(t, sum, err)
	if sum.Runtime != "process" || sum.Kind != "protocol" || sum.NoServer > 0 || sum.Passed < 25 {
		t.Errorf("%+v", sum)
	}
}

// needsSandbox skips where this user or kernel cannot confine a process.
func needsSandbox(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: does not compile the plugin")
	}
}

// passes checks that a run found nothing.
func passes(t *testing.T, sum *Summary, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range sum.Results {
		if r.Outcome == Failed {
			t.Errorf("%s: %+v", r.Name, r.Findings)
		}
	}
}

func TestMisuse(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugin")
	}
	path := built(t, "./sdk/sdktest/badplugins/wasm", true)
	for name, o := range map[string]Options{
		"no such option": {Path: path, Values: []string{"nothing=1"}},
		"no value":       {Path: path, Values: []string{"fault"}},
	} {
		_, err := Test(t.Context(), o)
		if _, ok := err.(*Misuse); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]Options{
		"a server that ends":   {Path: path, Server: "echo out of disks; exit 3"},
		"an address of no one": {Path: path, Address: "somewhere"},
		"no plugin":            {Path: "kit_test.go"},
		"no file":              {Path: "nothing"},
	} {
		if _, err := Test(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		} else if name == "a server that ends" && !strings.Contains(err.Error(), "out of disks") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server is gone, with all that it started, when the run is over.
func TestServerIsStopped(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := startServer(ctx, "sleep 1000 & echo $! > "+mark+"; wait", ""); err == nil {
		t.Fatal("a server that never listens is accepted")
	}
	pid, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %s of the server lives on", pid)
}

func TestValues(t *testing.T) {
	m := manifest.Manifest{Options: []manifest.Option{{Name: "size", Type: manifest.Size, Required: true}, {Name: "on", Type: manifest.Bool},
		{Name: "n", Type: manifest.Int}, {Name: "text"}}}
	v, err := values(m, []string{"text=a=b", "size=4KiB", "on=true", "n=007"})
	if err != nil || string(encoded(m, v)) != "size=4096\x00on=true\x00n=7\x00text=a=b\x00" {
		t.Errorf("%q, %v", encoded(m, v), err)
	}
	for _, bad := range [][]string{{}, {"size=1", "on=yes"}, {"size=1", "n=-1"}, {"size=x"}, {"size=1", "text=\x00"}} {
		if _, err := values(m, bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Find(dir); err == nil {
		t.Error("an empty directory has a plugin")
	}
	write("build/a.wasm", "\x00asm")
	write("build/server", "\x7fELF")
	if got, err := Find(dir); err != nil || got != filepath.Join(dir, "build/a.wasm") {
		t.Errorf("%q, %v", got, err)
	}
	write("b.plugin", "\x7fELF")
	if _, err := Find(dir); err == nil || !strings.Contains(err.Error(), "b.plugin") {
		t.Errorf("two plugins: %v", err)
	}
}

// What a plugin in a process requires is what the engine is built from.
func TestProcessSum(t *testing.T) {
	c := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Version}}{{.Path}} {{.Version}}{{end}}{{end}}", "./sdk/process")
	c.Dir = "../.."
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(strings.ReplaceAll(string(out), " ", "@"))
	slices.Sort(want)
	want = slices.Compact(want)
	var got []string
	for _, m := range processModules() {
		got = append(got, strings.ReplaceAll(m, " ", "@"))
	}
	slices.Sort(got)
	all, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(goSum) {
		if !strings.Contains(string(all), line) {
			t.Errorf("process.sum has a line that go.sum has not: %s", line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("process.sum is about\n%q\nand sdk/process is built from\n%q:\ncopy the lines of those, with and without /go.mod, from go.sum", got, want)
	}
}

// What is replayed is handed events as if it were linked in, whatever its runtime.
func TestModule(t *testing.T) {
	needsSandbox(t)
	m, err := Module(t.Context(), built(t, "./examples/protocol-go/process", false), Loading{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Runtime() != "process" || m.Manifest().Name == "" {
		t.Errorf("%s, %+v", m.Runtime(), m.Manifest())
	}
	i, err := m.NewInstance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size := copy(i.Input(), []byte{1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	if _, _, err := i.Call(size, 0); err != nil {
		t.Errorf("it does not answer: %v", err)
	}
	i.Close()
	i.Close() // once more does no harm
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	var wrong *Misuse
	if _, err := Module(t.Context(), built(t, "./internal/e2e/teststore", false), Loading{}); !errors.As(err, &wrong) {
		t.Errorf("a store: %v", err)
	}
}
