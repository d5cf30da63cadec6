package wasm

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
)

// load builds and loads a hand-made plugin.
func (m module) load(tb testing.TB, change ...func(*Options)) *Module {
	tb.Helper()
	o := Options{Path: m.file(tb), Memory: MinMemory}
	for _, f := range change {
		f(&o)
	}
	loaded, err := Load(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { loaded.Close() })
	return loaded
}

var forever = ops(opLoop, empty, opBr, 0, opEnd)

// ifInput runs body only when be_call is given bytes, so that one module has
// instances that misbehave and instances that do not.
func ifInput(body ...any) []byte {
	return ops(opLocalGet, 0, 0x04, empty, ops(body...), opEnd, constI32(0))
}

// TestCallsThatTrap: each ends the instance with the right cause, and neither
// the instance beside it nor a new one.
func TestCallsThatTrap(t *testing.T) {
	store := func(at int64) []byte { return ops(constI32(at), constI32(1), opI32Store, 2, 0) }
	fill := func(at, n int64) []byte { return ops(constI32(at), constI32(7), constI32(n), opPrefix, 11, 0) }
	for _, c := range []struct {
		name  string
		call  []byte
		cause string
	}{
		{"loops forever", ifInput(forever), "budget"},
		{"recurses", ifInput(opLocalGet, 0, opCall, 3, opDrop), "depth"},
		{"unreachable", ifInput(opUnreachable), "unreachable"},
		{"divides by zero", ifInput(constI32(1), constI32(0), 0x6d, opDrop), "unreachable"},
		{"stores outside of memory", ifInput(store(-8)), "memory"},
		{"stores beyond the cap", ifInput(store(MinMemory)), "memory"},
		{"fills in bulk", ifInput(opLoop, empty, fill(0, 4<<16), opBr, 0, opEnd), "budget"},
		{"fills outside of memory", ifInput(fill(1024, 1<<20)), "memory"},
		{"grows and stores beyond", ifInput(constI32(12), opMemoryGrow, 0, opDrop, store(MinMemory)), "memory"},
		{"grows for ever", ifInput(opLoop, empty, constI32(1), opMemoryGrow, 0, opDrop, opBr, 0, opEnd), "budget"},
		{"answers more than fits", ops(opLocalGet, 0, constI32(8193), 0x6c), "output"},
		{"answers no multiple of 8", ops(opLocalGet, 0, constI32(1), 0x76), "output"},
		{"answers much and more", ops(opLocalGet, 0, constI32(25), 0x74), "output"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := module{call: c.call}.load(t)
			beside := newInstance(t, m)
			bad := newInstance(t, m)
			_, _, err := bad.Call(8, guest.BudgetCall)
			wantTrap(t, err, c.cause)
			for _, i := range []guest.Instance{beside, newInstance(t, m)} {
				if _, _, err := i.Call(0, guest.BudgetCall); err != nil {
					t.Errorf("another instance: %v", err)
				}
			}
		})
	}
}

// TestMemoryGrowsToTheCap: memory.grow gives -1 beyond the cap, and what it
// gave is there to use without a view moving.
func TestMemoryGrowsToTheCap(t *testing.T) {
	grow := func(pages int64) []byte { return ops(constI32(pages), opMemoryGrow, 0) }
	put := func(at int64, v []byte) []byte { return ops(constI32(at), v, opI32Store, 2, 0) }
	m := module{call: ops(
		put(outAt, grow(12)),  // to 16 pages, the cap: 4
		put(outAt+4, grow(1)), // -1
		put(MinMemory-4, constI32(7)),
		constI32(8))}.load(t)
	i := newInstance(t, m)
	in := &i.Input()[0]
	out, _, err := i.Call(0, guest.BudgetCall)
	if err != nil {
		t.Fatal(err)
	}
	if was, beyond := binary.LittleEndian.Uint32(out), int32(binary.LittleEndian.Uint32(out[4:])); was != 4 || beyond != -1 {
		t.Errorf("grow to the cap gives %d, beyond it %d", was, beyond)
	}
	if in != &i.Input()[0] {
		t.Error("the input buffer has moved")
	}
}

