package sdktest

import (
	"hash/fnv"
	"math/rand/v2"

	"blockengine/sdk/abi"
)

// mute is a server that says nothing.
func mute() Server { return Answers(nil) }

// openedAlone opens connections of all kinds to a server that says nothing, lets
// time pass, hands in what no version knows, and closes.
func (h *Harness) openedAlone(t TB) {
	for _, begins := range []uint16{abi.SessionFirst, abi.SessionReconnect, abi.SessionSecond} {
		for conn := range uint32(2) {
			x := h.startWith(t, mute(), Options{Begins: begins, Conn: conn})
			x.Open()
			x.Unknown()
			x.Idle()
			x.Advance(120e9)
			complain(t, x)
			x.Closed(abi.ClosedReset)
			complain(t, x)
			x.end()
		}
	}
}

// complain fails the test over what the plugin did wrong; to fail a connection
// is not wrong here.
func complain(t TB, x *Executor) {
	t.Helper()
	for _, v := range x.Violations {
		t.Errorf("the plugin broke the contract: %s", v)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// garbageStates opens a resumed connection with states that nobody has saved:
// a plugin that hands connections over refuses them, one that does not refuses
// all. What the plugin must not do is to trap, to send or to log in.
func (h *Harness) garbageStates(t TB) {
	rnd := rand.New(rand.NewPCG(5, 5))
	x := h.startWith(t, mute(), Options{})
	for i, n := range []int{0, 1, 7, 8, 16, 24, 40, 64, 1000, abi.MaxState} {
		state := make([]byte, n)
		for j := range state {
			state[j] = byte(rnd.Uint32())
		}
		h.tried(t, x, i, state)
	}
}

// pure runs two instances over the same events and compares what they do.
func (h *Harness) pure(t TB) {
	for seed := range uint64(8) {
		first, second := h.traced(t, seed), h.traced(t, seed)
		if first != second {
			t.Fatalf("two instances that were handed the same events (seed %d) gave different actions: "+
				"a plugin takes time and randomness from its events, and goes through no map in its order%s", seed, inLife.suffix())
		}
	}
}

// traced is a hash of all the actions of a round with a lying server.
func (h *Harness) traced(t TB, seed uint64) uint64 {
	sum := fnv.New64a()
	x := h.startWith(t, babble(seed), Options{Cut: Random, Seed: seed, Lies: true})
	x.trace = func(actions []byte) { _, _ = sum.Write(actions) }
	h.drive(x, rand.New(rand.NewPCG(seed, 1)))
	complain(t, x)
	x.end()
	return sum.Sum64()
}
