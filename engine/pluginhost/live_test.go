package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/pluginhost/wasm"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// TestMain makes the test binary its own compile helper, and the shim of the
// sandbox.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case compileHelper:
			os.Exit(wasm.CompileMain(os.Args[2:], os.Stdin, os.Stderr))
		case sandbox.Command:
			os.Exit(sandbox.Main(os.Args[2:]))
		}
	}
	dir, err := os.MkdirTemp("", "pluginhost-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builtDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

const compileHelper = "internal-compile"

var builtDir string

// nbdFile builds version 2.0.0 of the nbd plugin, once.
var nbdFile = sync.OnceValues(func() (string, error) {
	return build200("nbd.wasm", []string{"GOOS=wasip1", "GOARCH=wasm"}, "-buildmode=c-shared", "blockengine/plugins/nbd/wasm")
})

// build200 builds a form of the nbd plugin as version 2.0.0.
func build200(name string, env []string, args ...string) (string, error) {
	path := filepath.Join(builtDir, name)
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-o", path,
		"-ldflags=-s -w -X blockengine/plugins/nbd.Version=2.0.0"}, args...)...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the nbd plugin: %w\n%s", err, out)
	}
	return path, nil
}

func builtNBD(t *testing.T) string {
	t.Helper()
	path, err := nbdFile()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shaky is another version of the nbd plugin; volume a's connections panic when they have
// been offered so many requests, if that is not 0.
type shaky struct {
	protocol.Plugin
	after atomic.Int64
}

func (s *shaky) Manifest() manifest.Manifest {
	m := s.Plugin.Manifest()
	m.Version = "shaky"
	return m
}

func (s *shaky) NewConn() protocol.Conn {
	return &shakyConn{Conn: s.Plugin.NewConn(), after: s.after.Load()}
}

type shakyConn struct {
	protocol.Conn
	after, seen int64
}

func (c *shakyConn) Opened(a *protocol.Actions, o *protocol.Opened) {
	if o.Option("export") != "a" {
		c.after = 0
	}
	c.Conn.Opened(a, o)
}

func (c *shakyConn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	if c.seen += int64(len(batch)); c.after > 0 && c.seen > c.after {
		panic("shaky")
	}
	return c.Conn.Submit(a, batch)
}

// live is an upgrader with real sessions, files and a server: volumes a and b.
type live struct {
	t        *testing.T
	u        *Upgrader
	shaky    *shaky
	disks    []*Disk
	reactors []*reactor.Reactor
	stop     atomic.Bool
	load     sync.WaitGroup
	rounds   atomic.Int64
}

func newLive(t *testing.T, flags uint16) *live {
	t.Helper()
	dir := t.TempDir()
	disk := func(name string) nbdtest.Export {
		return nbdtest.Export{Name: name, Disk: nbdtest.NewDisk(8 << 20), Flags: flags}
	}
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{disk("a"), disk("b")}})
	text := ""
	for _, v := range []string{"a", "b"} {
		// A version that is cut leaves acknowledged writes whose durability is
		// unknown; that flushes say so is rule 3 and not what is looked at here.
		text += fmt.Sprintf("[[volume]]\nname = %q\nplugin = \"nbd\"\non_lost_cache = \"trust\"\n[volume.options]\nexport = %q\n[[volume.path]]\naddress = \"unix:%s\"\n", v, v, s.Addr())
	}
	file := filepath.Join(dir, "engine.toml")
	writeFile(t, file, text)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, shaky: &shaky{Plugin: nbd.Plugin()}}
	registry, problems := Load(t.Context(), cfg, Options{CacheDir: filepath.Join(dir, "cache"), Log: discard,
		Builtins: Builtins{Protocols: []protocol.Plugin{nbd.Plugin()}}})
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	l.open(cfg, registry, dir)
	return l
}

// open starts the volumes, the first of them on the first reactor.
func (l *live) open(cfg *config.Config, registry *Registry, dir string) {
	t := l.t
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cfg.Volumes {
		r, err := reactor.New(reactor.Options{Index: i})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		t.Cleanup(r.Stop)
		l.reactors = append(l.reactors, r)
	}
	for i, v := range cfg.Volumes {
		p := registry.Find(v.Plugin)
		values, problems := p.Check(cfg, &v)
		if err := problems.Err(); err != nil {
			t.Fatal(err)
		}
		d := NewDisk(DiskOptions{Config: v, Plugin: p, Values: values, Identity: id, Reactors: l.reactors, Home: l.reactors[i], Log: discard})
		l.disks = append(l.disks, d)
	}
	l.u, err = NewUpgrader(UpgraderOptions{Config: cfg, Registry: registry, Disks: l.disks, StateDir: dir, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range l.disks {
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeDisk(t, d) })
		waitState(t, d.Volume, volume.Online)
	}
	t.Cleanup(func() { l.u.Close(context.Background()) })
}

// serve has clients write and read back on each volume until end.
func (l *live) serve() {
	for i, d := range l.disks {
		c := &oneClient{r: l.reactors[i], done: make(chan struct{}, 1)}
		if home := d.Volume.Home(); home != nil {
			c.r = home
		}
		var err error
		c.r.Do(func() { c.q, err = d.Volume.Open(c.r, c, volume.QueueOptions{}) })
		if err != nil {
			l.t.Fatal(err)
		}
		l.load.Go(func() { l.work(d.Config.Name, c) })
	}
}

