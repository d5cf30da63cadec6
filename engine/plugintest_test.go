package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/engine/kit"
)

// The command runs the suite with the engine's own helpers, and its exit status
// says how it went.
func TestPluginTest(t *testing.T) {
	t.Parallel()
	module, err := nbdWasm()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "HEAD")
	got := s.do("plugin", "test", module, "--fuzz", "100ms", "--json")
	var sum kit.Summary
	if err := json.Unmarshal([]byte(got.stdout), &sum); err != nil || got.status != exitDone {
		t.Fatalf("status %d, %v: %s", got.status, err, got.stderr)
	}
	if sum.Name != "nbd" || sum.Runtime != "wasm" || sum.Failed != 0 || sum.Passed < 4 || sum.NoServer == 0 || sum.Rounds == 0 {
		t.Errorf("%+v", sum)
	}
	got = s.do("plugin", "test", module, "--fuzz", "0s")
	if got.status != exitDone || !strings.Contains(got.stdout, "need a server: name one with --server or --address") {
		t.Errorf("%+v", got)
	}
	// A server that is none: the login fails, and the manual's place is named.
	got = s.do("plugin", "test", module, "--fuzz", "0s", "-o", "export=a", "--address", noServer(t, s.path("s")))
	if got.status != exitFailed || !strings.Contains(got.stdout, "FAIL  login/whole\n") || !strings.Contains(got.stdout, "see sdk/PLUGIN.md, chapter") {
		t.Errorf("%+v", got)
	}
	for _, wrong := range [][]string{{"--fuzz", "-1s"}, {"--memory", "much"}, {"--sandbox", "some"}, {"-o", "nothing=1"}} {
		if got := s.do(append([]string{"plugin", "test", module}, wrong...)...); got.status != exitWrong {
			t.Errorf("%q: %+v", wrong, got)
		}
	}
	if got := s.do("plugin", "test", "."); got.status != exitWrong || !strings.Contains(got.stderr, "no built plugin") {
		t.Errorf("%+v", got)
	}
}

// noServer listens and says what no server says.
func noServer(t *testing.T, path string) string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(strings.Repeat("nobody is at home\n", 10)))
			c.Close()
		}
	}()
	return "unix:" + path
}

func TestPluginNew(t *testing.T) {
	s := newSite(t, "HEAD")
	dir := s.path("mine")
	got := s.do("plugin", "new", dir, "--lang", "c")
	if got.status != exitDone || !strings.Contains(got.stdout, "make test") {
		t.Fatalf("%+v", got)
	}
	makefile, err := os.ReadFile(filepath.Join(dir, "Makefile"))
	if err != nil || !strings.Contains(string(makefile), "NAME   := mine\nENGINE ?= /") {
		t.Errorf("%v: %s", err, makefile)
	}
	if got := s.do("plugin", "new", dir); got.status != exitFailed || !strings.Contains(got.stderr, "not empty") {
		t.Errorf("%+v", got)
	}
	for _, wrong := range [][]string{{"--kind", "disk"}, {"--lang", "rust"}, {"--name", "No"}, {"--kind", "store", "--lang", "c"}} {
		if got := s.do(append([]string{"plugin", "new", s.path("other")}, wrong...)...); got.status != exitWrong {
			t.Errorf("%q: %+v", wrong, got)
		}
	}
}
