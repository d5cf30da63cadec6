package protocol

import (
	"unsafe"

	"blockengine/sdk/abi"
)

// Machine runs a Conn over event and action buffers. It is what both runtimes
// call; a plugin's author does not need it.
type Machine struct {
	conn Conn
	fast Windower // conn, if it is one
	in   []byte
	act  Actions
	pos  uint64 // position in the received stream
	idle func() // what to do in idle times, may be nil
	bad  bool   // the events made no sense; nothing more is done

	taken uint64 // requests of this call that the plugin has taken
	short bool   // it did not take all; the rest of the call's are not offered
}

// NewMachine makes a machine for conn that reads events from in and writes
// actions to out. Both must start at a multiple of 8. idle, which may be nil,
// runs on the idle event.
func NewMachine(conn Conn, in, out []byte, idle func()) *Machine {
	m := &Machine{conn: conn, in: in, act: newActions(out), idle: idle}
	m.fast, _ = conn.(Windower)
	return m
}

// Call handles the first n bytes of the input buffer and returns the length of
// the actions, with abi.CallMore if there are more.
func (m *Machine) Call(n uint32) uint32 {
	m.act.n = 0
	if len(m.act.spill) > 0 {
		m.act.drain()
	}
	m.taken, m.short = 0, false
	if uint64(n) <= uint64(len(m.in)) {
		m.events(m.in[:n])
	} else {
		m.refuse()
	}
	if len(m.act.spill) > 0 {
		return uint32(m.act.n) | abi.CallMore
	}
	return uint32(m.act.n)
}

func (m *Machine) events(b []byte) {
	for len(b) > 0 && !m.bad {
		rec, rest, ok := abi.Next(b)
		if !ok {
			m.refuse()
			return
		}
		switch h := abi.Overlay[abi.Header](rec); h.Kind {
		case abi.EvRequest:
			rest = m.requests(b, h.Size)
		case abi.EvReceived:
			if n := m.windows(b); n > 0 {
				rest = b[n:]
				break
			}
			m.received(rec)
		default:
			m.rare(h.Kind, rec)
		}
		b = rest
	}
}

// refuse ends a connection whose engine sent what is no event.
func (m *Machine) refuse() {
	m.bad = true
	m.act.Fail(abi.FailConn, 71, "the engine sent a malformed event record")
}

// requests handles the run of Request records at the start of b and returns
// what comes after it. All Request records of a call are one batch, even if
// other events stand between them: once the plugin has refused one, it is
// offered none of the rest, and Taken counts from the start of the call.
func (m *Machine) requests(b []byte, size uint32) []byte {
	stride := int(size)
	if stride < sizeRequest {
		m.refuse()
		return nil
	}
	n, end := 1, stride
	for end+stride <= len(b) && *overlay[abi.Header](b, end) == *overlay[abi.Header](b, 0) {
		n++
		end += stride
	}
	if m.short {
		return b[end:]
	}
	taken := 0
	if stride == sizeRequest {
		taken = m.conn.Submit(&m.act, unsafe.Slice(overlay[Request](b, 0), n))
	} else { // a later version's longer records: one at a time
		for taken < n && m.conn.Submit(&m.act, unsafe.Slice(overlay[Request](b, taken*stride), 1)) == 1 {
			taken++
		}
	}
	m.taken += uint64(min(max(taken, 0), n))
	if taken < n {
		m.short = true
		m.act.count(abi.ActTaken, m.taken)
	}
	return b[end:]
}

const sizeRequest = int(unsafe.Sizeof(Request{}))

// overlay lays a record over b at an offset that has been checked.
func overlay[T any](b []byte, at int) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), at))
}

// windows lets a Windower handle what it can of the records at the start of b.
func (m *Machine) windows(b []byte) (done int) {
	if m.fast == nil {
		return 0
	}
	n, pos := m.fast.Windows(&m.act, b, m.pos)
	m.pos = pos
	return min(max(n, 0), len(b)) &^ 7
}

// received hands a window on for as long as the plugin makes progress in it. A
// window elsewhere than at the stream position is ignored.
func (m *Machine) received(rec []byte) {
	r := abi.Overlay[abi.Received](rec)
	if r == nil {
		m.refuse()
		return
	}
	data, ok := abi.Inline(rec, int(unsafe.Sizeof(*r)), r.Len)
	if !ok {
		m.refuse()
		return
	}
	for m.pos >= r.Offset && m.pos-r.Offset < uint64(len(data)) {
		if !m.step(data[m.pos-r.Offset:]) {
			return
		}
	}
}

