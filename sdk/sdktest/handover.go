package sdktest

import (
	"fmt"
	"math/rand/v2"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// next makes the instance that takes over in a round; a connection begins with
// one of Open. The caller closes it.
func (h *Harness) next(t TB, round int) Instance {
	t.Helper()
	if h.Other != nil && round%2 == 0 {
		return h.Other(t)
	}
	return h.Open(t)
}

// takeOver hands a connection over and compares the limits.
func (h *Harness) takeOver(t TB, x *Executor, round int) *Executor {
	t.Helper()
	state, inst := saved(t, x), h.next(t, round)
	t.Cleanup(inst.Close)
	y := x.Resume(inst, state, uint64(round))
	check(t, y)
	if was, is := fmt.Sprint(*x.Limits), fmt.Sprint(*y.Limits); was != is {
		t.Fatalf("round %d: the resumed connection has the limits\n%s, the one before had\n%s", round, is, was)
	}
	return y
}

// saved brings the connection to rest and saves. A plugin that waits for
// something of its own may have no state at first.
func saved(t TB, x *Executor) []byte {
	t.Helper()
	for {
		x.Quiet()
		x.Save()
		check(t, x)
		if x.HasSaved {
			return x.Saved
		}
		if !x.step(false) && !x.step(true) {
			t.Fatal("there is no state, though no request is outstanding and nothing moves")
		}
	}
}

// load runs random operations in batches against the model.
func (m *model) load(t TB, x *Executor, rnd *rand.Rand, batches int) {
	t.Helper()
	for range batches {
		var all []*Request
		for lane := range 8 {
			if r := m.random(rnd, lane, promised(x.Limits.Caps)); r != nil {
				all = append(all, r)
			}
		}
		x.Do(all...)
		check(t, x)
		for _, r := range all {
			m.settle(t, r)
		}
	}
}

// handoverLoad hands a connection over many times, with load between, and with
// parts of what the server says by itself in the stream: before each other
// handover timers fire, and of the answers some bytes only have arrived.
func (h *Harness) handoverLoad(t TB, cut Cut) {
	x := h.open(t, Options{Cut: cut, Seed: uint64(cut) + 11})
	m := newModel(x.Limits.Size, uint64(x.Limits.BlockSize))
	rnd := rand.New(rand.NewPCG(uint64(cut), 4711))
	rounds, batches := 10, 4
	if cut == Single {
		rounds, batches = 3, 1
	}
	for round := range rounds {
		m.load(t, x, rnd, batches)
		if round%2 == 1 {
			x.Advance(2e9)
			for range 1 + rnd.IntN(8) {
				x.step(false)
			}
		}
		x = h.takeOver(t, x, round)
	}
	m.load(t, x, rnd, 1)
	x.Goodbye()
	check(t, x)
	if !x.Closing {
		t.Fatal("goodbye of a resumed connection did not end with Close")
	}
}

// handoverRefused saves, has the state spoilt so that the new instance refuses
// it, and goes on with the old one as if nothing had been.
func (h *Harness) handoverRefused(t TB) {
	x := h.open(t, Options{Cut: Random, Seed: 17})
	m := newModel(x.Limits.Size, uint64(x.Limits.BlockSize))
	rnd := rand.New(rand.NewPCG(17, 17))
	for round := range 4 {
		m.load(t, x, rnd, 2)
		first := saved(t, x)
		if again := saved(t, x); string(again) != string(first) {
			t.Fatalf("saved twice with nothing between, the states differ:\n%x\n%x", first, again)
		}
		if len(first) > 0 {
			h.refused(t, x, round, first[:len(first)-1])
		}
		timers := x.Timers()
		m.load(t, x, rnd, 2)
		if x.Timers() != timers {
			t.Fatalf("after a refused handover %d timers are set, before it %d", x.Timers(), timers)
		}
		x = h.takeOver(t, x, round)
	}
	m.load(t, x, rnd, 1)
}

// refused hands in a state that must be refused.
func (h *Harness) refused(t TB, x *Executor, round int, state []byte) {
	t.Helper()
	if y := h.tried(t, x, round, state); y.Failed == nil {
		t.Errorf("a state of %d bytes that no version has saved is accepted: %.64x", len(state), state)
	}
}

// tried hands in any state, without a server: the answer is limits that make
// sense, or a failure.
func (h *Harness) tried(t TB, x *Executor, round int, state []byte) *Executor {
	t.Helper()
	inst := h.next(t, round)
	defer inst.Close() // at once: many are made
	y := x.reopen(inst, Answers(nil), state, 1)
	for _, v := range y.Violations {
		t.Errorf("a state of %d bytes, %.64x: the plugin broke the contract: %s", len(state), state, v)
	}
	if t.Failed() {
		t.FailNow()
	}
	return y
}

// probes is about how many states of a kind are tried.
const probes = 16

// badStates tries states that are cut short, changed, too long and garbage. A
// plugin whose state is empty has nothing to refuse.
func (h *Harness) badStates(t TB) {
	x := h.open(t, Options{Cut: Random, Seed: 23})
	readOne(t, x)
	good := saved(t, x)
	if len(good) > 0 {
		h.spoil(t, x, good)
	}
	h.tried(t, x, 0, append(append([]byte(nil), good...), make([]byte, abi.MaxState-len(good))...))
	readOne(t, x)
	readOne(t, h.takeOver(t, x, 0))
}

func (h *Harness) spoil(t TB, x *Executor, good []byte) {
	rnd := rand.New(rand.NewPCG(23, 23))
	step := max(len(good)/probes, 1)
	for i := 0; i < len(good); i += step {
		h.refused(t, x, i, good[:i])
		changed := append([]byte(nil), good...)
		changed[i] ^= byte(1 + rnd.IntN(255))
		h.tried(t, x, i, changed)
	}
	for i, n := range []int{1, 7, 8, len(good), len(good) + 1, 1000, abi.MaxState} {
		garbage := make([]byte, n)
		for j := range garbage {
			garbage[j] = byte(rnd.Uint32())
		}
		h.refused(t, x, i, garbage)
	}
}

// saveInLogin saves at every point of the login: there is no state yet, and the
// login goes on.
func (h *Harness) saveInLogin(t TB) {
	for at := range 64 {
		x := h.start(t, Options{Cut: Single})
		steps := 0
		x.openUntil(func() bool { steps++; return steps > at*4 || x.Limits != nil })
		check(t, x)
		done := x.Limits != nil
		x.Save()
		check(t, x)
		if x.HasSaved && !done {
			t.Fatal("there is a state before login is done")
		}
		x.Run(func() bool { return x.Limits != nil })
		h.loggedIn(t, x)
		saved(t, x)
		x.end()
		if done {
			return
		}
	}
}

// saveUnderLoad saves while the plugin holds requests: there is no state, and
// they come to their end.
func (h *Harness) saveUnderLoad(t TB, cut Cut) {
	x := h.open(t, Options{Cut: cut, Seed: 29})
	n := uint64(x.Limits.BlockSize) * 2
	var all []*Request
	for _, p := range promised(x.Limits.Caps) {
		r := &Request{Op: p.op, Mods: p.mods, Length: min(n, x.Limits.Size), Data: pattern(n, 3)}
		if p.op == block.OpFlush {
			r.Length, r.Data = 0, nil
		}
		all = append(all, r)
	}
	x.Submit(all...)
	for range 200 {
		held := x.held()
		x.Save()
		check(t, x)
		if held > 0 && x.HasSaved {
			t.Fatalf("there is a state, though %d requests are outstanding", held)
		}
		if held == 0 || !x.step(false) && !x.step(true) {
			break
		}
	}
	x.Wait(all...)
	check(t, x)
	for _, r := range all {
		if r.Status != block.OK && (r.Mods&block.FastZero == 0 || r.Status != block.ENOTSUP) {
			t.Errorf("a %v during which the plugin was asked to save: %v", r.Op, r.Status)
		}
	}
	h.takeOver(t, x, 0)
}

// held is the number of requests that the plugin has not let go of.
func (x *Executor) held() (n int) {
	for _, r := range x.reqs {
		if !r.gone {
			n++
		}
	}
	return n
}
