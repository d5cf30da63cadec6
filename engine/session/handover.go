package session

import (
	"errors"
	"fmt"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// A handover has two steps. stage asks the version that runs for its state and
// hands that to the next one, whose answer is looked at and not carried out:
// until commit nothing has changed, and all connections of a session go over
// together or none does. In between, events wait.

// staged is a version that is about to go on with a connection.
type staged struct {
	gen     *Generation
	inst    guest.Instance
	actions []byte // its answer to Opened, to be carried out
	depth   uint32
	waiting []func() // events that have come since
}

// maxAnswer bounds the answer to Opened of a version that resumes, in bytes.
const maxAnswer = 256 << 10

// stage prepares a quiet connection to go on with inst, which it owns from now
// on. If that fails the version that runs goes on as if nothing had been.
func (cn *conn) stage(g *Generation, inst guest.Instance) error {
	st := &staged{gen: g, inst: inst}
	err := cn.transfer(st)
	if err != nil {
		inst.Close()
		return err
	}
	cn.staged = st
	return nil
}

// transfer hands the state over and looks at the answer.
func (cn *conn) transfer(st *staged) error {
	state, err := cn.save()
	if err != nil {
		return err
	}
	if err := cn.attach(st.inst); err != nil {
		return err
	}
	o := opening{kind: abi.SessionResumed, state: state, pos: cn.stream.Pos()}
	n, fits := cn.openedEvent(st.inst.Input(), st.gen, o)
	if !fits {
		return errors.New("its options, session data and the saved state together are too long for the plugin's interface")
	}
	if st.actions, err = gather(st.inst, n, maxAnswer); err != nil {
		return err
	}
	return cn.judge(st)
}

// save asks the version that runs for its state.
func (cn *conn) save() ([]byte, error) {
	actions, err := gather(cn.inst, cn.bare(abi.EvSave), maxAnswer)
	if err != nil {
		cn.lose(loss{text: err.Error(), trap: true})
		return nil, fmt.Errorf("the version that runs cannot save its state: %w", err)
	}
	var state []byte
	saved, more := false, true
	for len(actions) > 0 {
		rec, rest, ok := abi.Next(actions)
		if !ok {
			return nil, cn.breach("an action record is malformed")
		}
		actions = rest
		a := abi.Overlay[abi.Bytes](rec)
		switch kind := abi.Overlay[abi.Header](rec).Kind; {
		case kind == abi.ActLog:
			cn.inlined(kind, rec)
		case kind != abi.ActState || !more:
			return nil, cn.breach("it answers Save with more than its state")
		case a == nil || !inline(rec, unsafe.Sizeof(*a), a.Len, func(b []byte) { state = append(state, b...) }) || len(state) > abi.MaxState:
			return nil, cn.breach("its saved state is malformed, or too long")
		default:
			saved, more = true, a.Flags&abi.FlagMore != 0
		}
	}
	if !saved || more {
		return nil, errors.New("the version that runs cannot save its state now")
	}
	return state, nil
}

// breach ends the connection because the version that runs broke the contract.
func (cn *conn) breach(what string) error {
	cn.violation(what)
	return errBrokeContract
}

var errBrokeContract = errors.New("the version that runs broke the contract")

// gather calls an instance and copies its actions instead of carrying them out.
func gather(inst guest.Instance, n, most int) ([]byte, error) {
	var all []byte
	for round := 0; ; round++ {
		actions, more, err := inst.Call(n, guest.BudgetLogin)
		if err != nil {
			return nil, &faulty{err}
		}
		all = append(all, actions...)
		if !more {
			return all, nil
		}
		if round == maxRounds || len(all) > most || len(actions) == 0 {
			return nil, &faulty{errors.New("its actions do not come to an end")}
		}
		n = 0
	}
}

// faulty is why a version is refused for good: it is not fit to run.
type faulty struct{ error }

// Unwrap gives what it did.
func (e *faulty) Unwrap() error { return e.error }

// judge looks at what a version answers to its state: it may say what it wants
// of the stream and of timers, and must say that the disk is the same.
func (cn *conn) judge(st *staged) error {
	var limits *abi.Limits
	for b := st.actions; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return &faulty{errors.New("an action record is malformed")}
		}
		b = rest
		switch kind := abi.Overlay[abi.Header](rec).Kind; kind {
		case abi.ActLimits:
			if limits != nil {
				return &faulty{errors.New("it gives its limits twice")}
			}
			if limits = abi.Overlay[abi.Limits](rec); limits == nil {
				return &faulty{errors.New("an action record is too short for its kind")}
			}
			if err := cn.judgeLimits(rec, limits); err != nil {
				return err
			}
		case abi.ActFail:
			return refusedState(rec)
		case abi.ActWant, abi.ActTimer, abi.ActLog, abi.ActPath, abi.ActPublish:
		default:
			return &faulty{fmt.Errorf("it answers to the saved state with action %d, which it may not", kind)}
		}
	}
	if limits == nil {
		return &faulty{errors.New("it does not answer to the saved state")}
	}
	st.depth = limits.Depth
	return nil
}

