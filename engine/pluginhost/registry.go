package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/process"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/pluginhost/wasm"
	"blockengine/engine/session"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// Kind is which contract a plugin fulfils.
type Kind string

// The kinds of plugins.
const (
	Protocol Kind = "protocol" // encapsulates; the engine connects it to a server
	Store    Kind = "store"    // does its own I/O
)

// Plugin is a loaded plugin. It is not changed once it is loaded and, by
// NewUpgrader or an upgrade, numbered.
type Plugin struct {
	Name       string // what volumes call it
	Kind       Kind
	Runtime    config.Runtime
	Path       string // of its file, "" if it is builtin
	Hash       string // SHA-256 of its file in hex, or "builtin"
	Version    string
	ABI        uint32 // of a protocol plugin
	Generation int    // tells the versions of a plugin apart; a later one has a greater number
	Options    []manifest.Option
	// ManifestName is what the plugin calls itself: versions of one plugin have
	// the same.
	ManifestName string

	module guest.Module    // of a protocol plugin
	store  store.Plugin    // of a store plugin that is linked in
	apart  guest.Store     // of a store plugin in a process
	host   *process.Loaded // of a plugin in a process
}

// Upgradable tells whether another version can take the plugin's volumes over
// while they are in use.
func (p *Plugin) Upgradable() bool { return p.Kind == Protocol || p.apart != nil }

// Process tells how the plugin's process fares; ok is false if it has none.
func (p *Plugin) Process() (s process.Status, ok bool) {
	if p.host == nil {
		return s, false
	}
	return p.host.Status(), true
}

// generation is the plugin as a session of one volume runs it.
func (p *Plugin) generation(v Values, reactors int) *session.Generation {
	if p.apart != nil {
		return session.NewStoreGeneration(p.Generation, p.apart, v.Encoded(), reactors)
	}
	return session.NewGeneration(p.Generation, p.module, v.Encoded(), reactors)
}

// close unloads it; what is left of its instances and links ends by itself.
func (p *Plugin) close() error {
	switch {
	case p.host != nil:
		return p.host.Close()
	case p.module != nil:
		return p.module.Close()
	}
	return nil
}

// hashBuiltin is the hash of what is linked into the engine.
const hashBuiltin = "builtin"

// Builtins are the plugins that are linked into the engine.
type Builtins struct {
	Stores    []store.Plugin
	Protocols []protocol.Plugin
}

// Options of a registry.
type Options struct {
	Builtins Builtins
	CacheDir string   // for compiled modules; "": they are compiled for this process alone
	Self     []string // the command that compiles modules; see wasm.Options
	// StateDir is the engine's own, where it keeps which processes it has; "": they
	// are not kept, because nothing is served.
	StateDir string
	Hide     []string      // absolute; what processes in a sandbox do not see
	Poll     time.Duration // how long processes look for requests before they sleep
	Log      *slog.Logger
}

// Registry holds the loaded plugins. It is filled by Load; upgrades replace
// plugins in it. Its methods are safe from any goroutine.
type Registry struct {
	opt Options

	mu      sync.Mutex // guards what follows; held for short copies only
	plugins []*Plugin  // what volumes run, in the order of the file, then builtin ones without a section
	loaded  []*Plugin  // those, and what can be gone back to or is being tried: all to be closed
	closed  bool
}

// Load loads every plugin that has a section or is used by a volume. All that
// is wrong is reported at once; the registry is returned in any case, so that
// the volumes of those that did load can be checked. ctx bounds it: a module
// that was never compiled before takes a second or so.
func Load(ctx context.Context, cfg *config.Config, o Options) (*Registry, config.Problems) {
	r := &Registry{opt: o}
	var problems config.Problems
	for _, p := range cfg.Plugins {
		problems = append(problems, r.add(ctx, cfg, p)...)
	}
	for _, v := range cfg.Volumes {
		if r.Find(v.Plugin) != nil {
			continue
		}
		if p, ok := cfg.Plugin(v.Plugin); ok && p.Line == 0 {
			problems = append(problems, r.add(ctx, cfg, p)...)
		}
	}
	return r, problems
}

func (r *Registry) add(ctx context.Context, cfg *config.Config, p config.Plugin) config.Problems {
	if p.Name == "" || r.Find(p.Name) != nil {
		return nil // the configuration's own problem, reported there
	}
	switch p.Runtime {
	case config.RuntimeBuiltin:
		loaded := r.builtin(p.Name, p.Name)
		if loaded == nil {
			return config.Problems{cfg.ProblemAt(p.Place, "name", "is no plugin of this engine", "")}
		}
		r.plugins, r.loaded = append(r.plugins, loaded), append(r.loaded, loaded)
	case config.RuntimeWasm, config.RuntimeProcess:
		if p.Path == "" {
			return nil
		}
		loaded, err := r.file(ctx, p)
		if err != nil {
			return config.Problems{loadProblem(cfg, p, err)}
		}
		r.plugins, r.loaded = append(r.plugins, loaded), append(r.loaded, loaded)
	}
	return nil
}

// loadProblem says why a plugin's file cannot be used. The loader's own words
// name the file and the remedy, but for a file that is not there.
func loadProblem(cfg *config.Config, p config.Plugin, err error) config.Problem {
	fix := ""
	switch {
	case errors.Is(err, process.ErrNoPayload):
		return cfg.ProblemIn(p.Place, "memory_sharing", fmt.Sprintf("%s: memory_sharing: %v", p.Label(), err), `write "bounce", or leave it out`)
	case errors.Is(err, fs.ErrNotExist):
		fix = "build it (make plugins), or mend the path"
	case errors.Is(err, fs.ErrPermission):
		fix = "give the engine's user the right to read it"
	}
	return cfg.ProblemIn(p.SourcePlace(), "path", fmt.Sprintf("%s: %v", p.Label(), err), fix)
}

