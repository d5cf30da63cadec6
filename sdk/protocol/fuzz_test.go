package protocol

import (
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// FuzzMachine hands in any bytes as events, to a plugin that answers with
// actions of sizes that the bytes choose. The machine must not panic, and what
// it gives must be whole records whose stream actions add up to its position.
func FuzzMachine(f *testing.F) {
	r := newRig(&script{}, 1024)
	f.Add([]byte{}, uint8(0))
	request(r, 1)
	request(r, 2)
	window(r, 0, []byte("some bytes of a stream")...)
	f.Add(append([]byte(nil), r.in[:r.n]...), uint8(3))
	r.n = 0
	event(r, abi.EvOpened, abi.Opened{OptionsLen: 4}, []byte("a=b\x00")...)
	window(r, 0, make([]byte, 100)...)
	window(r, 8, make([]byte, 100)...)
	f.Add(append([]byte(nil), r.in[:r.n]...), uint8(200))
	f.Fuzz(func(t *testing.T, events []byte, size uint8) {
		r := newRig(&script{
			submit: func(a *Actions, batch []Request) int {
				for i := range batch {
					copy(a.SendBuffer(int(batch[i].Length%4096)), "x")
					a.Complete(batch[i].Tag, block.OK)
				}
				return len(batch) - int(size&1)
			},
			received: func(a *Actions, b []byte) int {
				for range b[0] {
					a.Complete(1, block.EIO)
				}
				if b[0]&1 != 0 {
					a.Receive(1, 0, uint64(b[0]))
				}
				if b[0]&2 != 0 {
					a.Discard(3)
				}
				return int(b[0] & 7)
			},
			payload: func([]byte) {},
		}, 8<<10)
		r.n = copy(r.in, events)
		got, _ := r.call(t)
		start := uint64(0)
		if len(events) >= 8 && abi.Overlay[abi.Header](r.in).Kind == abi.EvOpened {
			return // may move the position by itself
		}
		moved := start
		opened := false
		for _, a := range parse(t, got) {
			switch a.kind {
			case abi.ActConsume, abi.ActReceive, abi.ActDiscard:
				moved += a.n
			}
		}
		for b := r.in[:min(len(events), len(r.in))]; ; {
			rec, rest, ok := abi.Next(b)
			if !ok {
				break
			}
			opened = opened || abi.Overlay[abi.Header](rec).Kind == abi.EvOpened
			b = rest
		}
		if !opened && moved != r.m.pos {
			t.Fatalf("the actions move the stream by %d, the machine by %d", moved, r.m.pos)
		}
	})
}