func (l *live) work(name string, c *oneClient) {
	got := make([]byte, 4096)
	for n := 0; !l.stop.Load(); n++ {
		data := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, 2048)
		at := uint64(n%512) * 4096
		for _, st := range []block.Status{c.do(block.OpWrite, at, data), c.do(block.OpRead, at, got), c.do(block.OpFlush, 0, nil)} {
			if st != block.OK {
				l.t.Errorf("volume %s, round %d: %v", name, n, st)
				return
			}
		}
		if !bytes.Equal(got, data) {
			l.t.Errorf("volume %s, round %d: other data come back", name, n)
			return
		}
		l.rounds.Add(1)
	}
	c.r.Do(c.q.Close)
}

// end stops the clients when some more has been served.
func (l *live) end() {
	after := l.rounds.Load() + 100
	nbdtest.WaitFor(l.t, "the load to go on", func() bool { return l.rounds.Load() >= after || l.t.Failed() })
	l.stop.Store(true)
	l.load.Wait()
}

// oneClient has one request at a time.
type oneClient struct {
	r    *reactor.Reactor
	q    *volume.Queue
	io   volume.IO
	done chan struct{}
}

func (c *oneClient) Completed([]*volume.IO) { c.done <- struct{}{} }

func (c *oneClient) do(op block.Op, at uint64, data []byte) block.Status {
	c.io = volume.IO{}
	c.io.Op, c.io.Offset, c.io.Length, c.io.Data = op, at, uint64(len(data)), [][]byte{data}
	if data == nil {
		c.io.Data = nil
	}
	c.r.Post(reactor.MailFunc(func() { c.q.Submit([]*volume.IO{&c.io}) }))
	<-c.done
	return c.io.Status
}

func (l *live) want(versions ...string) {
	l.t.Helper()
	for i, d := range l.disks {
		p, g := d.Plugin(), d.Session().Generation()
		if p.Version != versions[i] || g.Number() != p.Generation {
			l.t.Errorf("volume %s runs %s, its session number %d; want version %s", d.Config.Name, describe(p), g.Number(), versions[i])
		}
	}
}

// loadShaky stands in for a file.
func (l *live) loadShaky(context.Context, config.Plugin) (*Plugin, error) {
	p := &Plugin{Name: "nbd", Runtime: config.RuntimeWasm, Path: "/shaky"}
	p.use(guest.Linked(l.shaky))
	p.Hash = "shaky"
	return p, nil
}

func (l *live) say(e Event) {
	l.t.Logf("%s %s %s %v: %s", e.Phase, e.Volume, e.Method, e.Pause, e.Text)
}

func (l *live) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Error(err)
	}
}

// TestLive goes to another version under load and back: all volumes, one of
// them, and by itself from a version that traps.
func TestLive(t *testing.T) {
	for name, flags := range map[string]uint16{
		"many connections": nbdtest.DefaultFlags,
		"serial":           nbdtest.DefaultFlags &^ nbdtest.FlagMultiConn,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t, flags)
			l.u.seams.load = l.loadShaky
			l.serve()
			defer l.end()
			r := UpgradeRequest{Plugin: "nbd", Path: "/shaky", Watch: 300 * time.Millisecond}
			if name == "serial" {
				r.Method = name
			}
			l.want(nbd.Version, nbd.Version)
			l.must(l.u.Upgrade(t.Context(), r, l.say))
			l.want("shaky", "shaky")
			l.must(l.u.Rollback(t.Context(), RollbackRequest{Plugin: "nbd", Method: r.Method}, l.say))
			l.want(nbd.Version, nbd.Version)
			r.Volumes = []string{"b"}
			l.must(l.u.Upgrade(t.Context(), r, l.say))
			l.want(nbd.Version, "shaky")
			l.must(l.u.Rollback(t.Context(), RollbackRequest{Plugin: "nbd"}, l.say))
			l.want(nbd.Version, nbd.Version)

			l.shaky.after.Store(20)
			r.Volumes, r.Watch = nil, 10*time.Second
			err := l.u.Upgrade(t.Context(), r, l.say)
			if wantError(t, err, "rolled back: traps: "); !errors.Is(err, ErrRolledBack) {
				t.Error("it is no ErrRolledBack")
			}
			l.want(nbd.Version, nbd.Version)
			s := l.u.Status()[0]
			if s.Rollbacks[reasonTraps] != 1 || s.Rollbacks[reasonOperator] != 2 || s.Upgrades != 2 || s.Current.Generation != 1 || s.Canary != nil {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestLiveFile goes from the linked-in plugin to a file and back.
func TestLiveFile(t *testing.T) {
	if raceEnabled {
		t.Skip("the compiler takes minutes under the race detector; TestLive does all but that")
	}
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	r := UpgradeRequest{Plugin: "nbd", Path: builtNBD(t)}
	r.SHA256 = strings.Repeat("0", 64)
	wantError(t, l.u.Upgrade(t.Context(), r, l.say), "has SHA-256 ", "0000")
	r.SHA256 = ""
	l.must(l.u.Upgrade(t.Context(), r, l.say))
	l.want("2.0.0", "2.0.0")
	wantError(t, l.u.Upgrade(t.Context(), r, l.say), "run already")
	l.must(l.u.Rollback(t.Context(), RollbackRequest{Plugin: "nbd"}, l.say))
	l.want(nbd.Version, nbd.Version)
}
