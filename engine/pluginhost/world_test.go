package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// fakeModule is a plugin that nobody runs.
type fakeModule struct {
	manifest manifest.Manifest
	hash     string
	closed   atomic.Int32
}

func (m *fakeModule) Manifest() manifest.Manifest { return m.manifest }
func (m *fakeModule) Hash() string                { return m.hash }
func (m *fakeModule) Runtime() string             { return "wasm" }
func (m *fakeModule) Close() error                { m.closed.Add(1); return nil }
func (m *fakeModule) NewInstance(context.Context) (guest.Instance, error) {
	return nil, errors.New("not here")
}

// fakeSession does what it is told instead of talking to a server.
type fakeSession struct {
	mu       sync.Mutex // guards what follows
	gen      *session.Generation
	online   int
	health   map[*session.Generation]*session.Health
	verify   func(g *session.Generation) error
	takeOver func(to *session.Generation) error // nil: it works
	took     []session.Takeover
	cuts     []string
}

const fakePause = 3 * time.Millisecond

func (f *fakeSession) Verify(ctx context.Context, g *session.Generation) error {
	if f.verify != nil {
		return f.verify(g)
	}
	return wait(ctx, 20*time.Millisecond)
}

// wait takes its time, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeSession) TakeOver(ctx context.Context, t session.Takeover) (session.Outcome, error) {
	err := wait(ctx, 50*time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.takeOver != nil {
		err = f.takeOver(t.To)
	}
	if err != nil {
		return session.Outcome{}, err
	}
	m := session.Handover
	if len(t.Methods) > 0 {
		m = t.Methods[0]
	}
	t.Report(m, "drained")
	f.took, f.gen = append(f.took, t), t.To
	return session.Outcome{Method: m, Pause: fakePause}, nil
}

func (f *fakeSession) Cut(g *session.Generation, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gen, f.cuts = g, append(f.cuts, why)
}

func (f *fakeSession) Generation() *session.Generation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gen
}

func (f *fakeSession) Path() session.PathStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return session.PathStatus{Connections: f.online}
}

// fails makes takeovers to a generation fail: 0 is any.
func (f *fakeSession) fails(number int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeOver = func(to *session.Generation) error {
		if number == 0 || to.Number() == number {
			return err
		}
		return nil
	}
}

// serve changes what the running generation has counted.
func (f *fakeSession) serve(change func(h *session.Health)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.healthOf(f.gen))
}

func (f *fakeSession) healthOf(g *session.Generation) *session.Health {
	if f.health[g] == nil {
		f.health[g] = &session.Health{}
	}
	return f.health[g]
}

// world is an engine's upgrader with sessions and files that are not there:
// volumes a, b and c on the plugin nbd, d on other, m on the store memory.
type world struct {
	t        *testing.T
	dir      string
	u        *Upgrader
	registry *Registry
	disks    map[string]*Disk
	sessions map[string]*fakeSession
	loadTime time.Duration
	saved    []string
	saveErr  error

	mu     sync.Mutex // guards what follows
	files  map[string]*fakeModule
	made   []*Plugin // of nbd
	events []Event
}

const worldText = `[[plugin]]
name = "nbd"
runtime = "wasm"
path = "/v1.wasm"
watch = "1s"
[[plugin]]
name = "other"
runtime = "wasm"
path = "/o1.wasm"
`

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldIn(t, t.TempDir())
}

