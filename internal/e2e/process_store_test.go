package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdload"
	"blockengine/internal/nbdtest"
)

// programs are the plugins that run as processes, built when they are first
// wanted.
type programs struct {
	store, store2 string // teststore, and the same as version 2.0.0
	nbd, nbd2     string // the nbd plugin, and the same as version 2.0.0
}

var buildPrograms = sync.OnceValues(func() (p programs, err error) {
	dir := filepath.Dir(built.engine)
	make := func(file, ldflags, pkg string) string {
		path := filepath.Join(dir, file)
		if err == nil {
			err = goTool([]string{"CGO_ENABLED=0"}, "build", "-buildvcs=false", "-ldflags=-s -w "+ldflags, "-o", path, pkg)
		}
		return path
	}
	const store, nbd = "blockengine/internal/e2e/teststore", "blockengine/plugins/nbd/process"
	p.store, p.store2 = make("teststore", "", store), make("teststore2", "-X main.version="+version2, store)
	p.nbd, p.nbd2 = make("nbd-process", "", nbd), make("nbd2-process", "-X blockengine/plugins/nbd.Version="+version2, nbd)
	return p, err
})

func builtPrograms(t testing.TB) programs {
	t.Helper()
	p, err := buildPrograms()
	must(t, err)
	return p
}

// section is a [[plugin]] that runs as a process, to be put after the lines of
// [engine].
func section(name, file string, more ...string) string {
	return fmt.Sprintf("[[plugin]]\nname = %q\nruntime = \"process\"\npath = %q\n%s\n", name, file, strings.Join(more, "\n"))
}

// sharedDir is a directory that a plugin's process may write to, whichever user
// it runs as.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shared")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	return dir
}

// storeImage is a disk for teststore, with the lines of its section and its
// volume.
func storeImage(t testing.TB) (path, more, options string) {
	t.Helper()
	dir := sharedDir(t)
	path = filepath.Join(dir, "disk")
	must(t, os.WriteFile(path, nil, 0o666))
	must(t, os.Chmod(path, 0o666))
	must(t, os.Truncate(path, diskSize))
	return path, fmt.Sprintf("read_write = [%q]", dir), fmt.Sprintf("path = %q", path)
}

// processOf is the process of a plugin, as status shows it.
func (e *engine) processOf(plugin string) admin.Process {
	e.t.Helper()
	for _, p := range e.status().Plugins {
		if p.Name == plugin && p.Process != nil {
			return *p.Process
		}
	}
	e.t.Fatalf("status shows no process of plugin %q", plugin)
	return admin.Process{}
}

// killProcess sends a plugin's process a signal, if it has one.
func (e *engine) killProcess(plugin string, s syscall.Signal) {
	if pid := e.processOf(plugin).PID; pid > 0 {
		_ = syscall.Kill(pid, s)
	}
}

// storeEngine runs a volume "disk" on teststore.
func storeEngine(t *testing.T, more ...string) (e *engine, image string) {
	t.Helper()
	image, line, options := storeImage(t)
	e = startEngine(t, config{engine: "reactors = 2\n" + section("store", builtPrograms(t).store, append(more, line)...),
		volumes: []volume{{name: "disk", plugin: "store", options: options, more: trusting("30s", "1s")}}})
	e.waitUp("disk")
	return e, image
}

// TestStoreProcessKilled: the process is killed about once a second under fio,
// which sees neither an error nor a mismatch.
func TestStoreProcessKilled(t *testing.T) {
	t.Parallel()
	e, _ := storeEngine(t)
	kills := 0
	underFaults(t, e.uri("disk"), loadTime(5*time.Second), time.Second, func(int) {
		e.killProcess("store", syscall.SIGKILL)
		kills++
	})
	nbdtest.WaitFor(t, "the volume after the last kill", func() bool {
		v := e.volume("disk")
		return v.State == "online" && v.Session.Traps > 0
	})
	v := e.volume("disk")
	if kills == 0 || v.Session.Traps == 0 || len(v.Errors) != 0 {
		t.Errorf("%d kills, errors %v, %+v", kills, v.Errors, *v.Session)
	}
	if p := e.processOf("store"); p.Restarts == 0 || !strings.Contains(p.LastEnd, "signal 9") {
		t.Errorf("%+v", p)
	}
}

