package session

import (
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// idleAfter is how long a connection must have had nothing to do before its
// plugin may clean up.
const idleAfter = time.Second

// rare carries out the actions that are not on the data path. false with the
// connection still there means that the record is too short.
func (cn *conn) rare(kind uint16, rec []byte) bool {
	switch kind {
	case abi.ActWant:
		a := abi.Overlay[abi.Want](rec)
		return a != nil && cn.want(a)
	case abi.ActZero:
		a := abi.Overlay[abi.Range](rec)
		return a != nil && cn.zero(a)
	case abi.ActExtent:
		a := abi.Overlay[abi.Extent](rec)
		return a != nil && cn.extent(a)
	case abi.ActReleased:
		a := abi.Overlay[abi.Complete](rec)
		return a != nil && cn.released(a)
	case abi.ActTaken:
		a := abi.Overlay[abi.Count](rec)
		return a != nil && cn.tookOnly(a.N)
	case abi.ActReady:
		a := abi.Overlay[abi.Count](rec)
		return a != nil && cn.ready(a.N)
	case abi.ActLimits:
		return cn.limits(rec)
	case abi.ActTimer:
		a := abi.Overlay[abi.SetTimer](rec)
		return a != nil && cn.setTimer(a)
	case abi.ActFail:
		return cn.fail(rec)
	case abi.ActClose:
		cn.closing = true
		cn.ch.r.Defer(&cn.sendLater)
		return true
	case abi.ActHash:
		a := abi.Overlay[abi.Hash](rec)
		return a != nil && cn.hash(a)
	case abi.ActSendDigest:
		a := abi.Overlay[abi.DigestMark](rec)
		return a != nil && cn.sendDigest(a)
	case abi.ActCheckDigest:
		a := abi.Overlay[abi.DigestMark](rec)
		return a != nil && cn.direct1(directive{kind: abi.ActCheckDigest, id: a.ID})
	}
	return cn.inlined(kind, rec)
}

// inlined carries out the actions that are mostly bytes.
func (cn *conn) inlined(kind uint16, rec []byte) bool {
	s := cn.s()
	switch kind {
	case abi.ActData:
		return cn.data(rec)
	case abi.ActPublish:
		a := abi.Overlay[abi.SessionData](rec)
		return a != nil && cn.mayTell() && inline(rec, unsafe.Sizeof(*a), a.Len, func(b []byte) { s.publish(cn, b) })
	case abi.ActMessage:
		a := abi.Overlay[abi.Message](rec)
		return a != nil && cn.mayTell() && inline(rec, unsafe.Sizeof(*a), a.Len, func(b []byte) { s.message(cn, a.Conn, b) })
	case abi.ActLog:
		a := abi.Overlay[abi.Bytes](rec)
		return a != nil && inline(rec, unsafe.Sizeof(*a), a.Len, func(b []byte) { cn.pluginLog(a.Flags, b) })
	case abi.ActRedirect:
		a := abi.Overlay[abi.Bytes](rec)
		return a != nil && inline(rec, unsafe.Sizeof(*a), a.Len, cn.redirect)
	case abi.ActPath:
		a := abi.Overlay[abi.PathState](rec)
		if a != nil && cn.mayLog() {
			cn.log.Info("path state", "state", a.State)
		}
		return a != nil
	case abi.ActState:
		return true // nobody has asked; see save
	}
	return cn.violation("it asks for an action that does not exist")
}

// mayTell bounds what a plugin can make other connections do.
func (cn *conn) mayTell() bool {
	return cn.news.ok(cn.ch.r.Now(), time.Millisecond, 1000) ||
		cn.violation("it floods its session with messages")
}

func inline(rec []byte, fixed uintptr, n uint32, f func([]byte)) bool {
	b, ok := abi.Inline(rec, int(fixed), n)
	if ok {
		f(b)
	}
	return ok
}

// zero fills a range of a read's payload with zeroes.
func (cn *conn) zero(a *abi.Range) bool {
	s := cn.find(a.Tag)
	switch {
	case s == nil:
		return cn.violation("it zeroes a request that it does not hold")
	case a.From > a.To || s.io != nil && (s.io.Op != block.OpRead || a.To > s.io.Length):
		return cn.violation("it zeroes beyond a request's payload")
	case !s.claim(a.From, a.To):
		return cn.violation("it fills the same bytes of a request twice")
	}
	if s.io != nil {
		if !wipe(s.io, a.From, a.To) {
			cn.spoil(uint32(a.Tag))
			return true
		}
		s.io.Filled += a.To - a.From
	}
	return true
}

// extent appends to a block status, clipped to what was asked for.
func (cn *conn) extent(a *abi.Extent) bool {
	s := cn.find(a.Tag)
	if s == nil || s.io != nil && s.io.Op != block.OpBlockStatus {
		return cn.violation("it describes extents of a request that it does not hold")
	}
	io := s.io
	if io == nil {
		return true
	}
	n := min(a.Length, io.Length-s.high) // high counts what is described
	if n > 0 && len(io.Extents) < cap(io.Extents) {
		s.high += n
		io.Extents = append(io.Extents, block.Extent{Length: n, State: block.ExtentState(a.State) & (block.Hole | block.Zero)})
	}
	return true
}

// released takes back a request that the engine has given up.
func (cn *conn) released(a *abi.Complete) bool {
	s := cn.find(a.Tag)
	if s == nil {
		return cn.violation("it releases a request that it does not hold")
	}
	if s.io != nil && s.io.Lower.Flags&ioAborted == 0 {
		return cn.violation("it releases a request that nobody wants back")
	}
	if a.Status != 0 && s.io != nil && s.io.Op.Modifies() {
		// Whether it was executed is unknown: only the fence can tell.
		cn.lose(loss{text: "the server did not answer in time"})
		return false
	}
	if s.io != nil {
		cn.s().counters.expired.Add(1)
	}
	s.ended, s.st = true, block.ETIMEDOUT
	cn.settle(uint32(a.Tag))
	return true
}

// tookOnly notes that the plugin took n of the offered requests.
func (cn *conn) tookOnly(n uint64) bool {
	if n > uint64(len(cn.offered)) {
		return cn.violation("it takes more requests than it was offered")
	}
	cn.taken = int(n)
	if cn.taken < len(cn.offered) {
		cn.starved, cn.credits = true, 0
	}
	return true
}

// ready notes that more requests can be taken.
func (cn *conn) ready(n uint64) bool {
	cn.credits = min(cn.credits+n, maxSlots)
	if cn.credits == maxSlots {
		cn.starved = false
	}
	cn.ch.r.Defer(&cn.ch.submit)
	return true
}

// setTimer sets or cancels a timer of the plugin's; one that fires all the
// time is slowed down.
func (cn *conn) setTimer(a *abi.SetTimer) bool {
	if a.ID >= abi.MaxTimers {
		return cn.violation("it sets a timer beyond the number allowed")
	}
	t := cn.timers[a.ID]
	if t == nil {
		id := a.ID
		t = &reactor.Timer{Fire: func() { cn.timerEvent(id) }}
		cn.timers[id] = t
	}
	if a.After == 0 {
		cn.ch.r.StopTimer(t)
		return true
	}
	after := min(max(a.After, abi.MinTimerNS), uint64(24*time.Hour))
	cn.ch.r.StartTimer(t, time.Duration(after))
	return true
}

// data copies bytes of a transforming plugin into a read's payload.
func (cn *conn) data(rec []byte) bool {
	a := abi.Overlay[abi.Payload](rec)
	if a == nil {
		return false
	}
	b, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
	if !ok {
		return false
	}
	s := cn.find(a.Tag)
	n := uint64(len(b))
	switch {
	case s == nil:
		return cn.violation("it gives data for a request that it does not hold")
	case s.io != nil && (s.io.Op != block.OpRead || n > s.io.Length || a.From > s.io.Length-n):
		return cn.violation("it gives data beyond a request's payload")
	case !s.claim(a.From, a.From+n):
		return cn.violation("it fills the same bytes of a request twice")
	}
	if s.io != nil {
		if !fill(s.io, a.From, b) {
			cn.spoil(uint32(a.Tag))
			return true
		}
		s.io.Filled += n
	}
	return true
}

// mayLog keeps a plugin from flooding the log.
func (cn *conn) mayLog() bool { return cn.logRate.ok(cn.ch.r.Now(), 100*time.Millisecond, 20) }

// pluginLog writes a plugin's line to the engine's log.
func (cn *conn) pluginLog(level uint16, b []byte) {
	if !cn.mayLog() {
		return
	}
	log := cn.log.With("plugin", cn.gen.name())
	switch level {
	case abi.LogDebug:
		log.Debug(short(b))
	case abi.LogInfo:
		log.Info(short(b))
	case abi.LogWarn:
		log.Warn(short(b))
	default:
		log.Error(short(b))
	}
}

// redirect notes another address, if the configuration allows it.
func (cn *conn) redirect(b []byte) {
	to, s := string(b), cn.s()
	for _, p := range s.opt.Paths {
		if p.String() == to {
			s.mu.Lock()
			s.redirect = to
			s.mu.Unlock()
			return
		}
	}
	if cn.mayLog() {
		cn.log.Warn("the server redirects to an address that no [[volume.path]] allows; it is ignored", "address", short(b))
	}
}

// onIdle lets the plugin collect its garbage while nothing is outstanding.
func (cn *conn) onIdle() {
	if cn.state != online {
		return
	}
	if cn.staged != nil || cn.await.on || cn.order.Len() > 0 || cn.ch.waiting.Len() > 0 {
		cn.ch.r.StartTimer(&cn.idle, idleAfter)
		return
	}
	n := cn.bare(abi.EvIdle)
	if cn.call(n, guest.BudgetIdle, thenIdle) {
		cn.idleCalls = cn.calls
		cn.send()
	}
}
