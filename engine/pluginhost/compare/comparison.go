package compare

import (
	"unsafe"

	"blockengine/sdk/abi"
)

// Side is one of the two versions.
type Side int

// The sides.
const (
	Old Side = iota // that runs, or ran
	New
)

// The lanes: what must come in one order.
const (
	laneSent = iota
	laneReceived
	laneLimits
	laneSession
	laneEnd
	lanes
)

var laneClass = [lanes]Class{Sent, Received, Limits, Session, End}

// side is what one version has done.
type side struct {
	lanes    [lanes]lane
	pos      uint64 // of the received stream, up to which it has directed it
	step     uint64 // where the step under way began: before the last Consume of the call
	sent     uint64 // bytes that it ever wanted sent
	held     int    // requests
	taken    int64  // requests of this call, -1: all
	min, max int    // of Want
	timers   uint32 // that are set
	setNow   uint32 // in this call
	after    [abi.MaxTimers]uint64
	failed   bool
	why      string // it failed
	closing  bool
	limits   bool // it has told any: login is done
	depth    uint32
	saved    bool // it has answered Save
}

// Comparison holds the actions of two versions against each other. Requests are
// noted with offer, actions with take, and settle looks. It is used by one
// goroutine at a time, and does not allocate once it is warm.
type Comparison struct {
	sides    [2]side
	requests table
	log      requestLog
	calls    uint64
	ended    uint64   // requests that both versions have ended the same way
	both     []*entry // that both have ended since settle looked
	oldOnly  int      // that only the old version has ended
	tolerate map[Class]bool
	notes    []*Difference // of tolerated classes, the first of each
	lagAt    uint64        // the call at which lag looks again
	stray    uint64        // that a version has named last and does not hold
	resumed  bool          // timers that were set before are not known
}

// newComparison begins at a position of the received stream. Differences of the
// tolerated classes are noted once each and do not end the comparison.
func newComparison(pos uint64, tolerate ...Class) *Comparison {
	c := &Comparison{tolerate: map[Class]bool{}}
	for _, t := range tolerate {
		c.tolerate[t] = true
	}
	for i := range c.sides {
		s := &c.sides[i]
		s.pos, s.step, s.min, s.max, s.taken = pos, pos, 1, abi.MaxWant, -1
	}
	return c
}

// begin begins a call.
func (c *Comparison) begin() {
	for i := range c.sides {
		s := &c.sides[i]
		s.step, s.setNow, s.saved = s.pos, 0, false
	}
	c.sides[New].taken = -1
	c.goOn()
}

// goOn goes on with another call of the old version, whose events the new one is
// handed together with those of the call before.
func (c *Comparison) goOn() {
	c.calls++
	s := &c.sides[Old]
	s.step, s.taken = s.pos, -1
	c.log.group(c.calls, s.sent)
}

// offer notes a request that the old version is being offered. It is false if
// there is no room for it: the new version has not ended too many others.
func (c *Comparison) offer(r *abi.Request) bool {
	e := c.requests.find(r.Tag)
	if e == nil {
		if e = c.requests.add(r.Tag); e == nil {
			return false
		}
	}
	e.Request = Request{Tag: r.Tag, Op: r.Op, Mods: r.Mods, Offset: r.Offset, Length: r.Length}
	e.sides[Old].held, e.sides[New].held = true, true
	c.sides[Old].held++
	c.sides[New].held++
	e.index = c.log.add(e.Request)
	return true
}

// refused takes a request back that the old version did not take.
func (c *Comparison) refused(tag uint64) {
	if e := c.requests.find(tag); e != nil && !e.sides[Old].done {
		c.sides[Old].held--
		c.sides[New].held--
		c.requests.remove(e)
	}
}

// take notes actions of a side. A text says how they break the contract.
func (c *Comparison) take(who Side, b []byte) (wrong string) {
	for len(b) > 0 && wrong == "" {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return "an action record is malformed"
		}
		b = rest
		wrong = c.action(who, abi.Overlay[abi.Header](rec), rec)
	}
	return wrong
}

const (
	tooShort  = "an action record is too short for its kind"
	strange   = "it acts on a request that it does not hold"
	backwards = "a range ends before it begins"
)