// builtin gives the plugin that is linked in under a name, nil if none is.
// Volumes call it name.
func (r *Registry) builtin(linked, name string) *Plugin {
	loaded := &Plugin{Name: name, Runtime: config.RuntimeBuiltin, Hash: hashBuiltin, Generation: 1}
	for _, s := range r.opt.Builtins.Stores {
		if m := s.Manifest(); m.Name == linked {
			loaded.Kind, loaded.store = Store, s
			loaded.Version, loaded.Options, loaded.ManifestName = m.Version, m.Options, m.Name
			return loaded
		}
	}
	for _, s := range r.opt.Builtins.Protocols {
		if s.Manifest().Name == linked {
			loaded.use(guest.Linked(s))
			return loaded
		}
	}
	return nil
}

// file loads a plugin from a file.
func (r *Registry) file(ctx context.Context, p config.Plugin) (*Plugin, error) {
	if p.Runtime == config.RuntimeProcess {
		return r.process(ctx, p)
	}
	return r.wasm(ctx, p)
}

func (r *Registry) process(ctx context.Context, p config.Plugin) (*Plugin, error) {
	l, err := process.Load(ctx, process.Options{
		Name: p.Name, Path: p.Path, SHA256: p.SHA256, Args: p.Args, Memory: p.Memory, CPUs: p.CPUs,
		Sandbox: sandbox.Mode(p.Sandbox), Network: p.Network, ReadWrite: p.ReadWrite, GuestMemory: p.GuestMemory,
		Hide: r.opt.Hide, StateDir: r.opt.StateDir,
		Poll: r.opt.Poll, Log: r.opt.Log.With("plugin", p.Name),
	})
	if err != nil {
		return nil, err
	}
	loaded := &Plugin{Name: p.Name, Runtime: config.RuntimeProcess, Path: p.Path, Generation: 1, host: l}
	if m := l.Protocol(); m != nil {
		loaded.use(m)
		return loaded, nil
	}
	s := l.Store()
	man := s.Manifest()
	loaded.Kind, loaded.apart = Store, s
	loaded.Hash, loaded.Version, loaded.Options, loaded.ManifestName = s.Hash(), man.Version, man.Options, man.Name
	return loaded, nil
}

func (r *Registry) wasm(ctx context.Context, p config.Plugin) (*Plugin, error) {
	m, err := wasm.Load(ctx, wasm.Options{
		Path: p.Path, SHA256: p.SHA256, Memory: p.Memory,
		CacheDir: r.opt.CacheDir, Self: r.opt.Self, Log: r.opt.Log.With("plugin", p.Name),
	})
	if err != nil {
		return nil, err
	}
	loaded := &Plugin{Name: p.Name, Runtime: config.RuntimeWasm, Path: p.Path, Generation: 1}
	loaded.use(m)
	return loaded, nil
}

// use makes p a protocol plugin that runs m.
func (p *Plugin) use(m guest.Module) {
	man := m.Manifest()
	p.Kind, p.module = Protocol, m
	p.Hash, p.Version, p.ABI, p.Options, p.ManifestName = m.Hash(), man.Version, man.ABI, man.Options, man.Name
}

// Find gives the plugin that volumes call by name, nil if it is not loaded.
// While some volumes run a newer version than others it is the older one.
func (r *Registry) Find(name string) *Plugin {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.plugins {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Plugins are what volumes run, as Find gives it.
func (r *Registry) Plugins() []*Plugin {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.plugins)
}

// load loads another version of a plugin beside what runs, from p's file, in the
// runtime that the file is for. The registry owns it until unload.
func (r *Registry) load(ctx context.Context, p config.Plugin) (*Plugin, error) {
	runtime, err := RuntimeOf(p.Path)
	if err != nil {
		return nil, err
	}
	loaded, err := r.file(ctx, p.As(config.Source{Runtime: runtime, Path: p.Path, SHA256: p.SHA256}))
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.loaded = append(r.loaded, loaded)
	}
	r.mu.Unlock()
	if closed { // nobody else will
		return nil, errors.Join(errors.New("the engine ends"), loaded.close())
	}
	return loaded, nil
}

// RuntimeOf tells a program for a process from a module. What is neither is the
// module's loader's to refuse.
func RuntimeOf(path string) (config.Runtime, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read plugin: %w", err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	if n, _ := io.ReadFull(f, magic); string(magic[:n]) == "\x7fELF" {
		return config.RuntimeProcess, nil
	}
	return config.RuntimeWasm, nil
}

// replace makes p what Find gives for its name.
func (r *Registry) replace(p *Plugin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.plugins {
		if r.plugins[i].Name == p.Name {
			r.plugins[i] = p
		}
	}
}

// unload closes what no volume runs any more; what is left of its instances
// ends by itself. p may be nil.
func (r *Registry) unload(p *Plugin) error {
	if p == nil {
		return nil
	}
	r.mu.Lock()
	i := slices.Index(r.loaded, p)
	if i >= 0 {
		r.loaded = slices.Delete(r.loaded, i, i+1)
	}
	r.mu.Unlock()
	if i < 0 {
		return nil
	}
	return p.close()
}

// Close unloads the plugins. Every Disk has been closed before.
func (r *Registry) Close() error {
	r.mu.Lock()
	list := r.loaded
	r.loaded, r.closed = nil, true
	r.mu.Unlock()
	var errs []error
	for _, p := range list {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}
