package sdktest

import (
	"math/rand/v2"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// Fuzz runs one round of a kind that the seed chooses: a server that lies, or
// one that tells the truth in fragments of random lengths. What it finds can be
// had again with the same seed, as far as the server is the same. Without a
// server it is one that makes all of it up.
func (h *Harness) Fuzz(t TB, seed uint64) {
	t.Helper()
	switch {
	case h.Dial == nil || seed%8 == 0:
		h.lied(t, seed, babble(seed))
	case seed%2 == 0:
		h.fragments(t, seed)
	default:
		h.lied(t, seed, lie(h.Dial(t), seed))
	}
}

// lied talks to a server of which nothing is to be believed. The plugin may
// fail the connection, and must not trap, break the contract or fill memory.
func (h *Harness) lied(t TB, seed uint64, server Server) {
	t.Helper()
	x := h.startWith(t, server, Options{Cut: Cut(seed / 2 % 4), Seed: seed, Lies: true})
	h.drive(x, rand.New(rand.NewPCG(seed, 2)))
	for _, v := range x.Violations {
		t.Errorf("seed %d: with a server that lies the plugin broke the contract: %s", seed, v)
	}
	x.end()
}

// drive takes a connection through all that an engine may do with it.
func (h *Harness) drive(x *Executor, rnd *rand.Rand) {
	x.Open()
	for range 6 {
		if x.Over() || x.Closing || len(x.Violations) > 0 {
			break
		}
		h.move(x, rnd)
	}
	if !x.Over() && !x.Closing && len(x.reqs) == 0 && x.Limits != nil {
		x.Goodbye()
	}
	if !x.Over() {
		x.Closed(abi.ClosedEOF)
	}
}

// move is one thing of those, at random.
func (h *Harness) move(x *Executor, rnd *rand.Rand) {
	switch rnd.IntN(8) {
	case 0:
		x.Advance(uint64(1+rnd.IntN(5000)) * 1e6)
	case 1:
		x.Unknown()
	case 2:
		x.Idle()
	case 3:
		if x.Limits != nil && len(x.reqs) == 0 && len(x.in.queue) == 0 {
			x.Save()
		}
	}
	if x.Limits == nil || x.Over() || x.Closing {
		x.Run(func() bool { return x.Limits != nil })
		return
	}
	batch := someRequests(x, rnd)
	x.Submit(batch...)
	for _, r := range batch {
		if rnd.IntN(8) == 0 && !r.Done && x.reqs[r.tag] == r && !r.gone {
			x.Abort(r)
		}
	}
	x.Wait(batch...)
}

// maxFuzzed bounds a request's payload, whatever size of blocks a server tells.
const maxFuzzed = 256 << 10

// someRequests makes requests that are valid by the limits, lies or not.
func someRequests(x *Executor, rnd *rand.Rand) []*Request {
	l := x.Limits
	unit := uint64(l.BlockSize)
	ops := promised(l.Caps)
	var batch []*Request
	for range 1 + rnd.IntN(12) {
		o := ops[rnd.IntN(len(ops))]
		r := &Request{Op: o.op, Mods: o.mods}
		if most := mostUnits(l.Size, uint64(l.MaxTransfer), unit); o.op != block.OpFlush {
			if most == 0 {
				continue
			}
			n := 1 + rnd.Uint64N(most)
			r.Length = n * unit
			r.Offset = rnd.Uint64N(l.Size/unit-n+1) * unit
		}
		if o.op == block.OpWrite {
			r.Data = pattern(r.Length, byte(rnd.Uint32()))
		}
		batch = append(batch, r)
	}
	return batch
}

func mostUnits(size, transfer, unit uint64) uint64 {
	n := min(size, maxFuzzed)
	if transfer != 0 {
		n = min(n, transfer)
	}
	return min(n/unit, 16)
}

// fragments runs operations against the truth, cut at random; every other round
// hands the connection over.
func (h *Harness) fragments(t TB, seed uint64) {
	t.Helper()
	x := h.startWith(t, h.Dial(t), Options{Cut: Single + Cut(seed/2%3), Seed: seed})
	x.Open()
	h.loggedIn(t, x)
	rnd := rand.New(rand.NewPCG(seed, 3))
	m := newModel(x.Limits.Size, uint64(x.Limits.BlockSize))
	m.load(t, x, rnd, 1+rnd.IntN(3))
	if x.Limits.Handover && rnd.IntN(2) == 0 {
		x = h.takeOver(t, x, int(seed%2))
		m.load(t, x, rnd, 1)
	}
	x.Goodbye()
	check(t, x)
	x.end()
}
