package sdktest

import (
	"slices"

	"blockengine/sdk/abi"
)

// answer says which actions may be given in answer to an event.
type answer struct {
	to    string
	kinds []uint16
}

func (a *answer) may(kind uint16) bool { return slices.Contains(a.kinds, kind) }

var (
	toSave   = &answer{"Save", []uint16{abi.ActState, abi.ActLog}}
	toResume = &answer{"Opened with a state", []uint16{abi.ActLimits, abi.ActWant, abi.ActTimer, abi.ActPublish,
		abi.ActPath, abi.ActLog, abi.ActFail}}
)

// Save hands in save. HasSaved tells whether the plugin gave a state, and Saved
// is that state.
func (x *Executor) Save() {
	x.Saved, x.HasSaved, x.state = nil, false, nil
	x.answer = toSave
	x.ev.bare(abi.EvSave)
	x.call()
	x.answer = nil
	if len(x.state) > 0 {
		x.violate(inHandover, "the last record of the handover state says that more come")
	}
}

func (x *Executor) stateRecord(rec []byte) {
	h := abi.Overlay[abi.Bytes](rec)
	switch b := x.inline(rec, h.Len, abi.MaxInline); {
	case x.answer != toSave:
		x.violate(inHandover, "a handover state that nobody has asked for")
	case x.HasSaved:
		x.violate(inHandover, "a second handover state in answer to one Save")
	case len(x.state)+len(b) > abi.MaxState:
		x.violate(inHandover, "the handover state is larger than %d bytes", abi.MaxState)
	default:
		x.state = append(x.state, b...)
		if h.Flags&abi.FlagMore == 0 {
			x.Saved, x.HasSaved, x.state = x.state, true, nil
		}
	}
}

// Quiet runs until no request is with the plugin and nothing directs the
// received stream, which is when an engine may hand over.
func (x *Executor) Quiet() {
	quiet := func() bool { return len(x.reqs) == 0 && len(x.order) == 0 && len(x.in.queue) == 0 }
	x.Run(func() bool {
		x.offer()
		return quiet()
	})
	if !quiet() && !x.Over() && !x.o.Lies {
		x.violate(inHandover, "the connection does not come to rest: %d requests are outstanding", len(x.reqs))
	}
}

// Leftover is how many bytes have arrived that the plugin has not consumed.
func (x *Executor) Leftover() int { return len(x.in.buf) }

// Resume hands x's connection over to another instance, as an engine does: the
// executor that it returns has opened inst with state. If inst accepts it, the
// connection is the new executor's and x is done with; if inst has failed, x
// may go on. What was received and not consumed stays with the connection. x
// must be at rest.
func (x *Executor) Resume(inst Instance, state []byte, seed uint64) *Executor {
	if len(x.reqs) > 0 || len(x.in.queue) > 0 || x.Over() {
		x.t.Fatal("sdktest: Resume of a connection that is not at rest")
	}
	y := x.reopen(inst, x.server, state, seed)
	if !y.Over() && len(y.Violations) == 0 {
		y.in.buf, y.in.coming = x.in.buf, x.in.coming
		x.in.buf, x.in.coming, x.closed = nil, nil, true
	}
	return y
}

// reopen opens an instance with a state, at x's place in the stream.
func (x *Executor) reopen(inst Instance, server Server, state []byte, seed uint64) *Executor {
	o := x.o
	o.Begins, o.State, o.Pos, o.Seed = abi.SessionResumed, state, x.in.pos, seed
	if o.Conn == 0 {
		o.Session = x.Published
	}
	y := NewExecutor(x.t, inst, server, o)
	y.mono, y.tags, y.Published = x.mono, x.tags, x.Published
	y.answer = toResume
	y.opened()
	y.answer = nil
	y.checkResumed()
	return y
}

// checkResumed checks the answer to Opened with a state as a whole.
func (x *Executor) checkResumed() {
	switch {
	case x.dead || len(x.Violations) > 0:
	case x.Failed != nil:
		if x.Failed.Scope != abi.FailConn {
			x.violate(inHandover, "it refuses a state with a failure of scope %d: %s", x.Failed.Scope, x.Failed.Text)
		}
	case len(x.News) != 1:
		x.violate(inHandover, "it answers Opened with a state with %d Limits; one is wanted, or a failure", len(x.News))
	}
}
