package compare

import (
	"errors"
	"fmt"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
)

// A call of the version that follows is asked for in one place and taken in
// another: one that runs in another process answers later (Late).

// then is what is to be done with an answer.
type then uint8

const (
	thenCompare then = iota // both versions have seen the same
	thenResume              // it has been handed the saved state
	thenWindows             // it has been handed the other version's windows
	thenCatchUp             // it has been handed a window of its own
)

// call is a call of the version that follows.
type call struct {
	on     bool // it has been asked for, and not been answered to the end
	n      int  // bytes of events in the instance's input, 0 for more actions
	budget int64
	then   then
	round  int
	// Of thenCatchUp.
	pos  uint64 // of the stream where the window begins
	want int    // Want's Min then
	full bool   // it was as long as windows get
}

// ask asks for a call with the n bytes in the instance's input.
func (f *Follower) ask(n int, budget int64, t then) {
	f.call = call{on: true, n: n, budget: budget, then: t}
}

// drive makes the calls of an instance that answers at once.
func (f *Follower) drive() {
	for f.call.on {
		f.answer(f.inst.Call(f.call.n, f.call.budget))
	}
}

// answer takes what the instance has answered, and goes on. Afterwards either
// another call is asked for, or the calls that were followed are compared, or
// there is an error.
func (f *Follower) answer(actions []byte, more bool, err error) {
	if f.err == nil {
		f.err = f.take(actions, more, err)
	}
	if f.err != nil {
		f.call.on = false
	}
}

// take looks at one buffer of actions.
func (f *Follower) take(actions []byte, more bool, err error) error {
	c := &f.call
	if err != nil {
		return f.trapped(err)
	}
	if c.then == thenResume {
		f.first = append(f.first, actions...)
	} else if wrong := f.c.take(New, actions); wrong != "" {
		return f.sooner(f.broke(wrong))
	}
	if !more {
		c.on = false
		return f.proceed()
	}
	if c.round++; c.round == maxRounds {
		return f.broke("its actions do not come to an end")
	}
	if len(actions) == 0 {
		return f.broke("it has more actions but gives none")
	}
	c.n = 0
	return nil
}

// sooner gives what the versions differed in before err showed, if that was in one
// of several calls.
func (f *Follower) sooner(err error) error {
	var d *Difference
	if f.from > 0 && errors.As(f.settle(false), &d) {
		return d
	}
	return err
}

// proceed does what is to be done when a call has been answered to its end.
func (f *Follower) proceed() error {
	a, b, c := &f.c.sides[Old], &f.c.sides[New], &f.call
	switch c.then {
	case thenResume:
		return f.resumed()
	case thenWindows:
		if b.pos >= a.pos || b.failed {
			break
		}
		return f.catchUpWith(f.last[:f.n])
	case thenCatchUp:
		if b.pos == c.pos && b.min == c.want && !b.failed {
			if c.full {
				return f.broke("it does not consume what it receives")
			}
			return f.waits()
		}
		return f.catchUp()
	}
	return f.finish(true)
}

// finish compares. caught says that both versions have come as far in the
// received stream.
func (f *Follower) finish(caught bool) error {
	if err := f.flow(); err != nil {
		return err
	}
	return f.settle(caught)
}

// catchUpWith keeps the bytes that windows show and that the version that
// follows has not come to.
func (f *Follower) catchUpWith(windows []byte) error {
	if !f.seen.keep(f.c.sides[New].pos, windows) {
		return &Limit{"the new version leaves too much of the stream for later"}
	}
	return f.catchUp()
}

// catchUp hands in windows of its own, of the bytes that the other version has
// passed, as the engine would cut them for this one.
func (f *Follower) catchUp() error {
	a, b := &f.c.sides[Old], &f.c.sides[New]
	if b.pos >= a.pos || b.failed {
		f.seen.drop(b.pos)
		return f.finish(true)
	}
	have := f.seen.at(b.pos)
	if len(have) < b.min {
		return f.waits()
	}
	n := f.window(b.pos, have[:min(len(have), b.max)])
	f.ask(n, f.budget(abi.EvReceived, n), thenCatchUp)
	f.call.pos, f.call.want, f.call.full = b.pos, b.min, len(have) >= b.max
	return nil
}

// waits leaves it at what is known of the stream, if more of it can come.
func (f *Follower) waits() error {
	a, b := &f.c.sides[Old], &f.c.sides[New]
	if end := b.pos + uint64(len(f.seen.at(b.pos))); end < a.pos {
		return f.unseen(end)
	}
	f.seen.drop(b.pos)
	return f.finish(false)
}

// resume hands in the saved state.
func (f *Follower) resume() {
	f.c.resumed = true
	f.c.begin()
	n := f.own
	f.own = 0
	f.ask(n, guest.BudgetLogin, thenResume)
}

// resumed looks at what the version has answered to the saved state.
func (f *Follower) resumed() error {
	s := &f.start
	if s.Judge != nil {
		if err := s.Judge(f.first); err != nil {
			return err
		}
	}
	if wrong := f.c.take(New, f.first); wrong != "" {
		return f.broke(wrong)
	}
	f.first = nil
	if b := &f.c.sides[New]; b.failed {
		return fmt.Errorf("it cannot go on from the saved state: %s", b.why)
	}
	if s.Limits == nil {
		f.c.sides[New].lanes[laneLimits] = lane{}
		f.c.sides[Old].limits = true
	} else if wrong := f.c.take(Old, s.Limits); wrong != "" {
		return fmt.Errorf("the limits of the version that runs are not understood: %s", wrong)
	}
	return f.c.settle(false)
}
