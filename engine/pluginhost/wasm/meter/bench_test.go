package meter

import (
	"context"
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
