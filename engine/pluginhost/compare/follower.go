package compare

import (
	"errors"
	"fmt"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
)

// maxRounds is how many output buffers a version may fill for one call; as the
// engine's own bound.
const maxRounds = 64

// Follower hands an instance of the next version the events that another
// version was handed, and holds its actions against that one's. Events and
// Actions are guest.Tap's. It is used by one goroutine at a time.
type Follower struct {
	c     *Comparison
	inst  guest.Instance
	start Start
	first []byte // what it has answered to a saved state so far
	last  []byte // the events of the call under way, or of several
	n     int    // of them
	from  int    // where those of the last of several calls begin
	shown bool   // there are windows among them
	peak  int    // requests that the other version held after any of the calls
	own   int    // bytes of an Opened of its own, in the instance's input
	skip  bool   // what is under way is none of its business
	call  call
	seen  stream // bytes that the other version has passed and this one has not
	err   error  // why it follows no more
}

// Start is how a follower begins.
type Start struct {
	// Opened is its own first event: resumed, or with the other one's login.
	Opened  []byte
	Resumed bool
	// Limits is the action with which the other version would have answered, if
	// it is resumed; may be nil.
	Limits []byte
	// Judge looks at what it answers to a saved state, may be nil.
	Judge func(actions []byte) error
	// Tolerate are classes of differences that are noted and no more.
	Tolerate []Class
}

// Follow begins. inst stays the caller's to close. An error means that the
// version cannot go on from the saved state.
func Follow(inst guest.Instance, s Start) (*Follower, error) {
	f, err := newFollower(inst, s)
	if err != nil {
		return nil, err
	}
	f.drive()
	return f, f.err
}

// newFollower puts the first event into the instance's input, and asks for it to
// be handed in if it tells of a saved state.
func newFollower(inst guest.Instance, s Start) (*Follower, error) {
	o := abi.Overlay[abi.Opened](s.Opened)
	if o == nil || o.Kind != abi.EvOpened {
		return nil, errors.New("a connection begins with an event that is not Opened")
	}
	if len(s.Opened) > len(inst.Input()) {
		return nil, errors.New("its options, session data and the saved state together are too long for the plugin's interface")
	}
	f := &Follower{inst: inst, start: s, c: newComparison(o.StreamPos, s.Tolerate...), last: abi.Buffer(abi.InSize)}
	f.own = copy(inst.Input(), s.Opened)
	if s.Resumed {
		f.resume()
	}
	return f, nil
}

// Requests is how many requests both versions have ended in the same way.
func (f *Follower) Requests() uint64 { return f.c.ended }

// Calls is how many calls of the other version it has followed.
func (f *Follower) Calls() uint64 { return f.c.calls }

// Notes are the differences of tolerated classes.
func (f *Follower) Notes() []*Difference { return f.c.notes }

// Err is why it follows no more: a *Difference, or a *Limit, or that the other
// version has failed. nil as long as it follows.
func (f *Follower) Err() error { return f.err }

// Give makes it follow no more, for a reason that is not its own.
func (f *Follower) Give(text string) {
	if f.err == nil {
		f.err = &Limit{text}
	}
}

// Events takes the events of a call of the other version, none for more of its
// actions. They are read once: a plugin in another process could change them
// while they are looked at.
func (f *Follower) Events(b []byte) {
	if f.err != nil || len(b) == 0 {
		return
	}
	f.n, f.skip, f.shown, f.peak = 0, false, false, 0
	f.c.begin()
	f.add(b)
}

// add takes the events of a call, the only one or one more.
func (f *Follower) add(b []byte) {
	f.from = f.n
	f.n += copy(f.last[f.n:], b)
	rec, _, ok := abi.Next(f.last[f.from:f.n])
	if !ok {
		f.Give("an event is malformed")
		return
	}
	switch abi.Overlay[abi.Header](rec).Kind {
	case abi.EvRequest:
		f.offer()
	case abi.EvReceived:
		f.shown = true
	case abi.EvSave, abi.EvClosed:
		f.skip = true // what is saved is compared by who resumes; after Closed nothing counts
	}
}

// offer notes the requests of the call.
func (f *Follower) offer() {
	for b := f.last[f.from:f.n]; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			f.Give("an event is malformed")
			return
		}
		b = rest
		r := abi.Overlay[abi.Request](rec)
		if r != nil && r.Kind == abi.EvRequest && !f.c.offer(r) {
			f.Give("one version is too many requests behind the other one")
			return
		}
	}
}

// Actions takes what the other version has answered. When that is all, the
// events go to the instance that follows.
func (f *Follower) Actions(b []byte, more bool, err error) {
	if f.heard(b, err); f.err != nil || f.skip || more {
		return
	}
	f.follow()
	f.drive()
}

// heard takes actions of the other version.
func (f *Follower) heard(b []byte, err error) {
	switch {
	case f.err != nil || f.skip:
	case err != nil:
		f.Give("the version that ran has trapped: " + err.Error())
	default:
		if wrong := f.c.take(Old, b); wrong != "" {
			f.Give("the version that ran has broken the contract: " + wrong)
		}
	}
}

// follow has the events handed in, and what both have done compared.
func (f *Follower) follow() {
	f.trim()
	if err := f.handIn(); err != nil {
		f.err = err
	}
}