// TestOutput: actions are a view of the buffer, and the flag for more is
// handed on.
func TestOutput(t *testing.T) {
	m := module{call: ops(
		constI32(outAt), opLocalGet, 0, opI32Store, 2, 0,
		constI32(16-1<<31))}.load(t)
	i := newInstance(t, m)
	out, more, err := i.Call(40, guest.BudgetCall)
	if err != nil || !more || len(out) != 16 || out[0] != 40 {
		t.Errorf("%x %v %v", out, more, err)
	}
	if len(i.Input()) != abi.InSize {
		t.Errorf("input buffer of %d bytes", len(i.Input()))
	}
	if _, _, err := i.Call(abi.InSize+8, guest.BudgetCall); err == nil {
		t.Error("more events than fit were handed in")
	}
}

func wasiImport(name string, results int, params ...byte) imp {
	im := imp{module: wasiModule, name: name, params: params}
	if results > 0 {
		im.results = []byte{tI32}
	}
	return im
}

// TestExit: proc_exit is a trap.
func TestExit(t *testing.T) {
	m := module{imports: []imp{wasiImport("proc_exit", 0, tI32)}, call: ifInput(constI32(3), opCall, 0)}.load(t)
	_, _, err := newInstance(t, m).Call(8, guest.BudgetCall)
	wantTrap(t, err, "exit")
	if !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

// TestHostCallsAreCharged: a loop of host calls costs the host far more than a
// tick for each turn.
func TestHostCallsAreCharged(t *testing.T) {
	m := module{imports: []imp{wasiImport("sched_yield", 1)},
		call: ops(opLoop, empty, opCall, 0, opDrop,
			// count turns in the first word of the output buffer
			constI32(outAt), constI32(outAt), opI32Load, 2, 0, constI32(1), 0x6a, opI32Store, 2, 0,
			opBr, 0, opEnd, constI32(0))}.load(t)
	i := newInstance(t, m).(*instance)
	_, _, err := i.Call(0, guest.BudgetCall)
	wantTrap(t, err, "budget")
	if turns := binary.LittleEndian.Uint32(i.out); turns == 0 || turns > guest.BudgetCall/hostTicks {
		t.Errorf("%d host calls for %d ticks", turns, guest.BudgetCall)
	}
}

// TestHostFunctionsWithBadArguments: every one of them, with pointers outside
// of memory and absurd lengths, answers or ends the call; none harms the host.
func TestHostFunctionsWithBadArguments(t *testing.T) {
	for _, f := range hostFuncs {
		for _, v := range []int64{-1, 0, 8, 4<<16 - 1, 1 << 30} {
			var push []byte
			im := imp{module: wasiModule, name: f.name}
			for _, p := range f.typ.Params {
				im.params = append(im.params, byte(p))
				if byte(p) == tI64 {
					push = append(push, constI64(v)...)
				} else {
					push = append(push, constI32(v)...)
				}
			}
			call := ops(push, opCall, 0)
			if len(f.typ.Results) > 0 {
				im.results = []byte{tI32}
				call = ops(call, opDrop)
			}
			m := module{imports: []imp{im}, call: ops(call, constI32(0))}.load(t)
			_, _, err := newInstance(t, m).Call(0, guest.BudgetCall)
			var trap *guest.Trap
			if err != nil && !errors.As(err, &trap) {
				t.Errorf("%s(%d): %v", f.name, v, err)
			}
		}
	}
}

// TestInitIsBounded: whatever runs before the first call runs on a budget.
func TestInitIsBounded(t *testing.T) {
	for name, m := range map[string]module{
		"start function": {start: forever},
		"_initialize":    {init: forever},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(context.Background(), Options{Path: m.file(t), initBudget: guest.BudgetLogin})
			wantTrap(t, err, "budget")
		})
	}
}