// action notes one action. The stream's are first: they are the most.
func (c *Comparison) action(who Side, h *abi.Header, rec []byte) string {
	s := &c.sides[who]
	switch h.Kind {
	case abi.ActConsume, abi.ActDiscard:
		a := abi.Overlay[abi.Count](rec)
		if a == nil {
			return tooShort
		}
		if h.Kind == abi.ActConsume {
			s.step = s.pos
		}
		s.direct(token{kind: abi.ActConsume, flags: h.Flags & abi.FlagDigest, n: a.N})
	case abi.ActReceive, abi.ActSendPayload, abi.ActZero:
		a := abi.Overlay[abi.Range](rec)
		if a == nil {
			return tooShort
		}
		return c.ranged(who, a)
	case abi.ActComplete, abi.ActReleased:
		a := abi.Overlay[abi.Complete](rec)
		if a == nil {
			return tooShort
		}
		return c.complete(who, a)
	case abi.ActSend:
		a := abi.Overlay[abi.Bytes](rec)
		if a == nil {
			return tooShort
		}
		b, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
		if !ok {
			return tooShort
		}
		s.send(token{kind: abi.ActSend, flags: h.Flags & abi.FlagDigest, n: uint64(len(b)), inline: len(b)}, b)
	default:
		return c.rare(who, h, rec)
	}
	return ""
}

// direct notes what becomes of the next bytes of the received stream.
func (s *side) direct(t token) {
	if t.n == 0 {
		return
	}
	s.pos += t.n
	s.lanes[laneReceived].push(t, nil)
}

func (s *side) send(t token, b []byte) {
	if t.n == 0 && t.kind != abi.ActSendDigest {
		return
	}
	s.sent += max(t.n, 1)
	s.lanes[laneSent].push(t, b)
}

// of gives the request that an action of a side names, nil if it holds none.
func (c *Comparison) of(who Side, tag uint64) (*entry, *outcome) {
	e := c.requests.find(tag)
	if e == nil || !e.sides[who].held || e.sides[who].done {
		c.stray = tag
		return nil, nil
	}
	return e, &e.sides[who]
}

func (c *Comparison) ranged(who Side, a *abi.Range) string {
	e, o := c.of(who, a.Tag)
	switch {
	case e == nil:
		return strange
	case a.From > a.To:
		return backwards
	case a.To > e.Length:
		return "a range goes beyond a request's payload"
	}
	s := &c.sides[who]
	t := token{kind: a.Kind, flags: a.Flags & abi.FlagDigest, tag: a.Tag, from: a.From, n: a.To - a.From}
	switch a.Kind {
	case abi.ActReceive:
		s.direct(t)
	case abi.ActSendPayload:
		if who == Old {
			c.log.payload(e.index, s.sent)
		}
		s.send(t, nil)
	default:
		o.zeroes.add(a.From, a.To, 0)
	}
	return ""
}

// complete notes the end of a request, and compares once both have ended it.
func (c *Comparison) complete(who Side, a *abi.Complete) string {
	e, o := c.of(who, a.Tag)
	if e == nil {
		return strange
	}
	s := &c.sides[who]
	o.done, o.released, o.status, o.partial = true, a.Kind == abi.ActReleased, a.Status, a.Done
	o.at, o.step, o.call = s.pos, s.step, c.calls
	s.held--
	switch other := e.sides[1-who].done; {
	case other:
		c.both = append(c.both, e)
		if who == New {
			c.oldOnly--
		}
	case who == Old:
		c.oldOnly++
	}
	return ""
}

// inlineOf gives the bytes of a record with a length in it.
func inlineOf[T any](rec []byte, n func(*T) uint32) (*T, []byte, bool) {
	a := abi.Overlay[T](rec)
	if a == nil {
		return nil, nil, false
	}
	b, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), n(a))
	return a, b, ok
}

