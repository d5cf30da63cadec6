package meter

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/tetratelabs/wazero/api"
)

// TestSameResults runs every export of shapes.wat before and after rewriting,
// on the same arguments in the same order, and compares results, traps, memory
// and globals after each call.
func TestSameResults(t *testing.T) {
	module := wasmFile(t, "shapes")
	info, err := Inspect(module, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	old := instantiate(t, newRuntime(t), module)
	var names []string
	for _, e := range info.Exports {
		if e.Kind == KindFunc {
			names = append(names, e.Name)
		}
	}
	plain := newMetered(t, module, DefaultLimits())
	wrapped := newMetered(t, module, DefaultLimits(), names...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		name := names[rng.IntN(len(names))]
		a, b := argument(rng), argument(rng)
		if name == "fact" {
			a &= 0xfff
		}
		want, wantErr := old.ExportedFunction(name).Call(context.Background(), a, b)
		got, gotErr := plain.call(name, 1<<40, a, b)
		compare(t, name+"/globals", want, got, wantErr, gotErr)
		wrapped.depth.Set(0)
		got, gotErr = wrapped.ExportedFunction(name).Call(context.Background(), 1<<40, a, b)
		compare(t, name+"/wrapped", want, got, wantErr, gotErr)
		sameState(t, name, old, plain)
		sameState(t, name, old, wrapped)
		if t.Failed() {
			t.Fatalf("%s(%#x, %#x)", name, a, b)
		}
	}
}

// argument favours small numbers, which take more ways through the code.
func argument(rng *rand.Rand) uint64 {
	if rng.IntN(3) > 0 {
		return rng.Uint64N(12)
	}
	return rng.Uint64()
}

func compare(t *testing.T, name string, want, got []uint64, wantErr, gotErr error) {
	t.Helper()
	if (wantErr == nil) != (gotErr == nil) {
		t.Errorf("%s: error %v, the original has %v", name, gotErr, wantErr)
	}
	for i := range want {
		if i >= len(got) || want[i] != got[i] {
			t.Errorf("%s: result %v, the original gives %v", name, got, want)
			return
		}
	}
}

func sameState(t *testing.T, name string, a, b api.Module) {
	t.Helper()
	sameMemory(t, name, a, b)
	if a.ExportedGlobal("g").Get() != b.ExportedGlobal("g").Get() {
		t.Errorf("%s: globals differ", name)
	}
}

func sameMemory(t *testing.T, name string, a, b api.Module) {
	t.Helper()
	if a.Memory() == nil && b.Memory() == nil {
		return
	}
	ma, _ := a.Memory().Read(0, a.Memory().Size())
	mb, _ := b.Memory().Read(0, b.Memory().Size())
	if !bytes.Equal(ma, mb) {
		t.Errorf("%s: memories differ", name)
	}
}

// TestHeaderBytes checks the benchmark's module against the wire format.
func TestHeaderBytes(t *testing.T) {
	m := newMetered(t, wasmFile(t, "header"), DefaultLimits())
	if _, err := m.call("many", 1e5, 100, 3); err != nil {
		t.Fatal(err)
	}
	got, _ := m.Memory().Read(100+56, 28)
	want := binary.BigEndian.AppendUint32(nil, 0x25609513)
	want = binary.BigEndian.AppendUint32(want, 1)
	want = binary.BigEndian.AppendUint64(want, 2)
	want = binary.BigEndian.AppendUint64(want, 8192)
	want = binary.BigEndian.AppendUint32(want, 4096)
	if !bytes.Equal(got, want) {
		t.Errorf("third header is % x, want % x", got, want)
	}
	if left := int64(m.budget.Get()); left <= 0 || left >= 1e5 {
		t.Errorf("budget left %d", left)
	}
}

// TestStart: a start section becomes a function that the host meters.
func TestStart(t *testing.T) {
	for _, c := range []struct {
		rounds, budget uint64
		cause          Cause
	}{{10, 1000, CauseModule}, {1 << 62, 1000, CauseBudget}} {
		ctx := context.Background()
		rt := newRuntime(t)
		host := rt.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func() uint64 { return c.rounds })
		if _, err := host.Export("rounds").Instantiate(ctx); err != nil {
			t.Fatal(err)
		}
		out, info, err := Rewrite(wasmFile(t, "start"), DefaultLimits())
		if err != nil || !info.HasStart {
			t.Fatalf("rewrite: %+v, %v", info, err)
		}
		mod := instantiate(t, rt, out)
		if n := mod.ExportedGlobal("done").Get(); n != 0 {
			t.Fatalf("the start function ran by itself, %d rounds", n)
		}
		_, err = mod.ExportedFunction(ExportStart).Call(ctx, c.budget)
		n := mod.ExportedGlobal("done").Get()
		budget := int64(global(t, mod, ExportBudget).Get())
		if c.cause == CauseModule && (err != nil || n != c.rounds || budget <= 0) {
			t.Errorf("%d rounds: error %v after %d, budget %d", c.rounds, err, n, budget)
		}
		if c.cause == CauseBudget && (err == nil || n > 1000 || CauseOf(budget, 1) != CauseBudget) {
			t.Errorf("endless start: error %v after %d rounds, budget %d", err, n, budget)
		}
	}
}

// TestNothingRunsUnfilled: an export called before the host filled the budget
// traps at once.
func TestNothingRunsUnfilled(t *testing.T) {
	m := newMetered(t, wasmFile(t, "misbehave"), DefaultLimits())
	if _, err := m.ExportedFunction("fine").Call(context.Background()); err == nil {
		t.Error("runs with an empty budget")
	}
}
