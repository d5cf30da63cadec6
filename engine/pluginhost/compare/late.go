package compare

import (
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
)

// Late is a Follower whose instance runs in another process, and answers when it
// likes. Nobody waits for it: the calls of the version that runs are kept, and
// followed in order as the answers come. If it is behind, it is handed the events
// of several calls in one.
//
// Events, Actions and Closed are guest.Tap's. All methods are used on the one
// reactor to which the owner has attached the instance.
type Late struct {
	f     *Follower
	inst  guest.Apart
	q     queue
	open  bool   // the call that is being kept is not there to its end
	shut  string // why nothing more is kept, "" as long as it is
	ended bool   // nothing more comes
	under bool   // the instance has been handed events, and has not answered
	bye   bool   // it has been handed the last ones
	over  bool   // and has answered
}

// mergeBytes bounds the events of several calls that are handed in as one. So
// many make up for the way to another process, and the requests among them are
// few enough to be told apart.
const mergeBytes = 16 << 10

// FollowLate begins as Follow does, but for the answer to a saved state: that
// comes later, too. Judge is called then, and Err gives what speaks against it.
func FollowLate(inst guest.Apart, s Start, room *Room) (*Late, error) {
	f, err := newFollower(inst, s)
	if err != nil {
		return nil, err
	}
	return &Late{f: f, inst: inst, q: queue{room: room}}, nil
}

// Requests is Follower's.
func (l *Late) Requests() uint64 { return l.f.Requests() }

// Calls is Follower's.
func (l *Late) Calls() uint64 { return l.f.Calls() }

// Notes is Follower's.
func (l *Late) Notes() []*Difference { return l.f.Notes() }

// Err is Follower's.
func (l *Late) Err() error { return l.f.Err() }

// Give is Follower's.
func (l *Late) Give(text string) { l.f.Give(text) }

// Waits tells whether the instance has been handed something that it has not
// answered.
func (l *Late) Waits() bool { return l.under }

// Behind is how many calls are kept that have not been looked at.
func (l *Late) Behind() int { return l.q.whole }

// Due tells whether Go should be called now: there is as much to hand in as can
// be handed in together, or something that nothing can be put to. Else more may
// come, which makes the way to the process worth its while.
func (l *Late) Due() bool {
	return !l.under && (l.f.call.on || l.q.events >= mergeBytes || l.shut != "" || l.ended)
}

// Over tells that all is followed: nothing more comes, and the instance has
// answered to all that there was.
func (l *Late) Over() bool { return l.over }

// Events keeps the events of a call, none if its actions go on.
func (l *Late) Events(b []byte) {
	switch {
	case !l.keeps() || len(b) == 0:
	case l.open:
		l.shut = "a call of the version that runs has no end"
	case !l.q.push(partEvents, b):
		l.shut = notComing
	default:
		l.open = true
	}
}

// Actions keeps what the version that runs has answered.
func (l *Late) Actions(b []byte, more bool, err error) {
	kind := partLast
	if more {
		kind = partMore
	}
	switch {
	case !l.keeps() || !l.open:
	case err != nil:
		l.shut = "the version that ran has trapped: " + err.Error()
	case !l.q.push(kind, b):
		l.shut = notComing
	case !more:
		l.open = false
	}
}

const notComing = "the new version does not come after in its process"

func (l *Late) keeps() bool { return l.shut == "" && !l.ended && l.f.err == nil }

// Closed says that nothing more comes. What is kept is followed to its end.
func (l *Late) Closed() { l.ended = true }

// Drop forgets what is kept. Nothing is used afterwards.
func (l *Late) Drop() { l.q.drop() }

// Go hands the instance what waits for it, unless it has yet to answer.
func (l *Late) Go() {
	for !l.under && l.f.err == nil {
		switch c := &l.f.call; {
		case c.on:
			l.begin(c.n, c.budget)
		case l.q.whole > 0:
			l.feed()
		case l.shut != "":
			l.f.Give(l.shut)
		case l.ended && !l.bye:
			l.goodbye()
		default:
			return
		}
	}
}

func (l *Late) begin(n int, budget int64) {
	l.under = true
	l.inst.Begin(n, budget)
}

// Answered takes what the instance has answered. Go goes on.
func (l *Late) Answered() {
	if !l.under {
		return
	}
	l.under = false
	actions, more, err := l.inst.Answer()
	if !l.bye {
		l.f.answer(actions, more, err)
		return
	}
	if l.over = true; err != nil && l.f.err == nil {
		l.f.err = l.f.trapped(err)
	}
}

// goodbye hands in the last event, to which any answer will do: that there is one
// shows that the process lives.
func (l *Late) goodbye() {
	const size = int(unsafe.Sizeof(abi.Closed{}))
	l.bye = true
	l.f.n = 0 // whatever comes now is no request's fault
	*abi.Overlay[abi.Closed](l.inst.Input()) = abi.Closed{Header: abi.Header{Kind: abi.EvClosed, Size: uint32(size)}, Reason: abi.ClosedLocal}
	l.begin(size, guest.BudgetLogin)
}

// feed has the follower look at the call that has waited longest, and at those
// after it that may be handed in together with it.
func (l *Late) feed() {
	f := l.f
	_, events := l.q.peek()
	f.Events(events)
	l.hear()
	for l.merges() {
		_, events := l.q.peek()
		f.trim()
		f.c.goOn()
		f.add(events)
		l.hear()
	}
	if f.err == nil && !f.skip {
		f.follow()
	}
}

// hear forgets the events of a call, and takes its actions.
func (l *Late) hear() {
	l.q.pop()
	for kind := partMore; kind != partLast; l.q.pop() {
		var b []byte
		kind, b = l.q.peek()
		l.f.heard(b, nil)
	}
}

// merges tells whether the next call can be handed in together with what is about
// to be: requests and windows only, and when both versions have come as far in
// the stream.
func (l *Late) merges() bool {
	f, old := l.f, &l.f.c.sides[Old]
	if l.q.whole == 0 || f.err != nil || f.skip || f.own > 0 || !f.seen.empty() || !old.limits || old.failed || !common(f.last) {
		return false
	}
	_, events := l.q.peek()
	return f.n+len(events) <= mergeBytes && common(events)
}

// common tells whether a call is of the kind that nearly all are.
func common(events []byte) bool {
	h := abi.Overlay[abi.Header](events)
	return h != nil && (h.Kind == abi.EvRequest || h.Kind == abi.EvReceived)
}