// rare notes the actions that are not on the data path. What only tunes the
// calls, and what is for the log, is no meaning.
func (c *Comparison) rare(who Side, h *abi.Header, rec []byte) string {
	s := &c.sides[who]
	switch h.Kind {
	case abi.ActWant:
		a := abi.Overlay[abi.Want](rec)
		if a == nil || a.Min > a.Max || a.Max > abi.MaxWant {
			return "it wants windows that do not exist"
		}
		s.min, s.max = int(max(a.Min, 1)), int(max(a.Max, 1))
	case abi.ActTaken:
		a := abi.Overlay[abi.Count](rec)
		if a == nil {
			return tooShort
		}
		s.taken = int64(min(a.N, 1<<20))
	case abi.ActReady, abi.ActLog:
	case abi.ActTimer:
		a := abi.Overlay[abi.SetTimer](rec)
		if a == nil || a.ID >= abi.MaxTimers {
			return "it sets a timer that does not exist"
		}
		s.timer(a)
	case abi.ActSendDigest:
		s.send(token{kind: h.Kind}, nil)
	case abi.ActCheckDigest:
		a := abi.Overlay[abi.DigestMark](rec)
		if a == nil {
			return tooShort
		}
		s.pos += 4
		s.lanes[laneReceived].push(token{kind: h.Kind, id: a.ID}, nil)
	case abi.ActState:
		s.saved = true
	case abi.ActExtent:
		return c.extent(who, rec)
	case abi.ActData:
		return c.data(who, rec)
	default:
		return s.told(h, rec)
	}
	return ""
}

func (s *side) timer(a *abi.SetTimer) {
	bit := uint32(1) << a.ID
	s.setNow |= bit
	s.after[a.ID] = a.After
	if s.timers |= bit; a.After == 0 {
		s.timers &^= bit
	}
}

func (c *Comparison) extent(who Side, rec []byte) string {
	a := abi.Overlay[abi.Extent](rec)
	if a == nil {
		return tooShort
	}
	e, o := c.of(who, a.Tag)
	if e == nil {
		return strange
	}
	from := o.extents.bytes
	n := min(a.Length, e.Length-min(from, e.Length)) // more is cut off by the engine
	o.extents.add(from, from+n, uint64(a.State))
	return ""
}

func (c *Comparison) data(who Side, rec []byte) string {
	a, b, ok := inlineOf(rec, func(a *abi.Payload) uint32 { return a.Len })
	if !ok {
		return tooShort
	}
	e, o := c.of(who, a.Tag)
	switch {
	case e == nil:
		return strange
	case a.From > e.Length || uint64(len(b)) > e.Length-a.From:
		return "it gives data beyond a request's payload"
	}
	o.given.add(a.From, a.From+uint64(len(b)), 0)
	o.data += words(a.From, b)
	return ""
}

// told notes what the session and the engine are told.
func (s *side) told(h *abi.Header, rec []byte) string {
	t, b, lane, ok := token{kind: h.Kind}, []byte(nil), laneSession, true
	switch h.Kind {
	case abi.ActLimits:
		var a *abi.Limits
		if a, _, ok = inlineOf(rec, func(a *abi.Limits) uint32 { return a.IdentityLen }); ok {
			s.limits, s.depth = true, a.Depth
			b, lane = rec[:int(unsafe.Sizeof(*a))+int(a.IdentityLen)], laneLimits
		}
	case abi.ActPublish:
		_, b, ok = inlineOf(rec, func(a *abi.SessionData) uint32 { return a.Len })
	case abi.ActMessage:
		var a *abi.Message
		if a, b, ok = inlineOf(rec, func(a *abi.Message) uint32 { return a.Len }); ok {
			t.id = a.Conn
		}
	case abi.ActRedirect:
		t.flags = h.Flags & abi.FlagPermanent
		_, b, ok = inlineOf(rec, func(a *abi.Bytes) uint32 { return a.Len })
	case abi.ActPath:
		var a *abi.PathState
		if a = abi.Overlay[abi.PathState](rec); a == nil {
			return tooShort
		}
		t.id = a.State
	case abi.ActHash:
		if ok = len(rec) >= int(unsafe.Sizeof(abi.Hash{})); ok {
			b = rec[unsafe.Sizeof(abi.Header{}):unsafe.Sizeof(abi.Hash{})]
		}
	case abi.ActFail:
		return s.fail(rec)
	case abi.ActClose:
		s.closing, lane = true, laneEnd
	default:
		return "it asks for an action that does not exist"
	}
	if !ok {
		return tooShort
	}
	t.inline = len(b)
	s.lanes[lane].push(t, b)
	return ""
}

func (s *side) fail(rec []byte) string {
	a, b, ok := inlineOf(rec, func(a *abi.Fail) uint32 { return a.Len })
	if !ok {
		return tooShort
	}
	s.failed, s.why = true, string(b[:min(len(b), abi.MaxText)])
	s.lanes[laneEnd].push(token{kind: a.Kind, id: a.Scope<<16 | a.Status&0xffff}, nil)
	return ""
}
