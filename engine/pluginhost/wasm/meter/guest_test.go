package meter

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

var guest struct {
	sync.Mutex
	module []byte
}

// buildGoGuest compiles testdata/goguest with the toolchain that runs the test.
func buildGoGuest(t testing.TB) []byte {
	t.Helper()
	guest.Lock()
	defer guest.Unlock()
	if guest.module != nil {
		return guest.module
	}
	file := filepath.Join(t.TempDir(), "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", file, "./testdata/goguest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the Go guest: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	guest.module = b
	return b
}

// instantiateGuest makes an instance and runs its initialization, if it has one.
func instantiateGuest(t testing.TB, module []byte) api.Module {
	t.Helper()
	ctx := context.Background()
	rt := newRuntime(t)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, rt); err != nil {
		t.Fatal(err)
	}
	cfg := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	mod, err := rt.InstantiateWithConfig(ctx, module, cfg)
	if err != nil {
		t.Fatalf("instantiate: %v", err)
	}
	if b, ok := mod.ExportedGlobal(ExportBudget).(api.MutableGlobal); ok {
		b.Set(1 << 30)
	}
	if f := mod.ExportedFunction("_initialize"); f != nil {
		if _, err := f.Call(ctx); err != nil {
			t.Fatalf("_initialize: %v", err)
		}
	}
	return mod
}

// TestGoGuest runs a guest of the stock toolchain before and after rewriting:
// initialization, maps, garbage collection, panics, goroutines, recursion.
func TestGoGuest(t *testing.T) {
	module := buildGoGuest(t)
	old := instantiateGuest(t, module)
	m := guestMetered(t, module)
	for _, c := range []struct {
		name string
		arg  uint64
	}{{"tour", 1}, {"tour", 2}, {"headers", 16}, {"sum", 448}, {"down", 50}, {"tour", 99}} {
		want, err := old.ExportedFunction(c.name).Call(context.Background(), c.arg)
		if err != nil {
			t.Fatalf("%s(%d) in the original: %v", c.name, c.arg, err)
		}
		got, err := m.call(c.name, 1<<30, c.arg)
		compare(t, c.name, want, got, nil, err)
		t.Logf("%s(%d): %d ticks", c.name, c.arg, 1<<30-int64(m.budget.Get()))
	}
}

// TestGoGuestMisbehaves: the same limits hold for Go code.
func TestGoGuestMisbehaves(t *testing.T) {
	module := buildGoGuest(t)
	if _, err := guestMetered(t, module).call("forever", 1e5); err == nil {
		t.Error("forever returned")
	}
	m := guestMetered(t, module)
	if _, err := m.call("forever", 1e5); err == nil || m.cause() != CauseBudget {
		t.Errorf("forever: error %v, cause %v", err, m.cause())
	}
	m = guestMetered(t, module)
	if _, err := m.call("down", 1<<40, 10_000_000); err == nil || m.cause() != CauseDepth {
		t.Errorf("down: error %v, cause %v", err, m.cause())
	}
}

func guestMetered(t *testing.T, module []byte) *metered {
	t.Helper()
	mod := instantiateGuest(t, rewrite(t, module, DefaultLimits()))
	return &metered{mod, global(t, mod, ExportBudget), global(t, mod, ExportDepth)}
}