func (f *Follower) handIn() error {
	kind := abi.Overlay[abi.Header](f.last).Kind
	switch {
	case kind == abi.EvOpened:
		if f.own > 0 { // else it is resumed
			f.ask(f.own, guest.BudgetLogin, thenCompare)
			f.own = 0
		}
		return nil
	case f.own > 0:
		return &Limit{"the connection does not begin with Opened"}
	case f.n == 0 || !f.wanted(kind):
		return f.finish(true)
	case f.shown && !f.seen.empty():
		return f.catchUpWith(f.last[:f.n])
	}
	t := thenCompare
	if f.shown {
		t = thenWindows
	}
	f.ask(copy(f.inst.Input(), f.last[:f.n]), f.budget(kind, f.n), t)
	return nil
}

// settle compares. What differs in a login may follow from what the new version
// has said to the server, whose answer nobody knows.
func (f *Follower) settle(caught bool) error {
	err := f.c.settle(caught)
	if err == nil {
		return nil
	}
	var d *Difference
	if !f.c.sides[Old].limits && errors.As(err, &d) && (d.Class == Sent || d.Class == End) {
		return &Limit{"the login differs, so the server's answers are not for the new version: " + d.Error()}
	}
	return err
}

// trim leaves out the requests of the last call that the other version has not
// taken, and notes how many it holds now.
func (f *Follower) trim() {
	old := &f.c.sides[Old]
	at, i := f.from, int64(0)
	for b := f.last[f.from:f.n]; len(b) > 0 && old.taken >= 0; i++ {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return
		}
		if r := abi.Overlay[abi.Request](rec); i < old.taken {
			at += len(rec)
		} else if r != nil && r.Kind == abi.EvRequest {
			f.c.refused(r.Tag)
		}
		b = rest
	}
	if old.taken >= 0 {
		f.n = at
	}
	f.peak = max(f.peak, old.held)
}

// wanted tells whether an event is of use to the version that follows.
func (f *Follower) wanted(kind uint16) bool {
	b := &f.c.sides[New]
	switch kind {
	case abi.EvTimer:
		e := abi.Overlay[abi.Timer](f.last[:f.n])
		if e == nil || e.ID >= abi.MaxTimers || b.timers&(1<<e.ID) == 0 {
			return false // it has set none
		}
		b.timers &^= 1 << e.ID
	case abi.EvAbort:
		e := abi.Overlay[abi.Abort](f.last[:f.n])
		if e == nil {
			return false
		}
		held, _ := f.c.of(New, e.Tag)
		return held != nil
	}
	return true
}

// budget is what the engine gives a call.
func (f *Follower) budget(kind uint16, n int) int64 {
	switch {
	case kind == abi.EvIdle:
		return guest.BudgetIdle
	case !f.c.sides[Old].limits, kind == abi.EvGoodbye:
		return guest.BudgetLogin
	}
	return guest.BudgetCall + int64(n)*guest.PerByte
}

func (f *Follower) trapped(err error) error {
	return f.blame(Trapped, "the new version traps", err.Error())
}

func (f *Follower) broke(what string) error {
	return f.blame(Contract, "the new version breaks the contract", what)
}

// blame names what the call was about: its requests, the first of them by name.
func (f *Follower) blame(class Class, what, how string) error {
	d := &Difference{Class: class, Call: f.c.calls, What: what, Old: "does not", New: how}
	for b := f.last[:f.n]; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			break
		}
		b = rest
		if r := abi.Overlay[abi.Request](rec); r != nil && r.Kind == abi.EvRequest {
			if d.Of++; d.Of == 1 {
				d.Request = Request{Tag: r.Tag, Op: r.Op, Mods: r.Mods, Offset: r.Offset, Length: r.Length}
			}
		}
	}
	if e := f.c.requests.find(f.c.stray); d.Of == 0 && how == strange && e != nil {
		d.Request, d.Of = e.Request, 1
	}
	return d
}

// flow looks at how many requests the new version takes.
func (f *Follower) flow() error {
	b := &f.c.sides[New]
	if b.taken >= 0 {
		return &Limit{"the new version takes fewer requests at a time than the one that runs"}
	}
	if b.depth > 0 && f.peak > int(b.depth) {
		return &Limit{fmt.Sprintf("the new version takes %d requests at a time, and the one that runs has more", b.depth)}
	}
	return nil
}

// unseen ends the comparison because the new version wants to look at bytes that
// the other one has had put elsewhere without looking.
func (f *Follower) unseen(pos uint64) error {
	if err := f.c.lane(laneReceived); err != nil {
		return err
	}
	return &Limit{fmt.Sprintf("the new version wants to look at byte %d of the received stream, which the other one has directed elsewhere without looking", pos)}
}

// window writes a Received event.
func (f *Follower) window(pos uint64, b []byte) int {
	const fixed = int(unsafe.Sizeof(abi.Received{}))
	in := f.inst.Input()
	size := abi.Align(fixed + len(b))
	*abi.Overlay[abi.Received](in) = abi.Received{Header: abi.Header{Kind: abi.EvReceived, Size: uint32(size)}, Offset: pos, Len: uint32(len(b))}
	copy(in[fixed:size], b)
	return size
}
