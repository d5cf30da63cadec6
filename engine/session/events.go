package session

import (
	"crypto/rand"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
	"blockengine/sdk/abi"
)

// opening is how a connection comes to be.
type opening struct {
	kind  uint16 // abi.Session…
	state []byte // that another version has saved
	pos   uint64 // of the received stream
}

// openedEvent writes the first event for an instance of g and returns its
// length. fits is false if it does not fit.
func (cn *conn) openedEvent(in []byte, g *Generation, o opening) (n int, fits bool) {
	const fixed = int(unsafe.Sizeof(abi.Opened{}))
	s := cn.s()
	data := s.sessionData(cn.gen)
	if fixed+abi.Align(len(g.options))+abi.Align(len(data))+abi.Align(len(o.state)) > len(in) {
		return 0, false
	}
	e := abi.Overlay[abi.Opened](in)
	*e = abi.Opened{
		Header: abi.Header{Kind: abi.EvOpened}, Mono: uint64(sys.Nanotime()), Wall: uint64(time.Now().UnixNano()),
		HostID: s.opt.HostID, SessionID: s.opt.SessionID, Conn: cn.number, Reactor: uint32(cn.ch.r.Index()),
		Role: role(cn.number), Session: o.kind, Depth: maxSlots,
		OptionsLen: uint32(len(g.options)), SessionLen: uint32(len(data)), StateLen: uint32(len(o.state)),
		StreamPos: o.pos,
	}
	e.SessionID[15] ^= g.parity
	if s.opt.ReadOnly {
		e.ReadOnly = 1
	}
	_, _ = rand.Read(e.Seed[:])
	at := fixed
	for _, part := range [][]byte{g.options, data, o.state} {
		copy(in[at:], part)
		at += abi.Align(len(part))
	}
	e.Size = uint32(at)
	return at, true
}

// bare writes an event without fields.
func (cn *conn) bare(kind uint16) int {
	const size = int(unsafe.Sizeof(abi.Header{}))
	*abi.Overlay[abi.Header](cn.inst.Input()) = abi.Header{Kind: kind, Size: uint32(size)}
	return size
}

func (cn *conn) abortEvent(tag uint64) bool {
	const size = int(unsafe.Sizeof(abi.Abort{}))
	*abi.Overlay[abi.Abort](cn.inst.Input()) = abi.Abort{Header: abi.Header{Kind: abi.EvAbort, Size: uint32(size)}, Tag: tag}
	return cn.rareCall(size, thenAbort)
}

func (cn *conn) goodbyeEvent() bool { return cn.rareCall(cn.bare(abi.EvGoodbye), thenNothing) }

// closedEvent is the last one; only what is logged or published still counts.
func (cn *conn) closedEvent(l loss) {
	const size = int(unsafe.Sizeof(abi.Closed{}))
	reason := uint32(abi.ClosedLocal)
	if l.byEOF {
		reason = abi.ClosedEOF
	}
	*abi.Overlay[abi.Closed](cn.inst.Input()) = abi.Closed{Header: abi.Header{Kind: abi.EvClosed, Size: uint32(size)}, Reason: reason}
	actions, _, err := cn.inst.Call(size, guest.BudgetLogin)
	for err == nil && len(actions) > 0 {
		rec, rest, ok := abi.Next(actions)
		if !ok {
			return
		}
		if k := abi.Overlay[abi.Header](rec).Kind; k == abi.ActLog || k == abi.ActPublish {
			cn.inlined(k, rec)
		}
		actions = rest
	}
}

func (cn *conn) timerEvent(id uint32) {
	if !cn.alive() {
		return
	}
	if cn.staged != nil { // the next version sets its own
		cn.ch.r.StartTimer(cn.timers[id], time.Millisecond)
		return
	}
	if cn.awaiting(func() { cn.timerEvent(id) }) {
		return
	}
	if !cn.timerRate.ok(cn.ch.r.Now(), 10*time.Millisecond, 100) {
		cn.ch.r.StartTimer(cn.timers[id], 10*time.Millisecond) // it floods; slow it down
		return
	}
	const size = int(unsafe.Sizeof(abi.Timer{}))
	*abi.Overlay[abi.Timer](cn.inst.Input()) = abi.Timer{
		Header: abi.Header{Kind: abi.EvTimer, Size: uint32(size)}, ID: id,
		Mono: uint64(sys.Nanotime()), Wall: uint64(time.Now().UnixNano()),
	}
	if cn.rareCall(size, thenNothing) {
		cn.send()
	}
}

// alive reports whether the plugin has been told of its connection, and not yet
// of its end.
func (cn *conn) alive() bool { return cn.inst != nil && cn.stream != nil && cn.state != lost }

// sessionData tells the plugin what the control connection has published.
func (cn *conn) sessionData(data []byte) {
	if !cn.alive() || cn.later(func() { cn.sessionData(data) }) || cn.awaiting(func() { cn.sessionData(data) }) {
		return
	}
	const fixed = int(unsafe.Sizeof(abi.SessionData{}))
	in := cn.inst.Input()
	size := abi.Align(fixed + len(data))
	*abi.Overlay[abi.SessionData](in) = abi.SessionData{Header: abi.Header{Kind: abi.EvSession, Size: uint32(size)}, Len: uint32(len(data))}
	copy(in[fixed:], data)
	if cn.rareCall(size, thenNothing) {
		cn.send()
	}
}

// message hands the plugin what another connection of the session sent it.
func (cn *conn) message(from uint32, data []byte) {
	if !cn.alive() || cn.later(func() { cn.message(from, data) }) || cn.awaiting(func() { cn.message(from, data) }) {
		return
	}
	const fixed = int(unsafe.Sizeof(abi.Message{}))
	in := cn.inst.Input()
	size := abi.Align(fixed + len(data))
	*abi.Overlay[abi.Message](in) = abi.Message{Header: abi.Header{Kind: abi.EvMessage, Size: uint32(size)}, Conn: from, Len: uint32(len(data))}
	copy(in[fixed:], data)
	if cn.rareCall(size, thenNothing) {
		cn.send()
	}
}
