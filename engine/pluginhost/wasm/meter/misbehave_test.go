package meter

import (
	"runtime"
	"testing"
)

// TestEndlessTraps: whatever runs without end is ended by the budget.
func TestEndlessTraps(t *testing.T) {
	m := newMetered(t, wasmFile(t, "misbehave"), DefaultLimits())
	for _, name := range []string{"spin", "spin_if", "spin_table", "spin_nested", "call_tree"} {
		endsByBudget(t, m, name)
	}
	endsByBudget(t, m, "spin_param", 3)
	if n := m.ExportedGlobal("count").Get(); n > 10_000 {
		t.Errorf("call_tree got through %d leaf calls with 10000 ticks", n)
	}
}

func endsByBudget(t *testing.T, m *metered, name string, args ...uint64) {
	t.Helper()
	_, err := m.call(name, 10_000, args...)
	if err == nil || m.cause() != CauseBudget {
		t.Errorf("%s: error %v, cause %v, budget %d; want the budget spent", name, err, m.cause(), int64(m.budget.Get()))
	}
	if res, err := m.call("fine", 100); err != nil || res[0] != 7 {
		t.Errorf("after %s the instance does not work: %v %v", name, res, err)
	}
}

// TestBulkIsCharged: operations on ranges cost by their length.
func TestBulkIsCharged(t *testing.T) {
	const budget = 100_000
	cases := []struct {
		name        string
		length      uint64
		rounds, min int64 // operations that the budget must and must not suffice for
	}{
		{"fill", 65536, budget / 1024, 10},
		{"fill", 0, budget, 100},
		{"copy", 65000, budget / 1000, 10},
		{"init", 32, budget, 100},
		{"table_fill", 64, budget / 8, 100},
		{"table_copy", 63, budget / 7, 100},
		{"table_init", 4, budget, 100},
		{"grow_loop", 1, budget / costRuntime * unitsPerTick, 90},
		{"grow_loop", 1 << 30, budget / costRuntime * unitsPerTick, 100},
	}
	for _, c := range cases {
		m := newMetered(t, wasmFile(t, "misbehave"), DefaultLimits())
		_, err := m.call(c.name, budget, c.length)
		if err == nil || m.cause() != CauseBudget {
			t.Errorf("%s(%d): error %v, cause %v; want the budget spent", c.name, c.length, err, m.cause())
		}
		if n := int64(m.ExportedGlobal("count").Get()); n > c.rounds || n < c.min {
			t.Errorf("%s(%d): %d operations for %d ticks, want %d to %d", c.name, c.length, n, budget, c.min, c.rounds)
		}
	}
}

// TestRecursionTraps: directly, in turns and through a table.
func TestRecursionTraps(t *testing.T) {
	m := newMetered(t, wasmFile(t, "misbehave"), DefaultLimits())
	for _, name := range []string{"recurse", "mutual", "indirect"} {
		if _, err := m.call(name, 1<<40); err == nil || m.cause() != CauseDepth {
			t.Errorf("%s: error %v, cause %v; want the depth exceeded", name, err, m.cause())
		}
		if _, err := m.call("fine", 100); err != nil {
			t.Errorf("after %s the instance does not work: %v", name, err)
		}
	}
}

// TestDepthIsGivenBack: a call that returns leaves the depth where it was.
func TestDepthIsGivenBack(t *testing.T) {
	m := newMetered(t, wasmFile(t, "shapes"), DefaultLimits())
	for _, name := range []string{"fact", "divmod", "switch", "br_out", "indirect", "dead", "deep"} {
		for arg := range uint64(5) {
			if _, err := m.call(name, 1<<30, arg, 3); err != nil {
				continue
			}
			if d := int64(m.depth.Get()); d != int64(DefaultLimits().MaxCallDepth) {
				t.Errorf("%s(%d, 3): depth %d after the call", name, arg, d)
			}
		}
	}
}

// TestOwnTrap: a trap of the module's own is not blamed on the meter.
func TestOwnTrap(t *testing.T) {
	m := newMetered(t, wasmFile(t, "misbehave"), DefaultLimits())
	if _, err := m.call("crash", 100); err == nil || m.cause() != CauseModule {
		t.Errorf("error %v, cause %v", err, m.cause())
	}
}

