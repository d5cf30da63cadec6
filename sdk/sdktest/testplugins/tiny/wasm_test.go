package tiny_test

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
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// TestConformanceWasm runs the suite over the compiled plugins, in a plain
// runtime without the engine's metering.
func TestConformanceWasm(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: does not compile the plugins")
	}
	for _, c := range []struct {
		dir, features string
		plugin        protocol.Plugin
		disk          *server.Disk
	}{
		{"./wasm", "digest,hash,credits,keepalive,session", tiny.Plugin(), &server.Disk{Credits: 7, Pieces: true}},
		{"./copywasm", "credits,session", tiny.Transforming(), &server.Disk{Credits: 5, Pieces: true, Transformed: true}},
	} {
		t.Run(c.plugin.Manifest().Name, func(t *testing.T) {
			c.disk.Fill(diskSize)
			sdktest.Run(t, sdktest.Harness{
				Manifest: c.plugin.Manifest(),
				Values:   map[string]string{"features": c.features},
				Open:     guests(t, c.dir),
				Dial:     func(sdktest.TB) sdktest.Server { return sdktest.Answers(c.disk.Connect().Answer) },
			})
		})
	}
}

// guests compiles a plugin and makes instances of it.
func guests(t *testing.T, dir string) func(sdktest.TB) sdktest.Instance {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin.wasm")
	c := exec.Command("go", "build", "-buildmode=c-shared", "-o", path, dir)
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	// Memory is reserved whole, so that views of it stay where they are.
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithMemoryLimitPages(256).WithMemoryCapacityFromMax(true))
	t.Cleanup(func() { r.Close(ctx) })
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	compiled, err := r.CompileModule(ctx, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return func(t sdktest.TB) sdktest.Instance {
		m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions(abi.ExportInit))
		if err != nil {
			t.Fatal(err)
		}
		v, err := m.ExportedFunction(abi.ExportBuffers).Call(ctx, abi.InSize, abi.OutSize)
		if err != nil {
			t.Fatal(err)
		}
		word := func(i uint32) uint32 { w, _ := m.Memory().ReadUint32Le(uint32(v[0]) + 4*i); return w }
		in, _ := m.Memory().Read(word(0), word(1))
		return &guest{m: m, call: m.ExportedFunction(abi.ExportCall), in: in, out: word(2)}
	}
}

type guest struct {
	m    api.Module
	call api.Function
	in   []byte
	out  uint32
}

func (g *guest) Input() []byte { return g.in }
func (g *guest) Close()        { g.m.Close(context.Background()) }

func (g *guest) Call(n int, _ int64) ([]byte, bool, error) {
	v, err := g.call.Call(context.Background(), uint64(n))
	if err != nil {
		return nil, false, err
	}
	r := uint32(v[0])
	b, ok := g.m.Memory().Read(g.out, r&^abi.CallMore)
	if !ok {
		return nil, false, errors.New("actions outside the memory")
	}
	return b, r&abi.CallMore != 0, nil
}