// worldIn starts with what another engine has left in its state directory.
func worldIn(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, disks: map[string]*Disk{}, sessions: map[string]*fakeSession{}, files: map[string]*fakeModule{},
		loadTime: 100 * time.Millisecond}
	for i, v := range []string{"1.0", "1.1", "1.2", "1.3"} {
		w.file(fmt.Sprintf("/v%d.wasm", i+1), "nbd", v)
	}
	w.file("/o1.wasm", "other", "1.0")
	w.file("/o2.wasm", "other", "2.0")
	w.file("/wrong.wasm", "iscsi", "1.0")
	w.file("/empty.wasm", "nbd", "9").manifest.Options = nil
	strict := w.file("/strict.wasm", "nbd", "9")
	strict.manifest.Options = []manifest.Option{{Name: "export", Type: manifest.Int}, {Name: "realm", Required: true}}
	cfg := w.config()
	w.registry = &Registry{opt: Options{Log: discard, Builtins: Builtins{Protocols: []protocol.Plugin{linkedNBD{}}}}}
	for _, p := range cfg.Plugins {
		w.adopt(w.plugin(p))
	}
	w.adopt(&Plugin{Name: "memory", Kind: Store, Runtime: config.RuntimeBuiltin, Hash: hashBuiltin, ManifestName: "memory"})
	var disks []*Disk
	for _, v := range cfg.Volumes {
		d := &Disk{Config: v, plugin: w.registry.Find(v.Plugin), Volume: volume.New(volume.Options{Name: v.Name, Log: discard})}
		d.Volume.SetState(volume.Online, "")
		w.disks[v.Name], disks = d, append(disks, d)
	}
	w.open(UpgraderOptions{Config: cfg, Registry: w.registry, Disks: disks, StateDir: dir, Save: w.save, Log: discard})
	return w
}

func (w *world) config() *config.Config {
	w.t.Helper()
	text := worldText
	for _, v := range []string{"a", "b", "c", "d", "m"} {
		plugin := map[string]string{"d": "other", "m": "memory"}[v]
		if plugin == "" {
			plugin = "nbd"
		}
		text += fmt.Sprintf("[[volume]]\nname = %q\nplugin = %q\n", v, plugin)
		if plugin != "memory" {
			text += "[volume.options]\nexport = \"" + v + "\"\n[[volume.path]]\naddress = \"unix:/s\"\n"
		}
	}
	file := filepath.Join(w.t.TempDir(), "engine.toml")
	writeFile(w.t, file, text)
	cfg, err := config.Load(file)
	if err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

// open makes the upgrader and the sessions.
func (w *world) open(o UpgraderOptions) {
	w.t.Helper()
	var err error
	w.u, err = newUpgrader(o, seams{load: w.load, health: w.health,
		runner: func(d *Disk) runner {
			if f := w.sessions[d.Config.Name]; f != nil {
				return f
			}
			return nil
		}})
	if err != nil {
		w.t.Fatal(err)
	}
	for name, d := range w.disks {
		if p := d.Plugin(); p.Kind == Protocol {
			w.sessions[name] = &fakeSession{online: 1, gen: session.NewGeneration(p.Generation, p.module, nil, 1),
				health: map[*session.Generation]*session.Health{}}
		}
	}
	w.t.Cleanup(func() { w.u.Close(context.Background()) })
}

// file makes a module that can be loaded from path.
func (w *world) file(path, name, version string) *fakeModule {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := sha256.Sum256([]byte(name + version + path))
	m := &fakeModule{hash: hex.EncodeToString(sum[:]), manifest: manifest.Manifest{Name: name, Version: version, ABI: 1 << 16,
		Options: []manifest.Option{{Name: "export"}}}}
	w.files[path] = m
	return m
}

func (w *world) plugin(p config.Plugin) *Plugin {
	w.mu.Lock()
	defer w.mu.Unlock()
	loaded := &Plugin{Name: p.Name, Runtime: config.RuntimeWasm, Path: p.Path}
	// As the loader does, make a module for each time that it is asked.
	f := w.files[p.Path]
	loaded.use(&fakeModule{manifest: f.manifest, hash: f.hash})
	if p.Name == "nbd" {
		w.made = append(w.made, loaded)
	}
	return loaded
}

func (w *world) adopt(p *Plugin) {
	w.registry.plugins, w.registry.loaded = append(w.registry.plugins, p), append(w.registry.loaded, p)
}

// load stands in for Registry.load.
func (w *world) load(ctx context.Context, p config.Plugin) (*Plugin, error) {
	if err := wait(ctx, w.loadTime); err != nil {
		return nil, err
	}
	w.mu.Lock()
	f := w.files[p.Path]
	w.mu.Unlock()
	switch {
	case f == nil:
		return nil, fmt.Errorf("read plugin: open %s: %w", p.Path, os.ErrNotExist)
	case p.SHA256 != "" && p.SHA256 != f.hash:
		return nil, errors.New("wrong hash")
	case p.Memory == 0:
		return nil, errors.New("no cap")
	}
	loaded := w.plugin(p)
	w.registry.mu.Lock()
	defer w.registry.mu.Unlock()
	w.registry.loaded = append(w.registry.loaded, loaded)
	return loaded, nil
}

func (w *world) health(g *session.Generation) session.Health {
	for _, f := range w.sessions {
		f.mu.Lock()
		h, ok := f.health[g]
		if ok {
			defer f.mu.Unlock()
			return *h
		}
		f.mu.Unlock()
	}
	return session.Health{}
}

func (w *world) save(p *Plugin) error {
	if w.saveErr == nil {
		w.saved = append(w.saved, p.Path)
	}
	return w.saveErr
}

// note keeps an event.
func (w *world) note(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// said gives the events' texts of a phase.
func (w *world) said(p Phase) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, e := range w.events {
		if e.Phase == p {
			fmt.Fprintf(&b, "%s %s: %s\n", e.Volume, e.Method, e.Text)
		}
	}
	return b.String()
}

// upgrade goes over to a file for some volumes, or all.
func (w *world) upgrade(path string, volumes ...string) error {
	return w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Path: path, Watch: -1, Volumes: volumes}, w.note)
}