// TestProtocolProcessKilled: the same with the nbd plugin, whose server goes on. It
// is not nbdkit, see TestConnectionsCutUnderLoad.
func TestProtocolProcessKilled(t *testing.T) {
	t.Parallel()
	image := nbdtest.Image(t, diskSize, nil)
	server := nbdtest.StartQSD(t, image)
	e := startEngine(t, config{engine: "reactors = 2\n" + section("apart", builtPrograms(t).nbd),
		volumes: []volume{{name: "disk", plugin: "apart", server: "unix:" + server.Addr(), options: `export = "disk"`, more: trusting("30s", "500ms")}}})
	e.waitUp("disk")
	kills := 0
	underFaults(t, e.uri("disk"), loadTime(5*time.Second), time.Second, func(int) {
		e.killProcess("apart", syscall.SIGKILL)
		kills++
	})
	nbdtest.WaitFor(t, "the volume after the last kill", func() bool {
		v := e.volume("disk")
		return v.State == "online" && v.Session.Traps > 0
	})
	v := e.volume("disk")
	if kills == 0 || v.Session.Traps == 0 || len(v.Errors) != 0 {
		t.Errorf("%d kills, errors %v, %+v", kills, v.Errors, *v.Session)
	}
	compare(t, server.URI("disk"), e.uri("disk"))
}

// TestProcessStopped: a process that stops is found, killed and replaced, and
// what waited for it goes on.
func TestProcessStopped(t *testing.T) {
	t.Parallel()
	e, _ := storeEngine(t)
	c := e.dial("disk", nbdtest.Options{})
	data := random(4096, 1)
	must(t, c.Write(0, data, 0))
	e.killProcess("store", syscall.SIGSTOP)
	must(t, c.Write(8192, data, 0)) // it waits
	mustRead(t, c, 0, data)
	mustRead(t, c, 8192, data)
	if p := e.processOf("store"); p.Restarts != 1 || !strings.Contains(p.LastEnd, "hang") {
		t.Errorf("%+v", p)
	}
}

// misdeed says what becomes of a volume whose plugin commits one.
type misdeed struct {
	works   bool   // requests succeed all the same
	says    string // in the log
	never   string // must not be there
	section []string
}

var misdeeds = map[string]misdeed{
	"exit":       {says: "exit status 7"},
	"panic":      {says: "panic: as it was told"},
	"loop":       {says: "hang"},
	"never":      {says: "hang"},
	"memory":     {says: "more memory than it may", section: []string{`memory = "64MiB"`}},
	"fork":       {says: "exit status 0"},
	"log":        {works: true, says: "dropped_before"},
	"dial":       {works: true, says: "interfaces: ", never: "reached"},
	"write-file": {works: true, says: "tried to write", never: "wrote /"},
	"index":      {says: "plugin trapped: output"},
	"twice":      {says: "plugin trapped: output"},
	"foreign":    {says: "plugin trapped: output"},
	"garbage":    {says: "plugin trapped: output"},
}

// TestHostileProcesses: what a process does wrong hurts its own volume only,
// leaves nothing behind, and is told of.
func TestHostileProcesses(t *testing.T) {
	for name, m := range misdeeds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withHostileProcess(t, name, m)
		})
	}
}

