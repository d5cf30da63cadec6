package e2e_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// The plugins in testdata/badplugins are hand-written so that they can do what
// a compiler would not let them. Each stands beside a volume that is well, and
// must cost nobody but its own clients anything.

// badPlugin says what becomes of a volume on one of them.
type badPlugin struct {
	works   bool   // its requests succeed all the same
	online  bool   // it logs in; otherwise its export never comes up
	counted string // "trap" or "violation": what is counted; "": nothing has to be
	talks   int    // bytes that the server sends first
	deaf    bool   // the server reads nothing
	payload int    // bytes of the writes that it is given; 0: 4096
	stopped bool   // the volume ends stopped
}

var badPlugins = map[string]badPlugin{
	"good":              {online: true, works: true},
	"loop-request":      {online: true, counted: "trap"},
	"loop-login":        {counted: "trap"},
	"loop-goodbye":      {online: true, works: true},
	"trap-request":      {online: true, counted: "trap"},
	"trap-login":        {counted: "trap"},
	"recurse":           {online: true, counted: "trap"},
	"eat-memory":        {online: true, counted: "trap"},
	"fill-bulk":         {online: true, counted: "trap"},
	"fill-outside":      {online: true, counted: "trap"},
	"complete-foreign":  {online: true, counted: "violation"},
	"complete-twice":    {online: true, counted: "violation"},
	"complete-unfilled": {online: true},
	"send-beyond":       {online: true, counted: "violation"},
	"timer-flood":       {online: true, works: true},
	"timer-hog":         {online: true, counted: "trap"},
	"never-consume":     {online: true, counted: "violation", talks: 64 << 10},
	"out-long":          {online: true, counted: "trap"},
	"out-odd":           {online: true, counted: "trap"},
	"rec-zero":          {online: true, counted: "violation"},
	"rec-huge":          {online: true, counted: "violation"},
	"rec-odd":           {online: true, counted: "violation"},
	"rec-short":         {online: true, counted: "violation"},
	"inline-beyond":     {online: true, counted: "violation"},
	"kind-unknown":      {online: true, counted: "violation"},
	"limits-silly":      {},
	"more-forever":      {online: true, counted: "violation"},
	"more-nothing":      {online: true, counted: "violation"},
	"want-toggle":       {online: true, counted: "violation", talks: 64 << 10},
	"discard-nothing":   {online: true, counted: "violation", talks: 64 << 10},
	"digest-forever":    {online: true},
	"hash-flood":        {online: true, payload: 8 << 20},
	"message-self":      {online: true, counted: "trap"},
	"log-flood":         {online: true, works: true},
	"send-flood":        {online: true, deaf: true, counted: "violation"},
	"fail-forever":      {online: true, stopped: true},
	"close-at-once":     {online: true},
	"never-complete":    {online: true},
}

// refused are those that the engine does not start with, and a word of the
// reason.
var refused = map[string]string{
	"loop-manifest": "budget",
	"loop-start":    "budget",
	"refill-budget": "global",
	"import-file":   "path_open",

	"buffers-outside": "outside of its memory",
	"buffers-overlap": "overlap",
}

func badModule(name string) string { return filepath.Join("testdata", "badplugins", name+".wasm") }

// TestBadPluginsAreAllTested: a module without a test is none.
func TestBadPluginsAreAllTested(t *testing.T) {
	files, err := filepath.Glob(badModule("*"))
	must(t, err)
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".wasm")
		_, runs := badPlugins[name]
		if _, no := refused[name]; !runs && !no {
			t.Errorf("%s has no test", f)
		}
	}
	if len(files) != len(badPlugins)+len(refused) {
		t.Errorf("%d modules, %d tests", len(files), len(badPlugins)+len(refused))
	}
}

func TestBadPlugins(t *testing.T) {
	t.Parallel()
	for name, p := range badPlugins {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withBadPlugin(t, name, p)
		})
	}
}

