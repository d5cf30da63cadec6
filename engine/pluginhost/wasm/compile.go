package wasm

import (
	"context"
	"fmt"
	"os"

	"github.com/tetratelabs/wazero"

	"blockengine/engine/pluginhost/wasm/meter"
)

// compile gets the module's code from the cache, which it fills if need be.
func (m *Module) compile(ctx context.Context, o *Options, p *prepared) error {
	dir, done, err := openCache(o.CacheDir)
	if err != nil {
		return err
	}
	defer done()
	fill := func(dir string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Self == nil {
			return fillCache(ctx, dir, p.src.bytes, p.lim)
		}
		return runHelper(ctx, o.Self, dir, p.src, o.Memory)
	}
	entry, err := dir.entry(p, fill)
	if err != nil {
		return err
	}
	if err = m.fromCache(ctx, entry, p.rewritten); err == nil {
		return nil
	}
	// What was sealed does not load: the disk, or another release of wazero
	// under the same version. Once more from the start.
	o.Log.Warn("compiled plugin in the cache does not load, compiling again", "plugin_file", p.src.path, "err", err)
	if err := os.RemoveAll(entry); err != nil {
		return fmt.Errorf("clear the compilation cache: %w", err)
	}
	if entry, err = dir.entry(p, fill); err != nil {
		return err
	}
	return m.fromCache(ctx, entry, p.rewritten)
}

// fromCache loads compiled code from a directory that fillCache filled.
func (m *Module) fromCache(ctx context.Context, dir string, rewritten []byte) error {
	m.unlink(ctx)
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return fmt.Errorf("open the compilation cache: %w", err)
	}
	m.cache = cache
	return m.link(ctx, config(wazero.NewRuntimeConfigCompiler()).WithCompilationCache(cache), rewritten)
}

// unlink undoes a failed fromCache.
func (m *Module) unlink(ctx context.Context) {
	if m.rt != nil {
		_ = m.rt.Close(ctx)
	}
	if m.cache != nil {
		_ = m.cache.Close(ctx)
	}
	m.rt, m.cache, m.code = nil, nil, nil
}

// fillCache validates a module as it came, rewrites it and compiles it into
// dir. Validation comes first: a rewritten module has more globals and
// functions than its author could name.
func fillCache(ctx context.Context, dir string, original []byte, lim meter.Limits) error {
	if err := validate(ctx, original); err != nil {
		return err
	}
	rewritten, _, err := meter.Rewrite(original, lim, wrapped()...)
	if err != nil {
		return err
	}
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return fmt.Errorf("open the compilation cache: %w", err)
	}
	defer func() { _ = cache.Close(ctx) }()
	return guard(func() error {
		rt := wazero.NewRuntimeWithConfig(ctx, config(wazero.NewRuntimeConfigCompiler()).WithCompilationCache(cache))
		defer func() { _ = rt.Close(ctx) }()
		code, err := rt.CompileModule(ctx, rewritten)
		if err != nil {
			return fmt.Errorf("compile: %w", err)
		}
		return code.Close(ctx)
	})
}

// validate checks a module against the specification. The interpreter's
// compilation is the cheapest way to wazero's validator: a tenth of the time
// that the compiler takes.
func validate(ctx context.Context, original []byte) error {
	return guard(func() error {
		rt := wazero.NewRuntimeWithConfig(ctx, config(wazero.NewRuntimeConfigInterpreter()))
		defer func() { _ = rt.Close(ctx) }()
		code, err := rt.CompileModule(ctx, original)
		if err != nil {
			return fmt.Errorf("is no valid WebAssembly module: %w", err)
		}
		return code.Close(ctx)
	})
}
