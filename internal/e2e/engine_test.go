package e2e_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// volume is a [[volume]] and the export of the same name.
type volume struct {
	name, plugin string
	server       string // of a protocol plugin: the address of its path
	options      string // lines of [volume.options]
	more         string // more lines of [[volume]]
	vhost        int    // queues of a virtual machine's disk, which the export is then; 0: it is for NBD
}

// config is what engine.toml is made of. Every plugin whose name is not
// builtin, and nbd, is WebAssembly.
type config struct {
	binary  string            // the engine; "": the one that users have
	engine  string            // more lines of [engine]
	plugins map[string]string // name: file of a module
	memory  string            // that each of them may have; "": 2MiB
	nbdFile string            // its file; "": the version 1 that is built
	http    string            // address of the metrics; "": none
	volumes []volume
}

// trusting is for servers that keep what they have acknowledged when a
// connection, or their process, ends. fence is in seconds.
func trusting(timeout, fence string) string {
	return fmt.Sprintf("timeout = %q\nfence = %q\non_lost_cache = \"trust\"\n", timeout, fence)
}

// text writes the file. The socket is the listener of all exports.
func (c *config) text(stateDir, socket string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[engine]\nstate_dir = %q\nhttp = %q\nlog_level = \"debug\"\n%s\n", stateDir, c.http, c.engine)
	if slices.ContainsFunc(c.volumes, func(v volume) bool { return v.plugin == "nbd" }) {
		fmt.Fprintf(&b, "[[plugin]]\nname = \"nbd\"\nruntime = \"wasm\"\npath = %q\n", cmp.Or(c.nbdFile, built.nbd))
	}
	for name, file := range c.plugins {
		fmt.Fprintf(&b, "[[plugin]]\nname = %q\nruntime = \"wasm\"\npath = %q\nmemory = %q\n", name, file, cmp.Or(c.memory, "2MiB"))
	}
	for _, v := range c.volumes {
		fmt.Fprintf(&b, "[[volume]]\nname = %q\nplugin = %q\n%s\n[volume.options]\n%s\n", v.name, v.plugin, v.more, v.options)
		if v.server != "" {
			fmt.Fprintf(&b, "[[volume.path]]\naddress = %q\n", v.server)
		}
		fmt.Fprintf(&b, "[[export]]\nname = %q\nvolume = %q\n", v.name, v.name)
		if v.vhost > 0 {
			fmt.Fprintf(&b, "frontend = \"vhost-user-blk\"\nsocket = %q\nqueues = %d\n", vhostSocket(socket, v.name), v.vhost)
		} else {
			fmt.Fprintf(&b, "frontend = \"nbd\"\nlisten = \"unix:%s\"\n", socket)
		}
	}
	return b.String()
}

// vhostSocket is the socket of a virtual machine's disk, beside that of NBD.
func vhostSocket(socket, export string) string {
	return filepath.Join(filepath.Dir(socket), export+".vhost")
}

// engine is an engine under test.
type engine struct {
	*process
	t      testing.TB
	binary string
	file   string // its configuration
	socket string // of its exports, but for those of virtual machines
	state  string // its state directory
	prefix []string
}

// startEngine runs an engine until the test ends; then it must end with 0. It
// waits for "ready", which does not say that every volume is there.
func startEngine(t testing.TB, c config, prefix ...string) *engine {
	t.Helper()
	dir := nbdtest.SocketDir(t)
	e := &engine{t: t, binary: cmp.Or(c.binary, built.engine), file: filepath.Join(dir, "engine.toml"), socket: filepath.Join(dir, "nbd.sock"),
		state: filepath.Join(dir, "run"), prefix: prefix}
	if err := os.WriteFile(e.file, []byte(c.text(e.state, e.socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(e.state, "cache")
	must(t, os.MkdirAll(cache, 0o700))
	must(t, os.Chmod(e.state, 0o700))
	must(t, os.CopyFS(cache, os.DirFS(built.cache)))
	e.start()
	t.Cleanup(e.end)
	return e
}

// startLimit and endLimit bound the start and the end of an engine; both are
// generous, for machines under load.
const (
	startLimit = time.Minute
	endLimit   = 50 * time.Second
)

func (e *engine) start() {
	e.t.Helper()
	p, err := spawn(e.command()[0], e.command()[1:]...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.process = p
	if !p.waitOutput("ready\n", startLimit) {
		e.t.Errorf("the engine is not ready:\n%s\n%s", p.out.String(), p.log.String())
		p.kill()
		e.t.FailNow()
	}
}

func (e *engine) command() []string {
	return append(slices.Clone(e.prefix), e.binary, "run", "-c", e.file)
}

// neverSaid begins no line of an engine's log; what plugins say stands within one.
var neverSaid = []string{"panic: ", "fatal error: ", "WARNING: DATA RACE", "goroutine 1 ["}

// end is the last check of every test: exit status 0, and nothing in the log
// that must never be there.
func (e *engine) end() {
	select {
	case <-e.done: // the test has ended it
	default:
		if err := e.terminate(endLimit); err != nil {
			e.t.Errorf("the engine did not end well: %v", err)
		}
	}
	log := e.log.String()
	for _, never := range neverSaid {
		if strings.Contains("\n"+log, "\n"+never) {
			e.t.Errorf("the engine's log holds %q", never)
		}
	}
	if e.t.Failed() {
		const most = 6000
		e.t.Logf("the end of the engine's log:\n%s", log[max(0, len(log)-most):])
	}
}

// uri of an export.
func (e *engine) uri(export string) string {
	return "nbd+unix:///" + url.PathEscape(export) + "?socket=" + e.socket
}

// dial connects a strict client to an export.
func (e *engine) dial(export string, o nbdtest.Options) *nbdtest.Client {
	e.t.Helper()
	o.Export = export
	if o.Timeout == 0 {
		o.Timeout = 60 * time.Second
	}
	return nbdtest.Connect(e.t, "unix", e.socket, o)
}

// status asks as a user does.
func (e *engine) status() admin.Status {
	e.t.Helper()
	out, err := exec.Command(built.engine, "status", "--json", "-c", e.file).Output()
	if err != nil {
		e.t.Fatalf("engine status: %v\n%s", err, e.log.String())
	}
	var s admin.Status
	must(e.t, json.Unmarshal(out, &s))
	return s
}

// volume gives the status of one.
func (e *engine) volume(name string) admin.Volume {
	e.t.Helper()
	for _, v := range e.status().Volumes {
		if v.Name == name {
			return v
		}
	}
	e.t.Fatalf("status shows no volume %q", name)
	return admin.Volume{}
}

// waitVolume waits until a volume's status is as cond wants it.
func (e *engine) waitVolume(name, what string, cond func(admin.Volume) bool) {
	e.t.Helper()
	nbdtest.WaitFor(e.t, "volume "+name+": "+what, func() bool { return cond(e.volume(name)) })
}

func (e *engine) waitState(name, state string) {
	e.t.Helper()
	e.waitVolume(name, state, func(v admin.Volume) bool { return v.State == state })
}

// waitUp waits until an export is up.
func (e *engine) waitUp(name string) {
	e.t.Helper()
	nbdtest.WaitFor(e.t, "export "+name, func() bool {
		for _, x := range e.status().Exports {
			if x.Name == name {
				return x.Up
			}
		}
		return false
	})
}
