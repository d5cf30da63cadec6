package wasm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm/meter"
	"blockengine/sdk/manifest"
)

// Sizes of an instance's memory, in bytes.
const (
	DefaultMemory = 16 << 20
	MinMemory     = 1 << 20
	MaxMemory     = 4 << 30
)

// Options says what to load and how.
type Options struct {
	Path   string // of the .wasm file
	SHA256 string // pin in hex, "" for none
	Memory uint64 // cap of an instance's memory in bytes; 0: DefaultMemory
	// CacheDir is a directory of the engine's own for compiled modules; it is
	// created with mode 0700. "" compiles anew on each Load.
	CacheDir string
	// Self is the command that compiles: it must call CompileMain with the
	// arguments that follow it. nil compiles in this process, without limits.
	Self []string
	Log  *slog.Logger // nil: nowhere

	initBudget int64 // ticks for what runs before be_abi; 0: guest.BudgetInit
}

// Module is a loaded plugin. Its methods may be called from any goroutine.
type Module struct {
	path     string
	hash     string
	memory   uint64 // cap in bytes
	environ  []byte
	budget   int64 // ticks for a start function and for _initialize
	manifest manifest.Manifest
	version  uint32 // of the interface, as the plugin says
	rt       wazero.Runtime
	cache    wazero.CompilationCache // nil in an inspection
	code     wazero.CompiledModule
	lines    *lineSink

	mu     sync.Mutex // guards what follows
	live   int        // instances
	closed bool
}

var _ guest.Module = (*Module)(nil)

// errModuleClosed: NewInstance after Close.
var errModuleClosed = errors.New("the plugin has been unloaded")

// Load reads, checks, meters and compiles a plugin, and asks it for its
// manifest. It takes a second for a module that is not in the cache: call it
// off the data path. ctx bounds it.
func Load(ctx context.Context, o Options) (*Module, error) {
	m, err := load(ctx, &o)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("load plugin %s: %w", o.Path, context.Cause(ctx))
	}
	return m, err
}

func load(ctx context.Context, o *Options) (*Module, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	lim := limits(o.Memory)
	src, err := readSource(o.Path, int64(lim.MaxModuleBytes))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(src.magic(), src.pinned(o.SHA256)); err != nil {
		return nil, err
	}
	p, err := prepare(src, lim)
	if err != nil {
		return nil, err
	}
	m := newModule(src, o)
	if err := m.build(ctx, o, p); err != nil {
		m.release()
		return nil, fmt.Errorf("plugin %s: %w", o.Path, err)
	}
	return m, nil
}

