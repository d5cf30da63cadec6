package meter

import (
	"context"
	"embed"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

//go:generate wat2wasm --debug-names testdata/header.wat -o testdata/header.wasm
//go:generate wat2wasm --debug-names testdata/misbehave.wat -o testdata/misbehave.wasm
//go:generate wat2wasm --debug-names testdata/shapes.wat -o testdata/shapes.wasm
//go:generate wat2wasm --debug-names testdata/start.wat -o testdata/start.wasm

//go:embed testdata/*.wasm
var testdata embed.FS

func wasmFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := testdata.ReadFile("testdata/" + name + ".wasm")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compiled saves compiling the large guest more often than needed.
var compiled = wazero.NewCompilationCache()

// newRuntime has the features that the rewriter supports and no others.
func newRuntime(t testing.TB) wazero.Runtime {
	t.Helper()
	cfg := wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 &^ api.CoreFeatureSIMD).
		WithCompilationCache(compiled)
	rt := wazero.NewRuntimeWithConfig(context.Background(), cfg)
	t.Cleanup(func() { rt.Close(context.Background()) })
	return rt
}

func instantiate(t testing.TB, rt wazero.Runtime, module []byte) api.Module {
	t.Helper()
	cfg := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	mod, err := rt.InstantiateWithConfig(context.Background(), module, cfg)
	if err != nil {
		t.Fatalf("instantiate: %v", err)
	}
	return mod
}

func rewrite(t testing.TB, module []byte, lim Limits, wrap ...string) []byte {
	t.Helper()
	out, _, err := Rewrite(module, lim, wrap...)
	if err != nil {
		t.Fatalf("rewrite: %v", err)
	}
	return out
}

// metered is a rewritten instance with the host's view of the meter.
type metered struct {
	api.Module
	budget, depth api.MutableGlobal
}

func newMetered(t testing.TB, module []byte, lim Limits, wrap ...string) *metered {
	t.Helper()
	mod := instantiate(t, newRuntime(t), rewrite(t, module, lim, wrap...))
	return &metered{mod, global(t, mod, ExportBudget), global(t, mod, ExportDepth)}
}

func global(t testing.TB, mod api.Module, name string) api.MutableGlobal {
	t.Helper()
	g, ok := mod.ExportedGlobal(name).(api.MutableGlobal)
	if !ok {
		t.Fatalf("no mutable global %q", name)
	}
	return g
}

// call fills the meter and calls an export.
func (m *metered) call(name string, budget int64, args ...uint64) ([]uint64, error) {
	m.budget.Set(uint64(budget))
	m.depth.Set(uint64(DefaultLimits().MaxCallDepth))
	return m.ExportedFunction(name).Call(context.Background(), args...)
}

func (m *metered) cause() Cause {
	return CauseOf(int64(m.budget.Get()), int64(m.depth.Get()))
}
