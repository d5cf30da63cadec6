package pluginhost

import (
	"fmt"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/session"
	"blockengine/engine/sys"
)

// lateWait is how long a version in a process may take, when the time of the
// shadow is over, to answer to what it was handed until then.
const lateWait = 5 * time.Second

// lateEvery is how long calls are gathered before they are handed to a process:
// the way there costs the reactor as much as many of them.
const lateEvery = time.Millisecond

// lateTap follows one connection with a version in a process. The version that
// runs, and the reactor, never wait for it: what is done with its answers is done
// when they come, and what it is to be handed is kept until then. It is handed in
// at the end of the reactor's turns: what guests wait for goes first.
type lateTap struct {
	shadowTap
	late    *compare.Late
	r       *reactor.Reactor
	next    reactor.Deferred
	later   reactor.Timer
	answers uint64
	// Of the moment from which on nothing more came.
	closedAt int64 // ns
	closed   uint64
	done     chan struct{} // closed when it follows no more
}

// followLate has a follow a connection, on its reactor.
func (sh *shadow) followLate(a guest.Apart, start compare.Start, o session.ConnOpening) (guest.Tap, error) {
	t := &lateTap{r: sh.seat.disk.reactors[o.Reactor], done: make(chan struct{})}
	t.sh, t.inst, t.number, t.cost = sh, a, o.Number, &sh.costs[o.Reactor]
	if err := a.Attach(t.r, t.answered); err != nil {
		return nil, err
	}
	var err error
	if t.late, err = compare.FollowLate(a, start, &t.cost.room); err != nil {
		return nil, err
	}
	t.f, t.next.Run, t.later.Fire = t.late, t.goOn, t.goOn
	t.r.Defer(&t.next)
	sh.mu.Lock()
	sh.taps, sh.lates = append(sh.taps, &t.shadowTap), append(sh.lates, t)
	sh.mu.Unlock()
	return t, nil
}

// Actions takes what the running version has answered.
func (t *lateTap) Actions(b []byte, more bool, err error) {
	if t.inst == nil {
		return
	}
	began := sys.Nanotime()
	t.late.Actions(b, more, err)
	t.spend(began)
	t.soon()
}

// soon has the process handed what waits for it: now if that is much, else when
// more may have come.
func (t *lateTap) soon() {
	switch {
	case t.late.Due():
		t.r.Defer(&t.next)
	case t.late.Behind() > 0 && !t.late.Waits() && !t.later.Running():
		t.r.StartTimer(&t.later, lateEvery)
	}
}

// Closed says that nothing more comes.
func (t *lateTap) Closed() {
	if t.inst != nil {
		t.closed, t.closedAt = t.answers, sys.Nanotime()
		t.late.Closed()
		t.r.Defer(&t.next)
	}
}

// goOn hands the process what waits for it.
func (t *lateTap) goOn() {
	if t.inst == nil {
		return
	}
	began := sys.Nanotime()
	t.late.Go()
	t.look(began)
}

// answered takes what the process has answered.
func (t *lateTap) answered() {
	if t.inst == nil {
		return
	}
	began := sys.Nanotime()
	t.answers++
	t.late.Answered()
	if t.look(began); t.inst != nil {
		t.soon()
	}
}

// look ends it if all is followed, or something was found.
func (t *lateTap) look(began int64) {
	if err := t.account(began); err != nil {
		t.over(err)
	} else if !t.late.Over() {
		return
	}
	t.end()
}

func (t *lateTap) end() {
	t.r.StopTimer(&t.later)
	t.late.Drop()
	t.shadowTap.end()
	t.late = nil
	close(t.done)
}

// wait waits until all is followed that has come before Closed, or until then.
func (t *lateTap) wait(until time.Time) {
	rest := time.NewTimer(time.Until(until))
	defer rest.Stop()
	select {
	case <-t.done:
	case <-rest.C:
		t.r.Do(t.giveUp)
	}
}

// giveUp ends it though not all is followed.
func (t *lateTap) giveUp() {
	if t.inst == nil {
		return
	}
	switch waited := time.Duration(sys.Nanotime() - t.closedAt); {
	case waited < lateWait: // nobody wants to know
	case t.late.Waits() && t.answers == t.closed:
		t.sh.say(false, fmt.Sprintf("connection %d: the new version traps: hang: its process has not answered for %v", t.number, waited.Round(time.Millisecond)))
	default:
		t.over(&compare.Limit{Text: fmt.Sprintf("%d calls were left when the time was over: the new version does not come after in its process", t.late.Behind())})
	}
	t.end()
}
