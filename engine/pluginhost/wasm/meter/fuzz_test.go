package meter

import (
	"context"
	"slices"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// fuzzLimits keep one input cheap to compile.
func fuzzLimits() Limits {
	lim := DefaultLimits()
	lim.MaxModuleBytes, lim.MaxLocals, lim.MaxFrameBytes = 1<<16, 64, 1<<17
	lim.MemoryPages, lim.MaxTableEntries = 4, 64
	return lim
}

// FuzzRewrite: no input panics; what is rewritten is valid exactly when the
// original was, so that rewriting neither breaks a module nor mends one; what
// is valid ends within its budget; and what the meter does not end gives the
// results, memory and traps of the original.
func FuzzRewrite(f *testing.F) {
	for _, name := range []string{"header", "misbehave", "shapes", "start"} {
		f.Add(wasmFile(f, name))
	}
	f.Add(withBody(opI32Const, 0, opIf, blockEmpty, opReturn, opElse, opEnd, opCall, 0))
	f.Add(deepModule(3, 3))
	f.Add(append(withBody(), custom("name", 1, 4, 1, 0, 1, 'f')...))
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithMemoryLimitPages(fuzzLimits().MemoryPages).WithCoreFeatures(api.CoreFeaturesV2&^api.CoreFeatureSIMD))
	f.Cleanup(func() { rt.Close(ctx) })
	f.Fuzz(func(t *testing.T, module []byte) {
		out, info, err := Rewrite(module, fuzzLimits())
		if _, err2 := Inspect(module, fuzzLimits()); (err == nil) != (err2 == nil) {
			t.Fatalf("Rewrite says %v, Inspect says %v", err, err2)
		}
		if err != nil {
			return
		}
		old, oldErr := rt.CompileModule(ctx, dropCustom(module))
		compiled, newErr := rt.CompileModule(ctx, out)
		if (oldErr == nil) != (newErr == nil) {
			t.Fatalf("the original compiles with %v, the result with %v", oldErr, newErr)
		}
		if oldErr != nil {
			return
		}
		defer old.Close(ctx)
		defer compiled.Close(ctx)
		if len(info.Imports) == 0 && !info.HasStart {
			runBoth(t, rt, old, compiled, info, sameCaps(module))
		}
	})
}

// dropCustom takes the custom sections out, whose contents the runtime reads
// and the rewriter need not believe.
func dropCustom(module []byte) []byte {
	m, err := decode(module, fuzzLimits())
	if err != nil {
		return module
	}
	out := []byte(header)
	for _, s := range m.sections {
		if s.id != secCustom {
			out = appendSection(out, s.id, m.bytes[s.body.start:s.body.end])
		}
	}
	return out
}

// sameCaps says whether the tables of the original are capped as those of the
// result; if not, table.grow may differ.
func sameCaps(module []byte) bool {
	m, err := decode(module, fuzzLimits())
	if err != nil {
		return false
	}
	for _, t := range m.tables {
		if !t.hasMax || t.max > fuzzLimits().MaxTableEntries {
			return false
		}
	}
	return true
}

// runBoth calls every exported function with a small budget, and as long as
// the meter does not step in, the original too.
func runBoth(t *testing.T, rt wazero.Runtime, old, rewritten wazero.CompiledModule, info *Info, same bool) {
	ctx := context.Background()
	cfg := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	mod, err := rt.InstantiateModule(ctx, rewritten, cfg)
	if err != nil {
		return // an active segment out of range
	}
	defer mod.Close(ctx)
	orig, err := rt.InstantiateModule(ctx, old, cfg)
	if err != nil {
		t.Fatalf("the result can be instantiated, the original cannot: %v", err)
	}
	defer orig.Close(ctx)
	budget, depth := global(t, mod, ExportBudget), global(t, mod, ExportDepth)
	for _, e := range info.Exports {
		if e.Kind != KindFunc {
			continue
		}
		budget.Set(300)
		depth.Set(20)
		args := make([]uint64, len(e.Type.Params))
		got, err := mod.ExportedFunction(e.Name).Call(ctx, args...)
		if b := int64(budget.Get()); b >= 300 {
			t.Fatalf("%q left a budget of %d of 300 (error %v)", e.Name, b, err)
		}
		if CauseOf(int64(budget.Get()), int64(depth.Get())) != CauseModule || !same {
			same = false // the instances may differ from here on
			continue
		}
		want, wantErr := orig.ExportedFunction(e.Name).Call(ctx, args...)
		if returnsReference(e.Type) {
			want, got = nil, nil // an address of the runtime's
		}
		compare(t, e.Name, want, got, wantErr, err)
		sameMemory(t, e.Name, orig, mod)
	}
}

func returnsReference(t FuncType) bool {
	return slices.ContainsFunc(t.Results, func(v ValueType) bool { return v == FuncRef || v == ExternRef })
}
