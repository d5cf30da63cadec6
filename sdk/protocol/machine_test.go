package protocol

import (
	"bytes"
	"testing"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// script is a Conn whose methods a test fills in.
type script struct {
	Base
	submit   func(a *Actions, batch []Request) int
	received func(a *Actions, b []byte) int
	opened   func(a *Actions, o *Opened)
	payload  func(data []byte)
}

func (s *script) Opened(a *Actions, o *Opened) {
	if s.opened != nil {
		s.opened(a, o)
	}
}

func (s *script) Submit(a *Actions, batch []Request) int {
	if s.submit == nil {
		return len(batch)
	}
	return s.submit(a, batch)
}

func (s *script) Received(a *Actions, b []byte) int {
	if s.received == nil {
		return len(b)
	}
	return s.received(a, b)
}

func (s *script) Payload(_ *Actions, _, _ uint64, data []byte) { s.payload(data) }

func aligned(n int) []byte {
	w := make([]uint64, n/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), n)
}

// rig is a machine over buffers, small ones where a test wants it to spill.
type rig struct {
	m       *Machine
	in, out []byte
	n       int
}

func newRig(s *script, outSize int) *rig {
	r := &rig{in: aligned(8 << 10), out: aligned(outSize)}
	r.m = NewMachine(s, r.in, r.out, nil)
	return r
}

// event appends an event record.
func event[T any](r *rig, kind uint16, v T, inline ...byte) {
	fixed := int(unsafe.Sizeof(v))
	size := abi.Align(fixed + len(inline))
	clear(r.in[r.n : r.n+size])
	*abi.Overlay[T](r.in[r.n:]) = v
	*abi.Overlay[abi.Header](r.in[r.n:]) = abi.Header{Kind: kind, Size: uint32(size)}
	copy(r.in[r.n+fixed:], inline)
	r.n += size
}

// call runs the events and gives all actions, with how many calls they took.
func (r *rig) call(t testing.TB) (actions []byte, calls int) {
	t.Helper()
	n := r.n
	r.n = 0
	for {
		calls++
		got := r.m.Call(uint32(n))
		actions = append(actions, r.out[:got&^abi.CallMore]...)
		if got&abi.CallMore == 0 {
			return actions, calls
		}
		if got == abi.CallMore || calls > 1000 {
			t.Fatal("more actions are promised and none is given")
		}
		n = 0
	}
}

// act is one action as tests compare it: kind and its most telling number.
type act struct {
	kind uint16
	n    uint64
}

func parse(t testing.TB, b []byte) (all []act) {
	t.Helper()
	// Records are looked at in memory that is aligned for certain.
	b = append(aligned(abi.Align(len(b)))[:0], b...)
	for len(b) > 0 {
		rec, rest, ok := abi.Next(b)
		if !ok {
			t.Fatalf("half a record: % x", b)
		}
		h := abi.Overlay[abi.Header](rec)
		n := uint64(0)
		switch h.Kind {
		case abi.ActConsume, abi.ActTaken, abi.ActReady, abi.ActDiscard:
			n = abi.Overlay[abi.Count](rec).N
		case abi.ActComplete:
			n = abi.Overlay[abi.Complete](rec).Tag
		case abi.ActReceive:
			r := abi.Overlay[abi.Range](rec)
			n = r.To - r.From
		case abi.ActSend:
			n = uint64(abi.Overlay[abi.Bytes](rec).Len)
		case abi.ActWant:
			n = uint64(abi.Overlay[abi.Want](rec).Min)
		case abi.ActFail:
			n = uint64(abi.Overlay[abi.Fail](rec).Status)
		}
		all = append(all, act{h.Kind, n})
		b = rest
	}
	return all
}

func expect(t *testing.T, got []byte, want ...act) {
	t.Helper()
	all := parse(t, got)
	if len(all) != len(want) {
		t.Fatalf("actions %v, want %v", all, want)
	}
	for i := range all {
		if all[i] != want[i] {
			t.Fatalf("action %d is %v, want %v", i, all[i], want[i])
		}
	}
}