// TestGrowthIsCapped: memory and tables stop at the limits, with -1 and not
// with a trap, and asking for too much costs next to nothing.
func TestGrowthIsCapped(t *testing.T) {
	lim := DefaultLimits()
	lim.MemoryPages, lim.MaxTableEntries = 3, 100
	m := newMetered(t, wasmFile(t, "misbehave"), lim)
	steps := []struct {
		name   string
		by     uint64
		result int32
	}{
		{"grow", 65535, -1}, {"grow", 3, -1}, {"grow", 2, 1}, {"grow", 1, -1}, {"grow", 0, 3},
		{"table_grow", 1 << 31, -1}, {"table_grow", 37, -1}, {"table_grow", 36, 64}, {"table_grow", 1, -1},
	}
	for _, s := range steps {
		res, err := m.call(s.name, 5000, s.by)
		if err != nil || int32(res[0]) != s.result {
			t.Errorf("%s(%d) = %v, %v; want %d", s.name, s.by, res, err, s.result)
		}
	}
}

// TestStackStaysBounded: recursion through frames as large as an attacker can
// make them stays within the documented stack.
func TestStackStaysBounded(t *testing.T) {
	lim := DefaultLimits()
	for name, module := range map[string][]byte{
		"many values": deepModule(4000, 4), "many joins": deepModule(100, 100), "small": deepModule(2, 0),
		"many results": wideModule(60),
	} {
		m := newMetered(t, module, lim)
		if _, err := m.call("deep", 1, 1); err == nil {
			t.Fatal("one tick was enough")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := m.call("deep", 1<<40, 1)
		runtime.ReadMemStats(&after)
		if err == nil || m.cause() != CauseDepth {
			t.Errorf("%s: error %v, cause %v; want the depth exceeded", name, err, m.cause())
		}
		// The stack doubles: all generations together are under 4 times its use.
		limit := 4 * (uint64(lim.MaxCallDepth)*FrameUnit + uint64(lim.MaxFrameBytes))
		if got := after.TotalAlloc - before.TotalAlloc; got > limit {
			t.Errorf("%s: %d MiB allocated while recursing, want at most %d MiB", name, got>>20, limit>>20)
		} else {
			t.Logf("%s: %d KiB allocated while recursing", name, got>>10)
		}
	}
}

// deepModule recurses in a function that keeps many values alive over its
// call: values loaded before and used after it, and locals that differ at the
// joins of many loops.
func deepModule(values, locals int) []byte {
	var a asm
	a.b = appendU32(appendU32(nil, 1), uint32(locals)+1)
	a.op(byte(I64))
	for i := range values {
		a.indexed(opLocalGet, 0)
		a.op(0x29, 3) // i64.load
		a.b = appendU32(a.b, uint32(i*8))
	}
	for i := range locals {
		a.op(opLoop, blockEmpty)
		for l := range locals {
			a.indexed(opLocalGet, uint32(l+1))
			a.i64(int64(i + l + 1))
			a.op(0x7c) // i64.add
			a.indexed(0x21, uint32(l+1))
		}
		a.indexed(opLocalGet, 0)
		a.op(0x45) // i32.eqz
		a.indexed(opBrIf, 0)
		a.op(opEnd)
	}
	a.indexed(opLocalGet, 0)
	a.indexed(opCall, 0)
	for range values {
		a.op(0x7c)
	}
	for l := range locals {
		a.indexed(opLocalGet, uint32(l+1))
		a.op(0x7c)
	}
	a.op(opEnd)
	return build(
		section(secType, vector(fn([]ValueType{I32}, []ValueType{I64}))),
		section(secFunction, vector([]byte{0})),
		section(secMemory, vector([]byte{0, 1})),
		section(secExport, vector(appendExport(nil, "deep", KindFunc, 0))),
		section(secCode, vector(appendBytes(nil, a.b))),
	)
}

// wideModule recurses in a function that keeps the results of many calls, 64
// each, on its operand stack over its own call.
func wideModule(calls int) []byte {
	wide := make([]ValueType, 64)
	var many, deep asm
	many.op(0)
	for i := range wide {
		wide[i] = I64
		many.indexed(opLocalGet, 0)
		many.op(0x29, 3) // i64.load
		many.b = appendU32(many.b, uint32(i*8))
	}
	many.op(opEnd)
	deep.op(0)
	for range calls {
		deep.indexed(opLocalGet, 0)
		deep.indexed(opCall, 1)
	}
	deep.indexed(opLocalGet, 0)
	deep.indexed(opCall, 0)
	deep.op(repeat([]byte{0x7c}, calls*len(wide))...)
	deep.op(opEnd)
	return build(
		section(secType, vector(fn([]ValueType{I32}, []ValueType{I64}), fn([]ValueType{I32}, wide))),
		section(secFunction, vector([]byte{0}, []byte{1})),
		section(secMemory, vector([]byte{0, 1})),
		section(secExport, vector(appendExport(nil, "deep", KindFunc, 0))),
		section(secCode, vector(appendBytes(nil, deep.b), appendBytes(nil, many.b))),
	)
}