func (w *world) rollback(volumes ...string) error {
	return w.u.Rollback(context.Background(), RollbackRequest{Plugin: "nbd", Volumes: volumes}, w.note)
}

func (w *world) mustUpgrade(path string, volumes ...string) {
	w.t.Helper()
	if err := w.upgrade(path, volumes...); err != nil {
		w.t.Fatal(err)
	}
}

// status of the plugin nbd.
func (w *world) status() LineStatus {
	w.t.Helper()
	list := w.u.Status()
	i := slices.IndexFunc(list, func(l LineStatus) bool { return l.Name == "nbd" })
	if i < 0 {
		w.t.Fatalf("no plugin nbd in %+v", list)
	}
	return list[i]
}

// want compares the versions of the roles ("" for none), of the volumes a, b
// and c, and of the open records with what they should be, and that exactly the
// roles' modules are loaded.
func (w *world) want(current, previous, canary, volumes string) {
	w.t.Helper()
	s := w.status()
	if got := versions(s.Current, s.Previous, s.Canary); got != current+"|"+previous+"|"+canary {
		w.t.Errorf("current|previous|canary are %s, want %s|%s|%s", got, current, previous, canary)
	}
	if w.registry.Find("nbd") != s.Current {
		w.t.Error("the registry has another one")
	}
	var run []string
	open := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		p, f := w.disks[name].Plugin(), w.sessions[name]
		run = append(run, p.Version)
		open[p.Version] = true
		if f != nil && f.Generation().Number() != p.Generation {
			w.t.Errorf("volume %s runs number %d, its disk says %d", name, f.Generation().Number(), p.Generation)
		}
	}
	if got := strings.Join(run, " "); got != volumes {
		w.t.Errorf("a, b, c run %s, want %s", got, volumes)
	}
	recorded := map[string]bool{}
	for _, r := range s.History {
		if r.Ended == "" {
			recorded[r.Version] = true
		}
	}
	if !maps.Equal(open, recorded) {
		w.t.Errorf("%v run, the history says %v", open, recorded)
	}
	w.wantLoaded(s)
}

func versions(list ...*Plugin) string {
	var names []string
	for _, p := range list {
		if p == nil {
			names = append(names, "")
			continue
		}
		names = append(names, p.Version)
	}
	return strings.Join(names, "|")
}

// wantLoaded checks that what has a role is loaded and the rest is closed, once.
func (w *world) wantLoaded(s LineStatus) {
	w.t.Helper()
	w.registry.mu.Lock()
	defer w.registry.mu.Unlock()
	for _, p := range w.made {
		closes, want := p.module.(*fakeModule).closed.Load(), int32(1)
		if p == s.Current || p == s.Previous || p == s.Canary {
			want = 0
		}
		if closes != want || slices.Contains(w.registry.loaded, p) != (want == 0) {
			w.t.Errorf("%s was closed %d times, want %d", describe(p), closes, want)
		}
	}
}

// linkedNBD is the plugin that is linked into the engine.
type linkedNBD struct{}

func (linkedNBD) Manifest() manifest.Manifest {
	return manifest.Manifest{Name: "nbd", Version: "built in", Options: []manifest.Option{{Name: "export"}}}
}

func (linkedNBD) NewConn() protocol.Conn { return nil }