// complete fills in defaults and checks ranges.
func (o *Options) complete() error {
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Memory < MinMemory || o.Memory > MaxMemory {
		return fmt.Errorf("plugin %s: memory of %d bytes: give 1MiB to 4GiB", o.Path, o.Memory)
	}
	o.Memory &^= meter.PageBytes - 1
	if o.initBudget == 0 {
		o.initBudget = guest.BudgetInit
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// limits are the meter's, with the memory cap of the configuration.
func limits(memory uint64) meter.Limits {
	lim := meter.DefaultLimits()
	lim.MemoryPages = uint32(memory / meter.PageBytes)
	return lim
}

// prepared is a module that has passed every check but the runtime's own.
type prepared struct {
	src       *source
	lim       meter.Limits
	info      *meter.Info
	rewritten []byte
}

// prepare checks what a module imports and exports and puts the meter in.
func prepare(src *source, lim meter.Limits) (*prepared, error) {
	rewritten, info, err := meter.Rewrite(src.bytes, lim, wrapped()...)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", src.path, err)
	}
	if err := checkImports(info); err != nil {
		return nil, fmt.Errorf("plugin %s %w", src.path, err)
	}
	if err := checkExports(info); err != nil {
		return nil, fmt.Errorf("plugin %s %w", src.path, err)
	}
	return &prepared{src: src, lim: lim, info: info, rewritten: rewritten}, nil
}

// newModule makes a module that is still to be compiled. It counts as an
// instance of its own until build is done, so that release frees it.
func newModule(src *source, o *Options) *Module {
	log := o.Log.With("plugin_file", src.path)
	return &Module{path: src.path, hash: src.hash, memory: o.Memory, budget: o.initBudget,
		environ: environment(o.Memory), lines: newLineSink(log), live: 1}
}

// build compiles through the cache and asks for the manifest. When it fails
// the caller releases the module.
func (m *Module) build(ctx context.Context, o *Options, p *prepared) error {
	if err := m.compile(ctx, o, p); err != nil {
		m.closed = true
		return err
	}
	if err := m.probe(ctx); err != nil {
		m.closed = true
		return err
	}
	m.release()
	return nil
}

// link makes the runtime, with the host functions, and compiles into it.
func (m *Module) link(ctx context.Context, config wazero.RuntimeConfig, module []byte) error {
	return guard(func() (err error) {
		m.rt = wazero.NewRuntimeWithConfig(ctx, config)
		if err = provide(ctx, m.rt); err != nil {
			return err
		}
		m.code, err = m.rt.CompileModule(ctx, module)
		return err
	})
}

// config is what every runtime here has in common: no threads, no clocks, no
// checks of the context, because the meter bounds every call.
func config(c wazero.RuntimeConfig) wazero.RuntimeConfig {
	return c.WithCoreFeatures(api.CoreFeaturesV2).WithCloseOnContextDone(false).
		WithDebugInfoEnabled(false).WithCustomSections(false)
}

// probe runs a first instance up to its manifest.
func (m *Module) probe(ctx context.Context) error {
	i, err := m.newInstance(ctx)
	if err != nil {
		return err
	}
	defer i.Close()
	if m.version, err = i.speaks(); err != nil {
		return err
	}
	text, err := i.manifestText()
	if err != nil {
		return err
	}
	m.manifest, err = parseManifest(text, m.version)
	if err != nil {
		return err
	}
	return i.connect()
}

// Manifest implements guest.Module.
func (m *Module) Manifest() manifest.Manifest { return m.manifest }

// Hash implements guest.Module.
func (m *Module) Hash() string { return m.hash }

// Runtime implements guest.Module.
func (m *Module) Runtime() string { return "wasm" }

// NewInstance implements guest.Module. A plugin that fails on its way gives an
// error that wraps a *guest.Trap.
func (m *Module) NewInstance(ctx context.Context) (guest.Instance, error) {
	i, err := m.newInstance(ctx)
	if err == nil {
		if _, err = i.speaks(); err == nil {
			err = i.connect()
		}
		if err == nil {
			return i, nil
		}
		i.Close()
	}
	return nil, fmt.Errorf("plugin %s: new instance: %w", m.path, err)
}

// acquire counts an instance.
func (m *Module) acquire() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errModuleClosed
	}
	m.live++
	return nil
}

// release counts an instance less; the last one of a closed module frees it.
func (m *Module) release() {
	m.mu.Lock()
	m.live--
	last := m.closed && m.live == 0
	m.mu.Unlock()
	if last {
		go m.free() // an instance may be closed on a reactor, and free waits for the log
	}
}

// Close implements guest.Module. Instances that live keep the code; the last
// one that closes frees it.
func (m *Module) Close() error {
	m.mu.Lock()
	was, last := m.closed, m.live == 0
	m.closed = true
	m.mu.Unlock()
	if !was && last {
		m.free()
	}
	return nil
}

// free releases what the module holds. It waits for the log.
func (m *Module) free() {
	ctx := context.Background()
	if m.rt != nil {
		_ = m.rt.Close(ctx) // unmaps code; a failure leaves nothing to do
	}
	if m.cache != nil {
		_ = m.cache.Close(ctx)
	}
	m.lines.close()
}