func withHostileProcess(t *testing.T, name string, m misdeed) {
	file := builtPrograms(t).store
	port := listening(t)
	timeout := "3s"
	if m.works { // however slow the machine is
		timeout = "60s"
	}
	e := startEngine(t, config{
		engine: "reactors = 2\n" + section("bad", file, m.section...) + section("good", file),
		volumes: []volume{
			{name: "bad", plugin: "bad", more: trusting(timeout, "100ms"), options: fmt.Sprintf("size = \"8MiB\"\nmisdeed = %q", name)},
			{name: "healthy", plugin: "good", options: "size = \"8MiB\""}}}, "env", "PORT="+port)
	e.waitUp("bad")
	healthy := startModel(t, e, "healthy", 4, loadOptions{own: true})
	c := e.dial("bad", nbdtest.Options{})
	must(t, c.Write(0, random(4096, 1), 0))
	err := c.Write(1<<20, random(4096, 2), 0)
	switch {
	case err != nil && !isErrno(err):
		t.Errorf("the client's own connection suffered: %v", err)
	case m.works && err != nil:
		t.Errorf("the write failed: %v", err)
	}
	if !e.waitLog(m.says, startLimit) {
		t.Errorf("the log says no word of %q", m.says)
	}
	before := healthy.ops.Load()
	nbdtest.WaitFor(t, "the healthy volume to go on", func() bool { return healthy.ops.Load() > before+200 })
	healthy.end()
	if n := healthy.failures.Load(); n != 0 {
		t.Errorf("%d requests of the healthy volume failed", n)
	}
	if p := e.processOf("good"); p.Restarts != 0 || p.PID == 0 {
		t.Errorf("the other plugin's process: %+v", p)
	}
	log := e.log.String()
	if m.never != "" && strings.Contains(log, m.never) {
		t.Errorf("the log says %q", m.never)
	}
	if len(log) > 1<<20 {
		t.Errorf("the engine's log has %d bytes", len(log))
	}
	if left := sleepers(); left != 0 && name == "fork" {
		t.Errorf("%d processes that the plugin has forked are left", left)
	}
	wantSmall(t, e)
}

// listening gives the port of somebody on this host.
func listening(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// sleepers counts what misdeed "fork" leaves.
func sleepers() (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "987654") {
			n++
		}
	}
	return n
}

// TestEngineKilledWithProcesses: an engine that is killed leaves no process of a
// plugin's behind, and the next one serves the same disk.
func TestEngineKilledWithProcesses(t *testing.T) {
	t.Parallel()
	e, _ := storeEngine(t)
	c := e.dial("disk", nbdtest.Options{})
	data := random(4096, 1)
	must(t, c.Write(0, data, 0))
	for range 3 {
		pid := e.processOf("store").PID
		e.kill()
		nbdtest.WaitFor(t, "the plugin's process to end", func() bool { return syscall.Kill(pid, 0) != nil })
		e.start()
		e.waitUp("disk")
		mustRead(t, e.dial("disk", nbdtest.Options{}), 0, data)
		if dirs, _ := filepath.Glob(filepath.Join(e.state, "plugins", "*")); len(dirs) != 1 {
			t.Errorf("directories of one process: %q", dirs)
		}
	}
}

// TestProcessKillGaps: how long clients wait for a process that was killed is
// told, not judged: that is the benchmark's.
func TestProcessKillGaps(t *testing.T) {
	e, _ := storeEngine(t)
	load, err := nbdload.Start(t.Context(), nbdload.Options{Network: "unix", Addr: e.socket, Export: "disk",
		Connections: 2, ReadPercent: 60, FlushEvery: 200, Length: 8 << 20, Run: 5 * time.Minute, Timeout: time.Minute})
	must(t, err)
	var windows []window
	for range upgrades(6) {
		e.waitState("disk", "online")
		time.Sleep(600 * time.Millisecond) // one that dies young is replaced later
		traps := e.volume("disk").Session.Traps
		windows = append(windows, during(load, func() {
			e.killProcess("store", syscall.SIGKILL)
			e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Traps > traps })
			goesOn(t, load, 100)
		}))
	}
	r, err := load.Stop()
	if err != nil || r.Bad() != nil {
		t.Errorf("the load: %v, %v, %d requests", err, r.Bad(), r.Completed())
	}
	if v := e.volume("disk"); len(v.Errors) != 0 || v.Session.Traps < uint64(len(windows)) {
		t.Errorf("errors %v, %+v", v.Errors, *v.Session)
	}
	var gaps []float64
	for _, w := range windows {
		gaps = append(gaps, r.Gap(w.from, w.to).Seconds())
	}
	t.Logf("longest gap between completions, process killed (%d): %s", len(gaps), spread(gaps))
}