// TestRefilledBudget: the index that the budget will have is out of range when
// the module is validated.
func TestRefilledBudget(t *testing.T) {
	for _, global := range []int{1, 2} {
		refill := module{call: ops(constI64(1<<40), opGlobalSet, global, constI32(0))}
		wantLoadError(t, refill.bytes(), "global")
		peek := module{call: ops(opGlobalGet, global, opDrop, constI32(0))}
		wantLoadError(t, peek.bytes(), "global")
	}
	own := module{call: ops(constI64(1), opGlobalSet, 0, constI32(0))}.load(t)
	if _, _, err := newInstance(t, own).Call(0, guest.BudgetCall); err != nil {
		t.Errorf("its own global: %v", err)
	}
}

func wantLoadError(tb testing.TB, b []byte, words ...string) {
	tb.Helper()
	m, err := Load(context.Background(), Options{Path: writeModule(tb, b)})
	if err == nil {
		m.Close()
		tb.Fatal("it loads")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			tb.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestRefusedBuffers(t *testing.T) {
	const size = abi.InSize
	for name, c := range map[string]struct {
		b     abi.Buffers
		words string
	}{
		"misaligned in":     {abi.Buffers{In: inAt + 4, InSize: size, Out: outAt + 8, OutSize: size}, "multiple of 8"},
		"misaligned out":    {abi.Buffers{In: inAt, InSize: size, Out: outAt + 1, OutSize: size}, "multiple of 8"},
		"null":              {abi.Buffers{In: 0, InSize: size, Out: outAt, OutSize: size}, "multiple of 8"},
		"too small":         {abi.Buffers{In: inAt, InSize: size - 8, Out: outAt, OutSize: size}, "at least"},
		"odd size":          {abi.Buffers{In: inAt, InSize: size, Out: outAt, OutSize: size + 4}, "multiple of 8"},
		"outside":           {abi.Buffers{In: inAt, InSize: size, Out: 4<<16 - 8, OutSize: size}, "outside"},
		"wraps around":      {abi.Buffers{In: inAt, InSize: size, Out: 1<<32 - 8, OutSize: size}, "outside"},
		"size wraps around": {abi.Buffers{In: inAt, InSize: size, Out: outAt, OutSize: 1<<32 - 8}, "outside"},
		"overlap":           {abi.Buffers{In: inAt, InSize: size, Out: inAt + 8, OutSize: size}, "overlap"},
		"same":              {abi.Buffers{In: inAt, InSize: size, Out: inAt, OutSize: size}, "overlap"},
	} {
		t.Run(name, func(t *testing.T) { wantLoadError(t, module{buffers: &c.b}.bytes(), c.words) })
	}
}

// TestNothingLeaks: instances and modules that come, trap and go leave no
// mappings and no goroutines.
func TestNothingLeaks(t *testing.T) {
	round := func() {
		m, err := Load(context.Background(), Options{Path: module{call: ifInput(opUnreachable)}.file(t)})
		if err != nil {
			t.Fatal(err)
		}
		for k := range 20 {
			i, err := m.NewInstance(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := i.Call(8*(k&1), guest.BudgetCall); (err != nil) != (k&1 == 1) {
				t.Error(err)
			}
			if k == 0 {
				defer i.Close() // outlives Close of the module
				continue
			}
			i.Close()
			i.Close()
		}
		m.Close()
		if _, err := m.NewInstance(context.Background()); !errors.Is(err, errModuleClosed) {
			t.Errorf("an instance of a closed module: %v", err)
		}
		_, err = Load(context.Background(), Options{Path: module{buffers: &abi.Buffers{}}.file(t)})
		if err == nil {
			t.Error("it loads")
		}
	}
	round()
	maps, routines := mappings(t), runtime.NumGoroutine()
	for range 10 {
		round()
	}
	var nowMaps, nowRoutines int
	for range 50 { // code is unmapped by finalizers
		runtime.GC()
		nowMaps, nowRoutines = mappings(t), runtime.NumGoroutine()
		if nowMaps <= maps+8 && nowRoutines <= routines {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("mappings %d → %d, goroutines %d → %d", maps, nowMaps, routines, nowRoutines)
}

func mappings(tb testing.TB) int {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Skip("needs /proc:", err)
	}
	return strings.Count(string(b), "\n")
}
