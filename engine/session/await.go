package session

import (
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
)

// An instance in another process answers when it likes. Until it has, the
// connection's events wait: each call sees what the one before has done, as if
// the plugin were here. What a caller would do after its call is the call's
// step, which is taken when the answer has come.

// step is what follows a call.
type step uint8

const (
	thenNothing step = iota
	thenSubmit       // the batch was offered: put back what was not taken
	thenPayload      // a piece of payload was handed: go on with the next
	thenFeed         // windows were handed: go on with the stream
	thenDigests      // digests were told: go on with the stream
	thenAbort        // a request was asked back: look at the others
	thenIdle         // garbage was collected
)

// await is a call that has not been answered.
type await struct {
	on     bool
	then   step
	round  int
	budget int64
	from   *list    // of thenSubmit
	ready  uint32   // what the socket has become meanwhile
	events []func() // that have come meanwhile
}

// begin hands n bytes of events to an instance in another process.
func (cn *conn) begin(n int, budget int64, then step) {
	cn.await.on, cn.await.then, cn.await.round, cn.await.budget = true, then, 0, budget
	cn.calls++
	cn.tapEvents(n)
	cn.apart.Begin(n, budget)
}

// answered carries out what an instance in another process has answered.
func (cn *conn) answered(inst guest.Apart) {
	if cn.apart != inst || !cn.await.on || cn.state == lost {
		return
	}
	actions, more, err := inst.Answer()
	if !cn.took(actions, more, err) {
		return
	}
	if !more {
		cn.await.on = false
		cn.goOn()
		return
	}
	if cn.await.round++; cn.await.round == maxRounds {
		cn.violation(endless)
		return
	}
	cn.calls++
	cn.tapEvents(0)
	inst.Begin(0, cn.await.budget)
}

// goOn takes the step after a call, and lets go on what has waited for it.
func (cn *conn) goOn() {
	if !cn.takeStep() {
		return // lost, or awaiting the next answer
	}
	for len(cn.await.events) > 0 {
		f := cn.await.events[0]
		cn.await.events = cn.await.events[1:]
		if f(); cn.await.on || cn.state == lost {
			return
		}
	}
	cn.await.events = nil
	cn.send()
	if cn.state == lost {
		return
	}
	if len(cn.events) > 0 {
		cn.ch.r.Defer(&cn.tellLater)
	}
	if ready := cn.await.ready; ready != 0 {
		cn.await.ready = 0
		cn.receive()
		return
	}
	cn.afterReceive()
}

// takeStep reports whether the connection is there and waits for nothing.
func (cn *conn) takeStep() bool {
	switch cn.await.then {
	case thenSubmit:
		return cn.submitted(cn.await.from)
	case thenPayload:
		return cn.handPayload()
	case thenFeed:
		return cn.fed() && cn.feed()
	case thenDigests:
		return cn.feed()
	case thenAbort:
		cn.checkDeadlines(cn.ch.r.Now())
		return cn.state != lost && !cn.await.on
	case thenIdle:
		cn.idleCalls = cn.calls
	}
	return true
}

// awaiting keeps an event for when the plugin has answered. It reports whether
// the plugin has yet to.
func (cn *conn) awaiting(f func()) bool {
	if !cn.await.on {
		return false
	}
	cn.await.events = append(cn.await.events, f)
	return true
}

// unread notes that the socket was not read to its end.
func (cn *conn) unread() {
	if cn.await.on {
		cn.await.ready |= sys.EpollIn
	}
}

// attach makes an instance in another process one of this connection's reactor.
func (cn *conn) attach(inst guest.Instance) error {
	a, ok := inst.(guest.Apart)
	if !ok {
		return nil
	}
	if m, ok := a.(guest.Mortal); ok {
		m.OnEnd(func(err error) { cn.bereft(a, err) })
	}
	return a.Attach(cn.ch.r, func() { cn.answered(a) })
}

// bereft ends a connection whose instance has ended with its process and had
// nothing to answer: another is there before the next request wants it.
func (cn *conn) bereft(inst guest.Apart, err error) {
	if cn.apart == inst && !cn.await.on && cn.state != lost {
		cn.lose(trapped(err))
	}
}

// use makes inst the connection's.
func (cn *conn) use(inst guest.Instance) {
	cn.inst = inst
	cn.apart, _ = inst.(guest.Apart)
}

// tapEvents shows a tap what the plugin is about to be handed.
func (cn *conn) tapEvents(n int) {
	if cn.tap != nil {
		cn.tap.Events(cn.inst.Input()[:n])
	}
}

// untap tells a tap that nothing more comes.
func (cn *conn) untap() {
	if cn.tap != nil {
		cn.tap.Closed()
		cn.tap = nil
	}
}