// talker is a storage server that says a number of bytes to each client, and
// reads what they say unless it is deaf.
func talker(t *testing.T, says int, deaf bool) (addr string) {
	t.Helper()
	addr = filepath.Join(nbdtest.SocketDir(t), "talker")
	l, err := net.Listen("unix", addr)
	must(t, err)
	end := make(chan struct{})
	t.Cleanup(func() { close(end); l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write(make([]byte, says))
				if deaf {
					<-end
					return
				}
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return addr
}

func withBadPlugin(t *testing.T, name string, p badPlugin) {
	module, err := filepath.Abs(badModule(name))
	must(t, err)
	timeout := "300ms"
	if p.works { // however slow the machine is
		timeout = "60s"
	}
	e := startEngine(t, config{engine: "reactors = 2", plugins: map[string]string{"bad": module}, volumes: []volume{
		{name: "bad", plugin: "bad", server: "unix:" + talker(t, p.talks, p.deaf), more: trusting(timeout, "100ms")},
		{name: "healthy", plugin: "memory", options: "size = \"8MiB\""}}})
	healthy := startModel(t, e, "healthy", 4, loadOptions{own: true, pause: gentle})
	if p.online {
		e.waitUp("bad")
		useBad(t, e, p)
	} else if v := e.volume("bad"); v.State == "online" || v.Reason == "" {
		t.Errorf("state %q, reason %q", v.State, v.Reason)
	}
	// It has had its chance to go wrong; the others have theirs to be hurt.
	before := healthy.ops.Load()
	nbdtest.WaitFor(t, "the healthy volume to go on", func() bool { return healthy.ops.Load() > before+200 })
	healthy.end()
	if n := healthy.failures.Load(); n != 0 {
		t.Errorf("%d requests of the healthy volume failed", n)
	}
	wantCounted(t, e, p)
	wantSmall(t, e)
	if err := e.terminate(endLimit); err != nil {
		t.Errorf("the engine did not end well: %v", err)
	}
}

// useBad asks the bad volume for everything. It may fail, but it must answer.
func useBad(t *testing.T, e *engine, p badPlugin) {
	t.Helper()
	c := e.dial("bad", nbdtest.Options{Structured: true})
	n := max(p.payload, 4096)
	got, err := c.Read(0, 4096, 0)
	if err == nil && !bytes.Equal(got, make([]byte, 4096)) {
		t.Fatal("a read returned what nobody has put there")
	}
	wantAnswer(t, p, "read", err)
	if p.stopped {
		e.waitState("bad", "stopped")
	}
	wantAnswer(t, p, "write", c.Write(1<<20, random(n, 1), 0))
	if err := c.Flush(); err != nil && !isErrno(err) {
		t.Errorf("flush: %v", err)
	}
}

// mayPass are those that do some requests well.
var mayPass = []string{"digest-forever", "hash-flood", "complete-unfilled", "close-at-once",
	"never-consume", "want-toggle", "discard-nothing", "timer-hog", "message-self"}

func wantAnswer(t *testing.T, p badPlugin, what string, err error) {
	t.Helper()
	name := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
	switch {
	case err != nil && !isErrno(err):
		t.Fatalf("%s: the client's own connection suffered: %v", what, err)
	case p.works && err != nil:
		t.Errorf("%s: %v", what, err)
	case !p.works && err == nil && !slices.Contains(mayPass, name):
		t.Errorf("%s succeeds", what)
	}
	if name == "complete-unfilled" && (err == nil) != (what == "write") {
		t.Errorf("%s: %v", what, err)
	}
}

func wantCounted(t *testing.T, e *engine, p badPlugin) {
	t.Helper()
	v := e.volume("bad")
	if n := v.Session; p.counted == "trap" && n.Traps == 0 || p.counted == "violation" && n.Violations == 0 {
		t.Errorf("no %s is counted: %+v", p.counted, *n)
	}
	if p.stopped && !strings.Contains(v.Reason, "done") {
		t.Errorf("the volume is %s: %q", v.State, v.Reason)
	}
	t.Logf("%s (%s) %+v", v.State, v.Reason, *v.Session)
}

// maxResident bounds what a bad plugin can make an engine hold, in bytes.
const maxResident = 512 << 20

func wantSmall(t *testing.T, e *engine) {
	t.Helper()
	if rss := residentBytes(t, e.cmd.Process.Pid); rss > maxResident && !raced {
		t.Errorf("the engine holds %d MiB", rss>>20)
	}
}

// TestRefusedPlugins: what the engine does not start with, it says before it
// serves anything, and ends with 2.
func TestRefusedPlugins(t *testing.T) {
	t.Parallel()
	for name, word := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			module, err := filepath.Abs(badModule(name))
			must(t, err)
			dir := nbdtest.SocketDir(t)
			c := config{plugins: map[string]string{"bad": module},
				volumes: []volume{{name: "bad", plugin: "bad", server: "unix:nowhere"}}}
			file := filepath.Join(dir, "engine.toml")
			must(t, os.WriteFile(file, []byte(c.text(filepath.Join(dir, "run"), filepath.Join(dir, "sock"))), 0o600))
			for _, command := range []string{"check", "run"} {
				p, err := spawn(built.engine, command, "-c", file)
				must(t, err)
				select {
				case <-p.done:
				case <-time.After(startLimit):
					p.kill()
					t.Fatalf("engine %s does not end", command)
				}
				if code := p.cmd.ProcessState.ExitCode(); code != 2 {
					t.Errorf("engine %s ends with %d, want 2", command, code)
				}
				said := p.log.String() + p.out.String()
				if !strings.Contains(said, word) || !strings.Contains(said, file) {
					t.Errorf("engine %s says no word of %q:\n%s", command, word, said)
				}
			}
		})
	}
}
