package meter

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/tetratelabs/wazero/api"
)

// BenchmarkHeader: header building as C compiles it, before and after.
func BenchmarkHeader(b *testing.B) {
	module := wasmFile(b, "header")
	one := []uint64{64, 1, 77, 4096, 4096}
	many := []uint64{64, 16}
	b.Run("one/original", func(b *testing.B) { benchOriginal(b, module, "one", one) })
	b.Run("one/globals", func(b *testing.B) { benchGlobals(b, module, "one", one) })
	b.Run("one/wrapped", func(b *testing.B) { benchWrapped(b, module, "one", one) })
	b.Run("many16/original", func(b *testing.B) { benchOriginal(b, module, "many", many) })
	b.Run("many16/globals", func(b *testing.B) { benchGlobals(b, module, "many", many) })
	b.Run("many16/wrapped", func(b *testing.B) { benchWrapped(b, module, "many", many) })
}

// BenchmarkGoGuest: the same by a guest of the stock Go toolchain.
func BenchmarkGoGuest(b *testing.B) {
	module := buildGoGuest(b)
	args := []uint64{16}
	b.Run("many16/original", func(b *testing.B) { benchOriginal(b, module, "headers", args) })
	b.Run("many16/globals", func(b *testing.B) { benchGlobals(b, module, "headers", args) })
	b.Run("many16/wrapped", func(b *testing.B) { benchWrapped(b, module, "headers", args) })
}

// BenchmarkRewrite: what loading a Go guest costs here.
func BenchmarkRewrite(b *testing.B) {
	module := buildGoGuest(b)
	b.SetBytes(int64(len(module)))
	for b.Loop() {
		rewrite(b, module, DefaultLimits(), "headers")
	}
}

func benchOriginal(b *testing.B, module []byte, name string, args []uint64) {
	mod := instantiateGuest(b, module)
	loopCall(b, mod.ExportedFunction(name), args, func() {})
}

func benchGlobals(b *testing.B, module []byte, name string, args []uint64) {
	mod := instantiateGuest(b, rewrite(b, module, DefaultLimits()))
	budget, depth := global(b, mod, ExportBudget), global(b, mod, ExportDepth)
	limit := uint64(DefaultLimits().MaxCallDepth)
	loopCall(b, mod.ExportedFunction(name), args, func() { budget.Set(1e5); depth.Set(limit) })
}

func benchWrapped(b *testing.B, module []byte, name string, args []uint64) {
	mod := instantiateGuest(b, rewrite(b, module, DefaultLimits(), name))
	loopCall(b, mod.ExportedFunction(name), append([]uint64{1e5}, args...), func() {})
}

// loopCall calls with the caller's stack, as a host would: no allocation.
func loopCall(b *testing.B, f api.Function, args []uint64, fill func()) {
	ctx := context.Background()
	stack := make([]uint64, max(len(args), 1))
	b.ReportAllocs()
	for b.Loop() {
		copy(stack, args)
		fill()
		if err := f.CallWithStack(ctx, stack); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTick tells how long a tick lasts at worst: the longest that a guest
// can hold its thread is the budget times that.
func BenchmarkTick(b *testing.B) {
	chase := []byte{opLocalGet, 0, 0x28, 2, 0, 0x21, 0} // i = load(i)
	for name, step := range map[string][]byte{
		"loop":         nil,
		"straight":     repeat([]byte{opLocalGet, 0, opI32Const, 3, 0x6c, 0x21, 0}, 1000),
		"chase":        repeat(chase, 1000),
		"divide":       repeat([]byte{opI32Const, 127, opLocalGet, 0, opI32Const, 1, 0x72, 0x6e, 0x21, 0}, 1000),
		"square root":  repeat([]byte{opLocalGet, 1, 0x9f, 0x21, 1}, 1000),
		"memory.grow":  {opI32Const, 0, opMemoryGrow, 0, 0x1a},
		"ref.func":     repeat([]byte{opRefFunc, 1, 0x1a}, 1000),
		"fill 1 MiB":   {opI32Const, 0, opI32Const, 1, opI32Const, 0x80, 0x80, 0xc0, 0, 0xfc, 11, 0},
		"fill nothing": {opI32Const, 0, opI32Const, 1, opI32Const, 0, 0xfc, 11, 0},
		"call":         repeat([]byte{opCall, 1}, 100),
		"by table":     repeat([]byte{opI32Const, 0, opCallIndirect, 0, 0}, 100),
	} {
		b.Run(name, func(b *testing.B) { benchTicks(b, endless(step)) })
	}
}

func repeat(b []byte, n int) []byte { return bytes.Repeat(b, n) }

// endless is a module that repeats the instructions for ever, with an i32 and
// an f64 local and 16 MiB of memory that holds a random cycle of addresses.
func endless(step []byte) []byte {
	body := append([]byte{2, 1, byte(I32), 1, byte(F64), opLoop, blockEmpty}, step...)
	body = append(body, opBr, 0, opEnd, opEnd)
	return build(
		section(secType, vector(fn(nil, nil))),
		section(secFunction, vector([]byte{0}, []byte{0})),
		section(secTable, vector([]byte{byte(FuncRef), 0, 4})),
		section(secMemory, vector(appendU32([]byte{0}, 256))),
		section(secExport, vector(appendExport(nil, "f", KindFunc, 0), appendExport(nil, "m", KindMemory, 0))),
		section(secElement, vector([]byte{0, opI32Const, 0, opEnd, 1, 1})),
		section(secCode, vector(appendBytes(nil, body), code())),
	)
}

func benchTicks(b *testing.B, module []byte) {
	const budget = 20_000
	mod := instantiate(b, newRuntime(b), rewrite(b, module, DefaultLimits(), "f"))
	next := rand.New(rand.NewPCG(1, 2)).Perm(1 << 18)
	at := next[len(next)-1]
	for _, to := range next {
		mod.Memory().WriteUint32Le(uint32(at)*64, uint32(to)*64)
		at = to
	}
	f := mod.ExportedFunction("f")
	for b.Loop() {
		if _, err := f.Call(context.Background(), budget); err == nil {
			b.Fatal("ended")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/budget, "ns/tick")
}