// refusedState gives a version's own words.
func refusedState(rec []byte) error {
	text := ""
	if a := abi.Overlay[abi.Fail](rec); a != nil {
		inline(rec, unsafe.Sizeof(*a), a.Len, func(b []byte) { text = short(b) })
	}
	return fmt.Errorf("the new version cannot go on from the saved state: %s", text)
}

func (cn *conn) judgeLimits(rec []byte, a *abi.Limits) error {
	info, ok := infoOf(rec, a)
	if !ok {
		return &faulty{errors.New("its limits are malformed")}
	}
	if err := cn.s().compare(&info); err != nil {
		return err
	}
	if open := len(cn.s().others(cn)) + 1; int(max(a.MaxConns, 1)) < open {
		return fmt.Errorf("the new version allows %d connections, and %d are open", max(a.MaxConns, 1), open)
	}
	return nil
}

// infoOf reads what limits say of the disk.
func infoOf(rec []byte, a *abi.Limits) (block.Info, bool) {
	id, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.IdentityLen)
	return block.Info{
		Size: a.Size, BlockSize: a.BlockSize, PreferredBlock: a.Preferred, MaxTransfer: a.MaxTransfer,
		MaxZeroes: a.MaxZeroes, MaxDiscard: a.MaxDiscard, Caps: block.Caps(a.Caps), Identity: string(id),
	}, ok && len(id) <= abi.MaxText
}

// commit has the staged version go on.
func (cn *conn) commit() {
	st, s, c := cn.staged, cn.s(), cn.ch
	cn.staged = nil
	for _, t := range cn.timers {
		if t != nil {
			c.r.StopTimer(t)
		}
	}
	cn.gen.add(c.r.Index(), &cn.tally)
	cn.noteOldest(c.r.Now()) // nothing is outstanding
	s.move(cn, st.gen)
	cn.closeInstance()
	cn.use(st.inst)
	cn.renew(st.depth)
	st.gen.proven.Store(true)
	if cn.run(st.actions) {
		// What the version before has left of the stream is the next one's.
		if len(cn.stream.Buffered()) == 0 || cn.feed() {
			cn.send()
		}
	}
	st.resume()
	c.r.Defer(&c.submit)
}

// renew sets what belongs to an instance and not to the connection.
func (cn *conn) renew(depth uint32) {
	cn.min, cn.max = 1, abi.MaxWant
	cn.predict, cn.wanted, cn.cut = prediction{}, 0, cut{}
	cn.starved, cn.credits, cn.closing = false, 0, false
	cn.sendCRC, cn.recvCRC = 0, 0
	cn.calls, cn.idleCalls = 0, 0
	cn.makeSlots(depth)
}

// unstage has the version that runs go on, if another one was to.
func (cn *conn) unstage() {
	if st := cn.staged; st != nil {
		cn.staged = nil
		st.inst.Close()
		st.resume()
	}
}

// later keeps an event for after a handover that is about to be decided. It
// reports whether there is one.
func (cn *conn) later(f func()) bool {
	if cn.staged == nil {
		return false
	}
	cn.staged.waiting = append(cn.staged.waiting, f)
	return true
}

// resume lets the events go on that have waited.
func (st *staged) resume() {
	for _, f := range st.waiting {
		f()
	}
}
