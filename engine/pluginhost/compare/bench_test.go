package compare

import (
	"testing"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// BenchmarkFollower is what following costs for a request, with the nbd plugin
// linked in: batches of requests and of their replies.
func BenchmarkFollower(b *testing.B) {
	for name, n := range map[string]int{"depth1": 1, "depth64": 64} {
		b.Run(name, func(b *testing.B) { benchFollower(b, n) })
	}
}

// recordedCall is a call of the old version: its events, and what it answered.
type recordedCall struct{ events, actions []byte }

func benchFollower(b *testing.B, depth int) {
	old, next := benchInstance(b), benchInstance(b)
	opened := benchOpened(b, old)
	f, err := Follow(next, Start{Opened: opened, Resumed: true})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	events := aligned(abi.InSize)
	for i := 0; i < b.N; i += depth {
		b.StopTimer()
		requests := benchRequests(events, depth, i)
		calls := []recordedCall{benchCall(b, old, requests)}
		calls = append(calls, benchCall(b, old, benchReplies(events, depth, calls[0].actions, uint64(i)*(16+4096))))
		b.StartTimer()
		for _, c := range calls {
			f.Events(c.events)
			f.Actions(c.actions, false, nil)
		}
	}
	if f.Err() != nil || f.Requests() == 0 {
		b.Fatal(f.Err(), f.Requests())
	}
}

func benchInstance(b testing.TB) guest.Instance {
	inst, err := guest.Linked(nbd.Plugin()).NewInstance(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return inst
}

func aligned(n int) []byte {
	w := make([]uint64, n/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), n)
}

// benchOpened resumes an instance in the transmission phase with simple replies,
// and gives the event.
func benchOpened(b testing.TB, inst guest.Instance) []byte {
	state := make([]byte, 44)
	copy(state, "nbd\x01\x00\x00")
	state[6], state[11] = 1, 1 // flags; 16 MiB
	state[17], state[21], state[27] = 2, 16, 2
	event := aligned(128 + abi.Align(len(state)))
	*abi.Overlay[abi.Opened](event) = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Flags: abi.FlagShadow, Size: uint32(len(event))},
		Session: abi.SessionResumed, StateLen: uint32(len(state))}
	copy(event[128:], state)
	if _, _, err := inst.Call(copy(inst.Input(), event), 0); err != nil {
		b.Fatal(err)
	}
	return event
}

func benchRequests(events []byte, n, from int) []byte {
	for i := range n {
		*abi.Overlay[abi.Request](events[i*40:]) = abi.Request{Header: abi.Header{Kind: abi.EvRequest, Size: 40},
			Tag: uint64(from+i)<<32 | uint64(i), Op: block.OpRead, Offset: uint64(i) << 12, Length: 4096}
	}
	return events[:n*40]
}

// benchReplies gives a window for each reply, as the engine predicts them.
func benchReplies(events []byte, n int, requests []byte, pos uint64) []byte {
	headers := requests[16:]
	for i := range n {
		w := events[i*40:]
		*abi.Overlay[abi.Received](w) = abi.Received{Header: abi.Header{Kind: abi.EvReceived, Size: 40}, Offset: pos + uint64(i)*(16+4096), Len: 16}
		copy(w[24:], "\x67\x44\x66\x98\x00\x00\x00\x00")
		copy(w[32:40], headers[i*28+8:])
	}
	return events[:n*40]
}

func benchCall(b testing.TB, inst guest.Instance, events []byte) recordedCall {
	actions, more, err := inst.Call(copy(inst.Input(), events), 0)
	if err != nil || more {
		b.Fatal(err, more)
	}
	c := recordedCall{aligned(abi.Align(len(events))), aligned(abi.Align(len(actions)) + 8)[:len(actions)]}
	copy(c.events, events)
	copy(c.actions, actions)
	return c
}

// On a reactor nothing is allocated for a request, once all is warm.
func TestFollowingDoesNotAllocate(t *testing.T) {
	const depth, rounds = 16, 400
	old, next := benchInstance(t), benchInstance(t)
	opened := benchOpened(t, old)
	var calls []recordedCall
	events := aligned(abi.InSize)
	for i := range rounds {
		requests := benchRequests(events, depth, i)
		calls = append(calls, benchCall(t, old, requests))
		calls = append(calls, benchCall(t, old, benchReplies(events, depth, calls[2*i].actions, uint64(i)*depth*(16+4096))))
	}
	f, err := Follow(next, Start{Opened: opened, Resumed: true})
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	one := func() {
		for range 2 {
			f.Events(calls[i].events)
			f.Actions(calls[i].actions, false, nil)
			i++
		}
	}
	for range rounds / 2 {
		one()
	}
	if n := testing.AllocsPerRun(rounds/2-1, one); n > 0 || f.Err() != nil || f.Requests() != depth*rounds {
		t.Errorf("%v allocations for %d requests; %d were compared, %v", n, depth, f.Requests(), f.Err())
	}
}
