package nbd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"blockengine/sdk/abi"
	"blockengine/sdk/sdktest"
)

// buildWasm compiles the plugin as a user would.
func buildWasm(t testing.TB) string {
	t.Helper()
	return buildVersion(t, Version)
}

// buildVersion compiles a build that calls itself another version.
func buildVersion(t testing.TB, version string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nbd-"+version+".wasm")
	c := exec.Command("go", "build", "-buildmode=c-shared", "-o", path,
		"-ldflags", "-X blockengine/plugins/nbd.Version="+version, "./wasm")
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return path
}

// guests makes instances of a module in a plain runtime, without the engine's
// metering.
func guests(t testing.TB, path string) func(sdktest.TB) sdktest.Instance {
	t.Helper()
	ctx := context.Background()
	// Memory is reserved whole, so that views of it stay where they are.
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithMemoryLimitPages(256).WithMemoryCapacityFromMax(true))
	t.Cleanup(func() { r.Close(ctx) })
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := r.CompileModule(ctx, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return func(t sdktest.TB) sdktest.Instance {
		m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions(abi.ExportInit))
		if err != nil {
			t.Fatal(err)
		}
		return newGuest(t, m)
	}
}

type guest struct {
	m     api.Module
	call  api.Function
	in    []byte
	out   uint32
	stack [1]uint64
}

func newGuest(t sdktest.TB, m api.Module) *guest {
	ctx := context.Background()
	if v, err := m.ExportedFunction(abi.ExportABI).Call(ctx); err != nil || v[0] != abi.Version {
		t.Fatalf("%s: %v, %v", abi.ExportABI, v, err)
	}
	v, err := m.ExportedFunction(abi.ExportBuffers).Call(ctx, abi.InSize, abi.OutSize)
	if err != nil {
		t.Fatal(err)
	}
	word := func(i uint32) uint32 { w, _ := m.Memory().ReadUint32Le(uint32(v[0]) + 4*i); return w }
	in, ok := m.Memory().Read(word(0), word(1))
	if !ok || word(0)%8 != 0 || word(2)%8 != 0 || word(3) < abi.OutSize {
		t.Fatalf("buffers at %#x and %#x, %d and %d bytes", word(0), word(2), word(1), word(3))
	}
	return &guest{m: m, call: m.ExportedFunction(abi.ExportCall), in: in, out: word(2)}
}

func (g *guest) Input() []byte { return g.in }
func (g *guest) Close()        { g.m.Close(context.Background()) }

func (g *guest) Call(n int, _ int64) ([]byte, bool, error) {
	g.stack[0] = uint64(n)
	if err := g.call.CallWithStack(context.Background(), g.stack[:]); err != nil {
		return nil, false, err
	}
	r := uint32(g.stack[0])
	b, ok := g.m.Memory().Read(g.out, r&^abi.CallMore)
	if !ok {
		return nil, false, errors.New("actions outside the memory")
	}
	return b, r&abi.CallMore != 0, nil
}

func TestConformanceWasm(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugin")
	}
	open := guests(t, buildWasm(t))
	for name, server := range serversAgain() {
		t.Run(name, func(t *testing.T) {
			sdktest.Run(t, sdktest.Harness{
				Manifest: Plugin().Manifest(),
				Values:   map[string]string{"export": "disk0"},
				Open:     open,
				Dial:     func(sdktest.TB) sdktest.Server { return server.dial() },
			})
		})
	}
}

// TestHandoverBuilds hands connections over to and fro between two builds, and
// between each of them and the plugin that is linked in.
func TestHandoverBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugin")
	}
	one, two := guests(t, buildVersion(t, "1.0.0")), guests(t, buildVersion(t, "2.0.0"))
	for _, pair := range []struct {
		name        string
		open, other func(sdktest.TB) sdktest.Instance
	}{
		{"1.0.0 and 2.0.0", one, two},
		{"1.0.0 and builtin", one, sdktest.Linked(Plugin())},
		{"builtin and 2.0.0", sdktest.Linked(Plugin()), two},
	} {
		for form, name := range []string{"simple", "structured", "extended"} {
			t.Run(pair.name+"/"+name, func(t *testing.T) {
				server := newResponder(form)
				server.canonical = "the server's name"
				sdktest.RunHandover(t, sdktest.Harness{
					Manifest: Plugin().Manifest(),
					Values:   map[string]string{"export": "disk0", "connections": "3"},
					Open:     pair.open, Other: pair.other,
					Dial: func(sdktest.TB) sdktest.Server { return server.dial() },
				})
			})
		}
	}
}
