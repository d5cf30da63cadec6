package nbd

import (
	"testing"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// batch is how many requests a call of the benchmark carries.
const batch = 16

// BenchmarkRequests measures a request and its reply, sixteen to a call, in
// each runtime and form of reply.
func BenchmarkRequests(b *testing.B) {
	runtimes := []struct {
		name string
		open func(sdktest.TB) sdktest.Instance
	}{{"builtin", sdktest.Linked(Plugin())}, {"wasm", guests(b, buildWasm(b))}}
	for _, rt := range runtimes {
		for form, name := range []string{"simple", "structured", "extended"} {
			for _, op := range []block.Op{block.OpRead, block.OpWrite} {
				b.Run(rt.name+"/"+name+"/"+op.String(), func(b *testing.B) { benchmark(b, rt.open(b), form, op) })
			}
		}
	}
}

func benchmark(b *testing.B, inst sdktest.Instance, form int, op block.Op) {
	defer inst.Close()
	x := sdktest.NewExecutor(b, inst, newResponder(form).dial(), sdktest.Options{Manifest: Plugin().Manifest()})
	x.Open()
	if x.Limits == nil {
		b.Fatal("no login")
	}
	requests, replies, step := scripts(form, op)
	pos := x.Pos()
	b.ReportAllocs()
	for b.Loop() {
		must(b, inst, copy(inst.Input(), requests))
		n := copy(inst.Input(), replies)
		for at := 0; at < n; {
			w := abi.Overlay[abi.Received](inst.Input()[at:])
			w.Offset = pos
			pos += step
			at += int(w.Size)
		}
		must(b, inst, n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/request")
	b.ReportMetric(0, "ns/op")
}

// scripts makes the events of one round and tells how far a reply moves the
// stream.
func scripts(form int, op block.Op) (requests, replies []byte, step uint64) {
	r := newResponderOf(form, 1<<20)
	r.agreed = form
	for i := range uint64(batch) {
		rec := make([]byte, unsafe.Sizeof(abi.Request{}))
		*abi.Overlay[abi.Request](rec) = abi.Request{
			Header: abi.Header{Kind: abi.EvRequest, Size: uint32(len(rec))},
			Tag:    i, Op: op, Offset: i << 12, Length: 4096,
		}
		requests = append(requests, rec...)

		cookie := make([]byte, 8)
		putNative64(cookie, i^cookieMask(Version))
		head := r.replyHead(op, cookie, i<<12)
		step = uint64(len(head))
		if op == block.OpRead {
			step += 4096
		}
		rec = make([]byte, abi.Align(24+len(head)))
		*abi.Overlay[abi.Received](rec) = abi.Received{
			Header: abi.Header{Kind: abi.EvReceived, Size: uint32(len(rec))}, Len: uint32(len(head)),
		}
		copy(rec[24:], head)
		replies = append(replies, rec...)
	}
	return requests, replies, step
}

// replyHead is what of a reply the plugin gets to see.
func (r *responder) replyHead(op block.Op, cookie []byte, offset uint64) []byte {
	if op != block.OpRead {
		return r.execute(5, 0, cookie, offset, 0, nil)
	}
	b := r.read(cookie, offset, 4096)
	return b[:len(b)-4096]
}

func must(b *testing.B, inst sdktest.Instance, n int) {
	if actions, _, err := inst.Call(n, 1<<40); err != nil || len(actions) < batch*sizeRequest {
		b.Fatalf("%d bytes of actions, %v", len(actions), err)
	}
}