func request(r *rig, tag uint64) {
	event(r, abi.EvRequest, abi.Request{Tag: tag, Op: block.OpRead, Length: 512})
}

func window(r *rig, at uint64, data ...byte) {
	event(r, abi.EvReceived, abi.Received{Offset: at, Len: uint32(len(data))}, data...)
}

// Actions beyond the output buffer come in later calls, in order, and none is
// lost or cut, whatever the sizes.
func TestSpill(t *testing.T) {
	var want []act
	r := newRig(&script{submit: func(a *Actions, batch []Request) int {
		for i := range batch {
			a.Complete(batch[i].Tag, block.OK)
			want = append(want, act{abi.ActComplete, batch[i].Tag})
			a.Send(make([]byte, 1+i*5))
			want = append(want, act{abi.ActSend, uint64(1 + i*5)})
		}
		return len(batch)
	}}, 1024)
	for round := range 3 {
		want = nil
		for i := range uint64(100) {
			request(r, uint64(round)<<32|i)
		}
		got, calls := r.call(t)
		if calls < 10 {
			t.Fatalf("%d calls", calls)
		}
		expect(t, got, want...)
	}
}

// Events that come while actions wait keep their place behind them.
func TestSpillKeepsOrder(t *testing.T) {
	r := newRig(&script{submit: func(a *Actions, batch []Request) int {
		for i := range batch {
			for k := range uint64(40) {
				a.Complete(batch[i].Tag*1000+k, block.OK)
			}
		}
		return len(batch)
	}}, 1024)
	request(r, 1)
	got := r.m.Call(uint32(r.n))
	if got&abi.CallMore == 0 {
		t.Fatal("nothing spilled")
	}
	all := append([]byte(nil), r.out[:got&^abi.CallMore]...)
	r.n = 0
	request(r, 2)
	rest, _ := r.call(t)
	parsed := parse(t, append(all, rest...))
	if len(parsed) != 80 {
		t.Fatalf("%d actions", len(parsed))
	}
	for i, a := range parsed {
		if want := uint64(i/40+1)*1000 + uint64(i%40); a.n != want {
			t.Fatalf("action %d is about %d, want %d", i, a.n, want)
		}
	}
}

// A Consume that has to be written into the spill, which moves while the
// plugin writes on, still gets its count.
func TestConsumeInSpill(t *testing.T) {
	for first := range 64 {
		r := newRig(&script{
			submit: func(a *Actions, batch []Request) int {
				for range first {
					a.Complete(7, block.OK)
				}
				return len(batch)
			},
			received: func(a *Actions, b []byte) int {
				for range 300 {
					a.Complete(9, block.OK)
				}
				a.Receive(9, 0, 100)
				return min(3, len(b))
			},
		}, 1024)
		request(r, 1)
		window(r, 0, 1, 2, 3, 4, 5)
		got, _ := r.call(t)
		all := parse(t, got)
		if len(all) != first+1+300+1 || all[first] != (act{abi.ActConsume, 3}) {
			t.Fatalf("after %d actions: %v", first, all[first])
		}
		if r.m.pos != 103 {
			t.Fatalf("after %d actions the position is %d", first, r.m.pos)
		}
	}
}

// A plugin that does nothing with a window leaves no trace, also in the spill.
func TestQuietStep(t *testing.T) {
	for _, first := range []int{0, 25, 26, 100} {
		r := newRig(&script{
			submit: func(a *Actions, batch []Request) int {
				for range first {
					a.Complete(7, block.OK)
				}
				return len(batch)
			},
			received: func(*Actions, []byte) int { return 0 },
		}, 1024)
		request(r, 1)
		window(r, 0, 1, 2, 3)
		got, _ := r.call(t)
		if all := parse(t, got); len(all) != first {
			t.Fatalf("%d actions, want %d", len(all), first)
		}
		request(r, 2)
		got, _ = r.call(t)
		if all := parse(t, got); len(all) != first {
			t.Fatalf("later: %d actions, want %d", len(all), first)
		}
	}
}

