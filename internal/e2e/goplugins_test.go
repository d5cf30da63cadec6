package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/internal/nbdtest"
	"blockengine/sdk/sdktest/badplugins"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// tinyServer serves a disk of 64 MiB in the protocol that the SDK's test plugins
// speak.
func tinyServer(t *testing.T) (addr string) {
	t.Helper()
	addr = filepath.Join(nbdtest.SocketDir(t), "tiny")
	l, err := net.Listen("unix", addr)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	disk := server.NewDisk(64 << 20)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = disk.Serve(c)
			}()
		}
	}()
	return addr
}

// TestGoPluginsThatMisbehave: every fault of the SDK's badly behaved plugin,
// compiled from Go, all in one engine. Clients of such a volume see errors or
// right data; the volume beside them notices nothing.
func TestGoPluginsThatMisbehave(t *testing.T) {
	module := filepath.Join(t.TempDir(), "bad.wasm")
	must(t, goTool([]string{"GOOS=wasip1", "GOARCH=wasm"}, "build", "-buildvcs=false", "-buildmode=c-shared",
		"-trimpath", "-ldflags=-s -w", "-o", module, "blockengine/sdk/sdktest/badplugins/wasm"))
	c := config{engine: "reactors = 2", plugins: map[string]string{"bad": module}, memory: "16MiB",
		volumes: []volume{{name: "healthy", plugin: "memory", options: "size = \"8MiB\""}}}
	addr := tinyServer(t)
	faults := append([]string{""}, badplugins.Faults...)
	for _, f := range faults {
		c.volumes = append(c.volumes, volume{name: "bad-" + f, plugin: "bad", server: "unix:" + addr,
			options: fmt.Sprintf("fault = %q", f), more: trusting("200ms", "100ms")})
	}
	e := startEngine(t, c)
	healthy := startModel(t, e, "healthy", 4, loadOptions{own: true, pause: gentle})
	t.Run("faults", func(t *testing.T) {
		for i, f := range faults {
			t.Run(f, func(t *testing.T) {
				t.Parallel()
				bearsFault(t, e, "bad-"+f, uint64(i)<<20, f == "")
			})
		}
	})
	before := healthy.ops.Load()
	nbdtest.WaitFor(t, "the healthy volume to go on", func() bool { return healthy.ops.Load() > before+200 })
	healthy.end()
	if n := healthy.failures.Load(); n != 0 {
		t.Errorf("%d requests of the healthy volume failed", n)
	}
	wantSmall(t, e)
	// Volumes that cannot be flushed are a reason to end with 1, the only one.
	_ = e.terminate(endLimit)
	for line := range strings.Lines(strings.TrimPrefix(lastLines(e.log.String()), "engine: ")) {
		if !strings.Contains(line, "the last flush failed") {
			t.Errorf("the engine ended because of %s", line)
		}
	}
}

// lastLines is what the engine says after its log, when it ends with 1.
func lastLines(log string) string {
	_, after, _ := strings.Cut(log, "\nengine: ")
	return after
}

// bearsFault uses a volume, all of which stand on one disk, in a place of its
// own.
func bearsFault(t *testing.T, e *engine, name string, at uint64, sound bool) {
	v := e.volume(name)
	if v.Size == 0 { // it has never logged in
		// One that neither logs in nor fails has no reason until the login's deadline.
		if sound || v.State == "online" {
			t.Errorf("state %q, reason %q", v.State, v.Reason)
		}
		t.Logf("%s (%s) %+v", v.State, v.Reason, *v.Session)
		return
	}
	c := e.dial(name, nbdtest.Options{Structured: true, MetaContexts: []string{nbdtest.BaseAllocation}})
	possible := [][]byte{make([]byte, 8192)} // what a read may give
	for i := range uint64(1) {
		data := random(8192, at+i+1)
		if err := c.Write(at, data, 0); err == nil {
			possible = [][]byte{data}
		} else if isErrno(err) && !sound {
			possible = append(possible, data)
		} else {
			t.Fatalf("write: %v", err)
		}
		got, err := c.Read(at, 8192, 0)
		if err != nil && (sound || !isErrno(err)) {
			t.Fatalf("read: %v", err)
		}
		known := err != nil
		for _, p := range possible {
			known = known || bytes.Equal(got, p)
		}
		if !known {
			t.Fatal("a read returned what nobody has written there")
		}
		if _, err := c.BlockStatus(at, 1<<20, 0); err != nil && (sound || !isErrno(err)) {
			t.Fatalf("block status: %v", err)
		}
	}
	v = e.volume(name)
	t.Logf("%s (%s) %+v", v.State, v.Reason, *v.Session)
}
