package compare

import (
	"bytes"
	"fmt"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
)

// Exact hands an instance the events that another version was handed, and wants
// the same actions in the same order from each call, byte for byte but for
// padding. It is used as a Follower is.
type Exact struct {
	inst     guest.Instance
	own      int // bytes of an Opened of its own
	last     []byte
	n        int
	old, new []byte
	calls    uint64
	requests uint64
	skip     bool
	err      error
}

// FollowExactly begins. What a resumed version answers first is not compared:
// the other one was not resumed.
func FollowExactly(inst guest.Instance, s Start) (*Exact, error) {
	x := &Exact{inst: inst, last: make([]byte, abi.InSize)}
	if len(s.Opened) > len(inst.Input()) {
		return nil, fmt.Errorf("the first event has %d bytes, more than the interface takes", len(s.Opened))
	}
	x.own = copy(inst.Input(), s.Opened)
	if !s.Resumed {
		return x, nil
	}
	n := x.own
	x.own = 0
	return x, x.run(n)
}

// Requests is how many requests were among the events; see Follower.
func (x *Exact) Requests() uint64 { return x.requests }

// Calls is how many calls were followed.
func (x *Exact) Calls() uint64 { return x.calls }

// Err is why it follows no more; see Follower.
func (x *Exact) Err() error { return x.err }

// Events takes the events of a call.
func (x *Exact) Events(b []byte) {
	if x.err != nil || len(b) == 0 {
		return
	}
	x.calls++
	x.n = copy(x.last, b)
	x.old = x.old[:0]
	switch kind := abi.Overlay[abi.Header](x.last).Kind; kind {
	case abi.EvSave, abi.EvClosed:
		x.skip = true
	default:
		x.skip = kind == abi.EvOpened && x.own == 0
	}
}

// Actions takes what the other version has answered.
func (x *Exact) Actions(b []byte, more bool, err error) {
	if x.err != nil || x.skip {
		return
	}
	x.old = append(x.old, b...)
	switch {
	case err != nil:
		x.err = &Limit{"the version that ran has trapped: " + err.Error()}
	case !more:
		x.err = x.follow()
	}
}

func (x *Exact) follow() error {
	n := x.own
	if x.own = 0; n == 0 {
		n = copy(x.inst.Input(), x.last[:x.n])
	}
	for b := x.last[:x.n]; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			break
		}
		if abi.Overlay[abi.Header](rec).Kind == abi.EvRequest {
			x.requests++
		}
		b = rest
	}
	if err := x.run(n); err != nil {
		return err
	}
	return x.compare()
}

// run makes a call and keeps its actions.
func (x *Exact) run(n int) error {
	x.new = x.new[:0]
	for range maxRounds {
		actions, more, err := x.inst.Call(n, guest.BudgetLogin)
		if err != nil {
			return x.differs(Trapped, "the new version traps", "does not", err.Error())
		}
		if x.new = append(x.new, actions...); !more {
			return nil
		}
		n = 0
	}
	return x.differs(Contract, "the new version breaks the contract", "does not", "its actions do not come to an end")
}

func (x *Exact) differs(class Class, what, old, new string) error {
	d := &Difference{Class: class, Call: x.calls, What: what, Old: old, New: new}
	if r := abi.Overlay[abi.Request](x.last[:x.n]); r != nil && r.Kind == abi.EvRequest {
		d.Request, d.Of = Request{r.Tag, r.Op, r.Mods, r.Offset, r.Length}, max(1, x.n/int(max(r.Size, 1)))
	}
	return d
}

// compare goes through the actions of both.
func (x *Exact) compare() error {
	a, b := x.old, x.new
	for i := 1; len(a) > 0 || len(b) > 0; i++ {
		p, restA, _ := abi.Next(a)
		q, restB, _ := abi.Next(b)
		if p == nil || q == nil || !bytes.Equal(canonical(p), canonical(q)) {
			what := fmt.Sprintf("they differ in action %d of the call", i)
			var old, new string
			if p != nil {
				old = actionText(p)
			}
			if q != nil {
				new = actionText(q)
			}
			return x.differs(Session, what, old, new)
		}
		a, b = restA, restB
	}
	return nil
}

// canonical clears what a plugin need not set: the padding behind inline bytes,
// and the fields without a name.
func canonical(rec []byte) []byte {
	h := abi.Overlay[abi.Header](rec)
	var hole, length, fixed int
	switch h.Kind {
	case abi.ActSend, abi.ActState, abi.ActRedirect, abi.ActLog, abi.ActPublish:
		hole, length, fixed = 12, 8, int(unsafe.Sizeof(abi.Bytes{}))
	case abi.ActMessage:
		length, fixed = 12, int(unsafe.Sizeof(abi.Message{}))
	case abi.ActComplete, abi.ActReleased:
		hole = 20
	case abi.ActExtent:
		hole = 28
	case abi.ActData:
		hole, length, fixed = 28, 24, int(unsafe.Sizeof(abi.Payload{}))
	case abi.ActLimits:
		hole, length, fixed = 76, 72, int(unsafe.Sizeof(abi.Limits{}))
	case abi.ActFail:
		hole, length, fixed = 20, 16, int(unsafe.Sizeof(abi.Fail{}))
	case abi.ActTimer, abi.ActPath:
		hole = 12
	}
	rec = bytes.Clone(rec)
	if hole > 0 && hole+4 <= len(rec) {
		clear(rec[hole : hole+4])
	}
	if length > 0 && fixed <= len(rec) {
		n := uint64(rec[length]) | uint64(rec[length+1])<<8 | uint64(rec[length+2])<<16 | uint64(rec[length+3])<<24
		if uint64(fixed)+n < uint64(len(rec)) {
			clear(rec[uint64(fixed)+n:])
		}
	}
	return rec
}