// Windows are looked at from the plugin's position on, others are ignored.
func TestWindows(t *testing.T) {
	var seen [][]byte
	r := newRig(&script{received: func(a *Actions, b []byte) int {
		if len(b) < 4 {
			a.Want(4, 512)
			return 0
		}
		seen = append(seen, append([]byte(nil), b[:4]...))
		if b[0] == 'r' {
			a.Receive(1, 0, 10)
		}
		return 4
	}}, 1024)
	window(r, 0, []byte("aaaabbbbcc")...) // two messages and half of one
	got, _ := r.call(t)
	expect(t, got, act{abi.ActConsume, 4}, act{abi.ActConsume, 4}, act{abi.ActConsume, 0}, act{abi.ActWant, 4})

	window(r, 20, []byte("zzzz")...) // a wrong guess
	window(r, 0, []byte("aaaa")...)  // what is over
	got, _ = r.call(t)
	expect(t, got)

	window(r, 8, []byte("rccc")...)  // directs ten bytes elsewhere
	window(r, 12, []byte("dddd")...) // so this is payload
	window(r, 22, []byte("eeee")...) // and this the next message
	got, _ = r.call(t)
	expect(t, got, act{abi.ActConsume, 4}, act{abi.ActReceive, 10}, act{abi.ActConsume, 4})
	if want := "aaaabbbbrccceeee"; string(bytes.Join(seen, nil)) != want {
		t.Fatalf("seen %q, want %q", bytes.Join(seen, nil), want)
	}

	window(r, 24, []byte("eeffff")...) // begins before the position
	got, _ = r.call(t)
	expect(t, got, act{abi.ActConsume, 4})
}

// A count that is out of range does no harm.
func TestConsumedOutOfRange(t *testing.T) {
	n := -5
	r := newRig(&script{received: func(*Actions, []byte) int { return n }}, 1024)
	window(r, 0, 1, 2, 3)
	got, _ := r.call(t)
	expect(t, got)
	n = 99
	window(r, 0, 1, 2, 3)
	got, _ = r.call(t)
	expect(t, got, act{abi.ActConsume, 3})
}

// Taken counts all requests of a call, and comes once.
func TestTaken(t *testing.T) {
	room := 3
	var offered []uint64
	r := newRig(&script{submit: func(a *Actions, batch []Request) int {
		n := min(room, len(batch))
		for i := range batch[:n] {
			offered = append(offered, batch[i].Tag)
		}
		room -= n
		return n
	}}, 1024)
	request(r, 1)
	request(r, 2)
	event(r, abi.EvIdle, abi.Header{})
	request(r, 3)
	request(r, 4)
	event(r, abi.EvIdle, abi.Header{})
	room = 3
	request(r, 5)
	got, _ := r.call(t)
	expect(t, got, act{abi.ActTaken, 3})
	if len(offered) != 3 {
		t.Fatalf("taken %v", offered)
	}

	room = 1
	for tag := range uint64(3) { // longer records, one at a time
		event(r, abi.EvRequest, abi.Request{Tag: tag}, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	got, _ = r.call(t)
	expect(t, got, act{abi.ActTaken, 1})
}

// Events that are no events end the connection, once, without a panic.
func TestMalformedEvents(t *testing.T) {
	short := func(kind uint16) []byte { return []byte{byte(kind), byte(kind >> 8), 0, 0, 8, 0, 0, 0} }
	cases := map[string][]byte{
		"half a header":     {1, 0, 0, 0},
		"size 0":            {2, 0, 0, 0, 0, 0, 0, 0},
		"size 12":           {2, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0},
		"longer than all":   {2, 0, 0, 0, 200, 0, 0, 0},
		"inline beyond":     append(append([]byte{3, 0, 0, 0, 24, 0, 0, 0}, make([]byte, 8)...), 1, 0, 0, 0, 0, 0, 0, 0),
		"options beyond":    openedWith(100, 0, 0),
		"session beyond":    openedWith(0, 1<<31, 0),
		"state beyond":      openedWith(0, 0, 1),
		"lengths that wrap": openedWith(1<<32-8, 1<<32-8, 16),
	}
	for _, kind := range []uint16{abi.EvOpened, abi.EvRequest, abi.EvReceived, abi.EvTimer, abi.EvAbort,
		abi.EvClosed, abi.EvMessage, abi.EvSession, abi.EvDigest, abi.EvPayload} {
		cases["short record of kind "+string(rune('0'+kind))] = short(kind)
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(&script{payload: func([]byte) {}}, 1024)
			r.n = copy(r.in, b)
			got, _ := r.call(t)
			expect(t, got, act{abi.ActFail, uint64(block.EPROTO)})
			request(r, 1)
			got, _ = r.call(t)
			expect(t, got)
		})
	}
	r := newRig(&script{}, 1024)
	if got := r.m.Call(uint32(len(r.in)) + 1); got == 0 {
		t.Error("more events than the buffer holds went unnoticed")
	}
}

