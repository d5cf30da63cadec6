package examples_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/engine/kit"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/pluginhost/wasm"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// TestMain is also the sandbox's shim, as the engine is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// needs skips where a program is missing, but not in CI.
func needs(t testing.TB, program, packages string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", program, packages)
	}
	t.Skipf("%s is missing: apt-get install %s", program, packages)
}

// goPlugin and cPlugin build a module as the manual says.
func goPlugin(t testing.TB, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "go.wasm")
	return goBuild(t, path, []string{"GOOS=wasip1", "GOARCH=wasm"}, "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", pkg)
}

func goBuild(t testing.TB, path string, env []string, args ...string) string {
	t.Helper()
	c := exec.Command("go", append([]string{"build", "-o", path}, args...)...)
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return path
}

func cPlugin(t testing.TB, src string) string {
	t.Helper()
	needs(t, "clang", "clang")
	needs(t, "wasm-ld", "lld")
	path := filepath.Join(t.TempDir(), "c.wasm")
	c := exec.Command("clang", "--target=wasm32", "-O2", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror", "-I../sdk/c",
		"-Wl,--no-entry", "-Wl,--strip-all", "-o", path, src)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return path
}

// suite runs the conformance suite as "engine plugin test" does.
func suite(t *testing.T, o kit.Options) *kit.Summary {
	t.Helper()
	if o.Fuzz == 0 {
		o.Fuzz = 2 * time.Second
	}
	sum, err := kit.Test(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range sum.Results {
		if r.Outcome == kit.Failed {
			t.Errorf("%s: %+v", r.Name, r.Findings)
		}
	}
	if sum.NoServer > 0 || sum.Rounds == 0 {
		t.Errorf("%d cases had no server, %d rounds of fuzzing", sum.NoServer, sum.Rounds)
	}
	return sum
}

// The smallest plugin, in Go and in C, each as the engine runs it. They hand
// connections over to each other: what they save is the same.
func TestSmallest(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugins")
	}
	inGo := goPlugin(t, "./protocol-go/wasm")
	server := "exec " + goBuild(t, filepath.Join(t.TempDir(), "server"), nil, "./protocol-go/server/cmd") + " $SOCKET"
	t.Run("go", func(t *testing.T) { suite(t, kit.Options{Path: inGo, Server: server}) })
	t.Run("c", func(t *testing.T) {
		sum := suite(t, kit.Options{Path: cPlugin(t, "protocol-c/plain.c"), Other: inGo, Server: server})
		if sum.Skipped > 0 {
			t.Errorf("%d cases were skipped", sum.Skipped)
		}
	})
}

// The smallest store, in a process in its sandbox.
func TestStore(t *testing.T) {
	path := goBuild(t, filepath.Join(t.TempDir(), "ram"), []string{"CGO_ENABLED=0"}, "./store-process")
	sum, err := kit.Test(t.Context(), kit.Options{Path: path, Values: []string{"size=16MiB"}})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Failed > 0 || sum.Passed < 10 {
		t.Errorf("%+v", sum.Results)
	}
}

const redis = `exec redis-server --port 0 --unixsocket $SOCKET --save "" --dir $(dirname $SOCKET)`

// The plugin for Redis passes the suite against Redis itself.
func TestRedis(t *testing.T) {
	needs(t, "redis-server", "redis-server")
	path := cPlugin(t, "redis-c/redis.c")
	t.Run("suite", func(t *testing.T) {
		suite(t, kit.Options{Path: path, Values: []string{"key=disk", "size=1MiB"}, Server: redis})
	})
	t.Run("password", func(t *testing.T) {
		suite(t, kit.Options{Path: path, Values: []string{"key=a b", "size=64KiB", "password=se cret", "durable=true"}, Fuzz: time.Second / 2,
			Server: redis + ` --requirepass "se cret" --appendonly yes --appendfsync always`})
	})
	t.Run("wrong password", func(t *testing.T) {
		sum, err := kit.Test(t.Context(), kit.Options{Path: path, Values: []string{"key=disk", "size=64KiB", "password=wrong"},
			Server: redis + ` --requirepass right`})
		if err != nil {
			t.Fatal(err)
		}
		said := fmt.Sprint(sum.Results)
		if sum.Failed != 1 || !strings.Contains(said, "WRONGPASS") || strings.Contains(said, "wrong password is") {
			t.Errorf("%d failed: %s", sum.Failed, said)
		}
	})
}

// What is written is in the string, and what the string lacks are zeroes.
func TestRedisHoldsTheDisk(t *testing.T) {
	needs(t, "redis-server", "redis-server")
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	c := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	m, err := wasm.Load(t.Context(), wasm.Options{Path: cPlugin(t, "redis-c/redis.c")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	i, err := m.NewInstance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	conn := sdktest.Over(dial(t, socket))
	defer conn.Close()
	x := sdktest.NewExecutor(t, i, conn, sdktest.Options{Manifest: m.Manifest(), Values: map[string]string{"key": "d", "size": "65536"}})
	x.Open()
	w := &sdktest.Request{Op: block.OpWrite, Offset: 512, Length: 512, Data: []byte(strings.Repeat("\r\n$5\r\n-E", 64))}
	r := &sdktest.Request{Op: block.OpRead, Offset: 0, Length: 4096}
	x.Do(w)
	x.Do(r)
	x.Do(&sdktest.Request{Op: block.OpFlush})
	want := strings.Repeat("\x00", 512) + string(w.Data) + strings.Repeat("\x00", 3072)
	if len(x.Violations) > 0 || string(r.Data) != want {
		t.Fatalf("%q; the disk is read as %q", x.Violations, r.Data[500:1100])
	}
	if got := ask(t, socket, "GETRANGE d 512 1023\r\n", 512); got != string(w.Data) {
		t.Errorf("the string holds %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "dump.rdb")); err != nil {
		t.Errorf("after a flush there is no snapshot: %v", err)
	}
}

// dial waits for the server.
func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// ask gives the n bytes of the answer to an inline command.
func ask(t *testing.T, socket, command string, n int) string {
	t.Helper()
	c := dial(t, socket)
	defer c.Close()
	if _, err := c.Write([]byte(command)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	for at := 0; at < n; {
		k, err := in.Read(b[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += k
	}
	return string(b)
}