// step lets the plugin look at b, the stream from its position on. The Consume
// record stands before the actions of the plugin, so it is written first and
// its count afterwards.
func (m *Machine) step(b []byte) bool {
	spilt, at := len(m.act.spill), m.act.n
	m.act.count(abi.ActConsume, 0)
	inSpill := len(m.act.spill) > spilt
	end, endSpill := m.act.n, len(m.act.spill)
	n := m.conn.Received(&m.act, b)
	n = min(max(n, 0), len(b))
	quiet := m.act.n == end && len(m.act.spill) == endSpill
	if n == 0 && quiet {
		m.act.undo(at, spilt)
		return false
	}
	if inSpill { // which may have moved since
		overlay[abi.Count](m.act.spill, spilt).N = uint64(n)
	} else {
		overlay[abi.Count](m.act.buf, at).N = uint64(n)
	}
	if quiet {
		m.pos += uint64(n)
		return true
	}
	moved := uint64(n) + m.directed(end, endSpill)
	m.pos += moved
	return moved > 0
}

// directed adds up the stream bytes that the actions after the given places
// direct elsewhere.
func (m *Machine) directed(from, fromSpill int) uint64 {
	sum := directed(m.act.buf[from:m.act.n])
	if len(m.act.spill) > fromSpill {
		sum += directed(m.act.spill[fromSpill:])
	}
	return sum
}

func directed(b []byte) (sum uint64) {
	for at := 0; at < len(b); {
		h := overlay[abi.Header](b, at)
		switch h.Kind {
		case abi.ActReceive:
			r := overlay[abi.Range](b, at)
			sum += r.To - r.From
		case abi.ActDiscard:
			sum += overlay[abi.Count](b, at).N
		case abi.ActCheckDigest:
			sum += 4
		}
		at += int(h.Size)
	}
	return sum
}

// rare handles the events that are not on the data path.
func (m *Machine) rare(kind uint16, rec []byte) {
	a, c := &m.act, m.conn
	switch kind {
	case abi.EvOpened:
		m.opened(rec)
	case abi.EvTimer:
		with(m, rec, func(t *abi.Timer) { c.Timer(a, t.ID, Clock{t.Mono, t.Wall}) })
	case abi.EvAbort:
		with(m, rec, func(e *abi.Abort) { c.Abort(a, e.Tag) })
	case abi.EvGoodbye:
		c.Goodbye(a)
	case abi.EvClosed:
		with(m, rec, func(e *abi.Closed) { c.Closed(a, e.Reason) })
	case abi.EvMessage:
		withInline(m, rec, func(e *abi.Message) uint32 { return e.Len },
			func(e *abi.Message, b []byte) { c.Message(a, e.Conn, b) })
	case abi.EvSession:
		withInline(m, rec, func(e *abi.SessionData) uint32 { return e.Len },
			func(e *abi.SessionData, b []byte) { c.SessionData(a, b) })
	case abi.EvPayload:
		withInline(m, rec, func(e *abi.Payload) uint32 { return e.Len },
			func(e *abi.Payload, b []byte) { c.Payload(a, e.Tag, e.From, b) })
	case abi.EvSave:
		c.Save(a)
	case abi.EvIdle:
		if m.idle != nil {
			m.idle()
		}
	case abi.EvDigest:
		with(m, rec, func(e *abi.Digest) { c.Digest(a, e) })
	}
	// An unknown kind is a later version's and may be ignored.
}

func with[T any](m *Machine, rec []byte, f func(*T)) {
	if e := abi.Overlay[T](rec); e != nil {
		f(e)
		return
	}
	m.refuse()
}

func withInline[T any](m *Machine, rec []byte, n func(*T) uint32, f func(*T, []byte)) {
	with(m, rec, func(e *T) {
		if b, ok := abi.Inline(rec, int(unsafe.Sizeof(*e)), n(e)); ok {
			f(e, b)
			return
		}
		m.refuse()
	})
}

func (m *Machine) opened(rec []byte) {
	with(m, rec, func(e *abi.Opened) {
		o := Opened{Opened: e}
		at := int(unsafe.Sizeof(*e))
		for _, part := range []struct {
			n   uint32
			dst *[]byte
		}{{e.OptionsLen, &o.options}, {e.SessionLen, &o.SessionData}, {e.StateLen, &o.State}} {
			b, ok := abi.Inline(rec, at, part.n)
			if !ok {
				m.refuse()
				return
			}
			*part.dst = b
			at += abi.Align(len(b))
		}
		// A resumed connection's stream goes on in the engine's count.
		m.pos = e.StreamPos
		m.conn.Opened(&m.act, &o)
	})
}