func openedWith(options, session, state uint32) []byte {
	b := aligned(int(unsafe.Sizeof(abi.Opened{})))
	*abi.Overlay[abi.Opened](b) = abi.Opened{
		Header:     abi.Header{Kind: abi.EvOpened, Size: uint32(len(b))},
		OptionsLen: options, SessionLen: session, StateLen: state,
	}
	return b
}

func TestOptions(t *testing.T) {
	var o *Opened
	r := newRig(&script{opened: func(_ *Actions, v *Opened) {
		c := *v
		o = &c
		if got := v.Option("b"); got != "x=y" {
			t.Errorf("option b is %q", got)
		}
		if v.Option("a") != "" || v.Option("c") != "3" || v.Option("nope") != "" || v.Option("d") != "" {
			t.Errorf("options: a %q, c %q, nope %q, d %q", v.Option("a"), v.Option("c"), v.Option("nope"), v.Option("d"))
		}
		if string(v.SessionData) != "session" || string(v.State) != "st" {
			t.Errorf("session %q, state %q", v.SessionData, v.State)
		}
	}}, 1024)
	options := "a=\x00b=x=y\x00c=3\x00d" // the last is cut off
	inline := append(make([]byte, 0, 64), options...)
	inline = append(inline, make([]byte, abi.Align(len(inline))-len(inline))...)
	inline = append(append(inline, "session"...), 0)
	inline = append(inline, "st"...)
	event(r, abi.EvOpened, abi.Opened{OptionsLen: uint32(len(options)), SessionLen: 7, StateLen: 2, StreamPos: 99}, inline...)
	r.call(t)
	if o == nil || r.m.pos != 99 {
		t.Fatalf("opened %v, position %d", o, r.m.pos)
	}
}

// The data path allocates nothing, also for plugins that transform payload.
func TestAllocations(t *testing.T) {
	r := newRig(&script{
		submit: func(a *Actions, batch []Request) int {
			for i := range batch {
				a.SendBuffer(28)
				a.SendPayload(batch[i].Tag, 0, 512)
			}
			return len(batch)
		},
		received: func(a *Actions, b []byte) int {
			a.Receive(1, 0, 100)
			a.Complete(1, block.OK)
			return len(b)
		},
		payload: func([]byte) {},
	}, 64<<10)
	at := uint64(0)
	allocs := testing.AllocsPerRun(100, func() {
		for i := range uint64(16) {
			request(r, i)
		}
		window(r, at, 1, 2, 3, 4, 5, 6, 7, 8)
		at += 108
		event(r, abi.EvPayload, abi.Payload{Len: 4}, 1, 2, 3, 4)
		event(r, abi.EvAbort, abi.Abort{Tag: 1})
		event(r, abi.EvTimer, abi.Timer{})
		event(r, abi.EvDigest, abi.Digest{})
		got := r.m.Call(uint32(r.n))
		if r.n = 0; got < 16*80 {
			t.Fatalf("%d bytes of actions", got)
		}
	})
	if allocs != 0 {
		t.Fatalf("%v allocations a call", allocs)
	}
}
