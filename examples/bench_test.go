package examples_test

import (
	"testing"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm"
	plain "blockengine/examples/protocol-go"
	"blockengine/examples/protocol-go/server"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// requestsPerCall is how many requests and replies a call has.
const requestsPerCall = 16

// BenchmarkPlain compares the smallest plugin in its three forms: what it costs
// to turn a request into the server's, in a call of 16, and the reply to it into
// a completion, in another. ns/request counts both.
func BenchmarkPlain(b *testing.B) {
	b.Run("linked", func(b *testing.B) { benchmark(b, guest.Linked(plain.Plugin())) })
	b.Run("wasm-go", func(b *testing.B) { benchmark(b, load(b, goPlugin(b, "./protocol-go/wasm"))) })
	b.Run("wasm-c", func(b *testing.B) { benchmark(b, load(b, cPlugin(b, "protocol-c/plain.c"))) })
}

func load(b *testing.B, path string) guest.Module {
	b.Helper()
	m, err := wasm.Load(b.Context(), wasm.Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.Close() })
	return m
}

func benchmark(b *testing.B, m guest.Module) {
	i, err := m.NewInstance(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer i.Close()
	for _, op := range []struct {
		name string
		op   block.Op
	}{{"read", block.OpRead}, {"write", block.OpWrite}, {"flush", block.OpFlush}} {
		if op.op == block.OpRead {
			logIn(b, i)
		}
		b.Run(op.name, func(b *testing.B) { exchange(b, i, op.op) })
	}
}

// at is where the stream stands.
var at uint64

// logIn hands in the greeting.
func logIn(b *testing.B, i guest.Instance) {
	b.Helper()
	greeting, _ := server.New(1 << 20).Connect()(nil)
	n := record(i.Input(), abi.EvOpened, abi.Opened{Session: abi.SessionFirst, Role: abi.RoleControl}, nil)
	call(b, i, n)
	n = record(i.Input(), abi.EvReceived, abi.Received{Len: uint32(len(greeting))}, greeting)
	call(b, i, n)
	at = uint64(len(greeting))
}

// exchange is a batch of requests and a window with all replies, the last one's
// first, which frees the plugin's slots in the order in which it takes them.
func exchange(b *testing.B, i guest.Instance, op block.Op) {
	const length = 4096
	requests := make([]byte, 0, requestsPerCall*40)
	for tag := range uint64(requestsPerCall) {
		var rec [40]byte
		r := abi.Request{Tag: tag + 1, Op: op, Offset: tag * length, Length: length}
		if op == block.OpFlush {
			r.Offset, r.Length = 0, 0
		}
		requests = append(requests, rec[:record(rec[:], abi.EvRequest, r, nil)]...)
	}
	copy(i.Input(), requests)
	cookies := cookiesOf(b, call(b, i, len(requests)), op == block.OpWrite)
	window, replies := replies(cookies, op == block.OpRead, length)
	b.ReportAllocs()
	// The first batch is outstanding; from here on a turn is its replies, and
	// the next batch.
	for b.Loop() {
		abi.Overlay[abi.Received](window).Offset = at
		n := copy(i.Input(), window)
		if op == block.OpRead { // each reply is a window of its own, its data between
			n = place(i.Input(), window, at, length)
		}
		if out := call(b, i, n); len(out) == 0 {
			b.Fatal("replies without an effect")
		}
		at += replies
		copy(i.Input(), requests)
		call(b, i, len(requests))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/requestsPerCall, "ns/request")
	n := copy(i.Input(), window)
	if op == block.OpRead {
		n = place(i.Input(), window, at, length)
	} else {
		abi.Overlay[abi.Received](i.Input()).Offset = at
	}
	call(b, i, n)
	at += replies
}

const sizeReceived = int(unsafe.Sizeof(abi.Received{}))

// place puts one record for each reply into the input buffer.
func place(in, window []byte, at uint64, length int) int {
	replies := window[sizeReceived:]
	n := 0
	for len(replies) >= 16 {
		*abi.Overlay[abi.Received](in[n:]) = abi.Received{Header: abi.Header{Kind: abi.EvReceived, Size: uint32(sizeReceived + 16)}, Offset: at, Len: 16}
		copy(in[n+sizeReceived:], replies[:16])
		n += sizeReceived + 16
		at += uint64(16 + length)
		replies = replies[16:]
	}
	return n
}

// replies makes a window of the replies to all cookies and tells how long they
// are in the stream.
func replies(cookies []uint64, data bool, length int) (window []byte, stream uint64) {
	var b []byte
	for k := len(cookies) - 1; k >= 0; k-- {
		var r [16]byte
		if data {
			*(*uint32)(unsafe.Pointer(&r[4])) = uint32(length)
			stream += uint64(length)
		}
		*(*uint64)(unsafe.Pointer(&r[8])) = cookies[k]
		b = append(b, r[:]...)
	}
	window = make([]byte, sizeReceived+len(b))
	record(window, abi.EvReceived, abi.Received{Len: uint32(len(b))}, b)
	return window, stream + uint64(len(b))
}

// cookiesOf reads the cookies of the requests that are sent.
func cookiesOf(b *testing.B, actions []byte, payload bool) (cookies []uint64) {
	b.Helper()
	for len(actions) > 0 {
		rec, rest, ok := abi.Next(actions)
		if !ok {
			b.Fatal("malformed actions")
		}
		if r := abi.Overlay[abi.Bytes](rec); r.Kind == abi.ActSend {
			cookies = append(cookies, *(*uint64)(unsafe.Pointer(&rec[int(unsafe.Sizeof(*r))+8])))
		}
		actions = rest
	}
	if len(cookies) != requestsPerCall {
		b.Fatalf("%d requests were sent", len(cookies))
	}
	return cookies
}

// record writes an event and gives its length.
func record[T any](b []byte, kind uint16, v T, inline []byte) int {
	fixed := int(unsafe.Sizeof(v))
	n := abi.Align(fixed + len(inline))
	*abi.Overlay[T](b) = v
	*abi.Overlay[abi.Header](b) = abi.Header{Kind: kind, Size: uint32(n)}
	copy(b[fixed:], inline)
	return n
}

// call hands in events; a plugin that fails ends the benchmark.
func call(b *testing.B, i guest.Instance, n int) []byte {
	b.Helper()
	out, _, err := i.Call(n, guest.BudgetLogin)
	if err != nil {
		b.Fatal(err)
	}
	if len(out) > 8 && abi.Overlay[abi.Header](out).Kind == abi.ActFail {
		b.Fatalf("the plugin fails: %q", out)
	}
	return out
}
