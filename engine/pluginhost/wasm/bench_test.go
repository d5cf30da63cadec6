package wasm

import (
	"context"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm/testdata/echo/proto"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

func benchCall(b *testing.B, i guest.Instance, n int) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := i.Call(n, guest.BudgetCall); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNoop is a be_call that does nothing, in a hand-made module: the
// price of the way in and out.
func BenchmarkNoop(b *testing.B) { benchCall(b, newInstance(b, module{}.load(b)), 0) }

// runtimes runs a benchmark on the same plugin in both runtimes.
func runtimes(b *testing.B, f func(b *testing.B, i guest.Instance)) {
	b.Run("wasm", func(b *testing.B) { f(b, newInstance(b, loadEcho(b))) })
	b.Run("linked", func(b *testing.B) { f(b, newInstance(b, guest.Linked(proto.Plugin{}))) })
}

func BenchmarkEmptyGoCall(b *testing.B) {
	runtimes(b, func(b *testing.B, i guest.Instance) { benchCall(b, i, 0) })
}

func BenchmarkSubmit1(b *testing.B) {
	runtimes(b, func(b *testing.B, i guest.Instance) { benchCall(b, i, requests(i.Input(), block.OpRead, 1)) })
}

func BenchmarkSubmit16(b *testing.B) {
	runtimes(b, func(b *testing.B, i guest.Instance) { benchCall(b, i, requests(i.Input(), block.OpRead, 16)) })
}

// BenchmarkReceived16 hands in 16 replies that each complete a request. The
// stream's offset moves on, as it does in life.
func BenchmarkReceived16(b *testing.B) {
	runtimes(b, func(b *testing.B, i guest.Instance) {
		text := string(make([]byte, 16*8))
		n := putRecord(i.Input(), abi.EvReceived, abi.Received{Len: uint32(len(text))}, text)
		r := abi.Overlay[abi.Received](i.Input())
		b.ReportAllocs()
		for b.Loop() {
			out, _, err := i.Call(n, guest.BudgetCall)
			if err != nil || len(out) == 0 {
				b.Fatal(err, len(out))
			}
			r.Offset += uint64(len(text))
		}
	})
}

func BenchmarkNewInstance(b *testing.B) {
	m := loadEcho(b)
	b.ReportAllocs()
	for b.Loop() {
		i, err := m.NewInstance(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		i.Close()
	}
}

// BenchmarkLoadCached is a Load of the Go guest whose code is in the cache.
func BenchmarkLoadCached(b *testing.B) {
	loadEcho(b)
	for b.Loop() {
		loadEcho(b).Close()
	}
}
