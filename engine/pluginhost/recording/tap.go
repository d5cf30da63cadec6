package recording

import (
	"hash/maphash"
	"slices"
	"unsafe"

	"blockengine/engine/sys"
	"blockengine/sdk/abi"
)

// Opening is the beginning of a connection's recording.
type Opening struct {
	Number  uint32 // in its session
	Reactor int
	Opened  []byte // the event
	Resumed bool
	Limits  []byte // the action that goes with a resumed one
}

// Tap records one connection. It is a guest.Tap.
type Tap struct {
	r       *Recorder
	conn    uint32
	chunk   *chunk
	dead    bool
	at      int64 // ns, of the call
	events  []byte
	actions []byte
	pos     uint64 // of the received stream
	min     uint64 // of Want
	keep    []span
	scratch []byte
	seed    maphash.Seed
}

// span are bytes of the received stream.
type span struct{ from, to uint64 }

// maxActions bounds the actions of one call that are kept, in bytes.
const maxActions = 128 << 10

// Tap begins to record a connection. Secret options are blanked in o.Opened.
func (r *Recorder) Tap(o Opening) *Tap {
	t := &Tap{r: r, conn: r.conns.Add(1), min: 1, seed: maphash.MakeSeed()}
	flags := uint8(0)
	if o.Resumed {
		flags = flagResumed
	}
	if e := abi.Overlay[abi.Opened](o.Opened); e != nil {
		t.pos = e.StreamPos
	}
	blankOptions(o.Opened, r.o.Header.Secrets)
	head := le.AppendUint32(le.AppendUint32(nil, o.Number), uint32(o.Reactor))
	head = le.AppendUint32(le.AppendUint32(head, uint32(len(o.Opened))), uint32(len(o.Limits)))
	t.at = sys.Nanotime() - r.began
	t.record(kindBegin, flags, head, o.Opened, o.Limits)
	return t
}

// Events keeps the events of a call until it is answered.
func (t *Tap) Events(b []byte) {
	if t.dead || len(b) == 0 {
		return
	}
	t.at = sys.Nanotime() - t.r.began
	t.events, t.actions = append(t.events[:0], b...), t.actions[:0]
	if abi.Overlay[abi.Header](t.events).Kind == abi.EvOpened {
		blankOptions(t.events, t.r.o.Header.Secrets)
	}
}

// Actions writes the call down when all of its actions are there.
func (t *Tap) Actions(b []byte, more bool, err error) {
	if t.dead {
		return
	}
	t.actions = append(t.actions, b...)
	if len(t.actions) > maxActions {
		t.lose("the actions of one call are longer than is kept")
		return
	}
	if more && err == nil {
		return
	}
	t.writeCall(err)
}

func (t *Tap) writeCall(err error) {
	events := t.events
	kind := uint16(0)
	if h := abi.Overlay[abi.Header](events); h != nil {
		kind = h.Kind
	}
	t.follow()
	switch h := &t.r.o.Header; {
	case h.Copies && !h.Payload:
		events = t.hashed(events, true)
		t.actions = t.hashed(t.actions, false)
	case !h.Copies && kind == abi.EvReceived:
		events = t.trimmed(events)
	}
	if t.record(kindEvents, 0, events); t.dead {
		return
	}
	if err == nil {
		t.record(kindActions, 0, t.actions)
		return
	}
	words := err.Error()
	t.record(kindActions, flagTrap|flagWords, t.actions, []byte(words[:min(len(words), abi.MaxText)]))
}

// follow notes what becomes of the received stream: what is consumed is kept.
func (t *Tap) follow() {
	t.keep = t.keep[:0]
	for b := t.actions; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return
		}
		b = rest
		switch abi.Overlay[abi.Header](rec).Kind {
		case abi.ActConsume:
			if a := abi.Overlay[abi.Count](rec); a != nil {
				t.keepTo(t.pos + a.N)
				t.pos += a.N
			}
		case abi.ActDiscard:
			if a := abi.Overlay[abi.Count](rec); a != nil {
				t.pos += a.N
			}
		case abi.ActReceive:
			if a := abi.Overlay[abi.Range](rec); a != nil {
				t.pos += a.To - a.From
			}
		case abi.ActCheckDigest:
			t.pos += 4
		case abi.ActWant:
			if a := abi.Overlay[abi.Want](rec); a != nil {
				t.min = uint64(max(a.Min, 1))
			}
		}
	}
	t.keepTo(t.pos + t.min) // it has asked to see these
}

// keepTo keeps what lies between the position and to.
func (t *Tap) keepTo(to uint64) {
	if n := len(t.keep); n > 0 && t.keep[n-1].to == t.pos {
		t.keep[n-1].to = to
	} else if to > t.pos {
		t.keep = append(t.keep, span{t.pos, to})
	}
}

// trimmed gives the windows without what is not kept.
func (t *Tap) trimmed(events []byte) []byte {
	out := t.scratch[:0]
	for b := events; len(b) > 0; {
		rec, rest, ok := abi.Next(b)
		if !ok {
			break
		}
		b = rest
		r := abi.Overlay[abi.Received](rec)
		if r == nil || r.Kind != abi.EvReceived {
			out = append(out, rec...)
			continue
		}
		data, _ := abi.Inline(rec, int(unsafe.Sizeof(*r)), r.Len)
		end := r.Offset + uint64(len(data))
		for _, k := range t.keep {
			if from, to := max(k.from, r.Offset), min(k.to, end); from < to {
				out = appendWindow(out, from, data[from-r.Offset:to-r.Offset])
			}
		}
	}
	t.scratch = out
	return out
}

func appendWindow(out []byte, pos uint64, data []byte) []byte {
	const fixed = int(unsafe.Sizeof(abi.Received{}))
	size := abi.Align(fixed + len(data))
	out = le.AppendUint16(le.AppendUint16(out, abi.EvReceived), 0)
	out = le.AppendUint64(le.AppendUint32(out, uint32(size)), pos)
	out = le.AppendUint32(le.AppendUint32(out, uint32(len(data))), 0)
	out = append(out, data...)
	return append(out, padding[:size-fixed-len(data)]...)
}

var padding [8]byte

// inlineAt says where a record's bytes begin and where their length stands, for
// records whose bytes may be payload.
func inlineAt(kind uint16, event bool) (fixed, length int, is bool) {
	switch {
	case event && kind == abi.EvReceived:
		return int(unsafe.Sizeof(abi.Received{})), int(unsafe.Offsetof(abi.Received{}.Len)), true
	case event && kind == abi.EvPayload, !event && kind == abi.ActData:
		return int(unsafe.Sizeof(abi.Payload{})), int(unsafe.Offsetof(abi.Payload{}.Len)), true
	case !event && kind == abi.ActSend:
		return int(unsafe.Sizeof(abi.Bytes{})), int(unsafe.Offsetof(abi.Bytes{}.Len)), true
	}
	return 0, 0, false
}

// hashed replaces the bytes of records that may be payload by their hash.
func (t *Tap) hashed(b []byte, event bool) []byte {
	var out []byte
	for len(b) > 0 {
		rec, rest, ok := abi.Next(b)
		if !ok {
			break
		}
		b = rest
		fixed, length, is := inlineAt(abi.Overlay[abi.Header](rec).Kind, event)
		if !is || len(rec) < fixed {
			out = append(out, rec...)
			continue
		}
		data, _ := abi.Inline(rec, fixed, le.Uint32(rec[length:]))
		at := len(out)
		out = append(out, rec[:fixed]...)
		out = le.AppendUint64(out, maphash.Bytes(t.seed, data))
		le.PutUint16(out[at+2:], le.Uint16(out[at+2:])|blanked)
		le.PutUint32(out[at+4:], uint32(len(out)-at))
	}
	return out
}

// Closed writes that nothing more comes.
func (t *Tap) Closed() {
	if t.dead {
		return
	}
	t.at = sys.Nanotime() - t.r.began
	t.record(kindClosed, 0)
	t.finish()
}

// finish hands the last chunk over.
func (t *Tap) finish() {
	t.dead = true
	if t.chunk != nil {
		t.r.put(t.chunk)
		t.chunk = nil
	}
	t.events, t.actions = nil, nil
}

// lostRoom is kept free in every chunk for the mark that the rest is lost.
const lostRoom = recordHead + 128

// record writes a record. A call's own parts are the longest, and fit a chunk.
func (t *Tap) record(kind, flags uint8, parts ...[]byte) {
	n := recordHead
	for _, p := range parts {
		n += len(p)
	}
	if t.chunk == nil || len(t.chunk.b)+n+lostRoom > cap(t.chunk.b) {
		next := t.r.get()
		if next == nil {
			t.lose("what writes the recording does not come after")
			return
		}
		if t.chunk != nil {
			t.r.put(t.chunk)
		}
		t.chunk = next
	}
	t.chunk.b = appendRecord(t.chunk.b, kind, flags, t.conn, t.at, parts...)
}

// lose ends the connection's recording with a mark.
func (t *Tap) lose(why string) {
	t.r.lost.Add(1)
	if t.chunk != nil {
		t.chunk.b = appendRecord(t.chunk.b, kindLost, 0, t.conn, t.at, []byte(why))
	}
	t.finish()
}

// blankOptions replaces the values of secret options in an Opened event.
func blankOptions(opened []byte, secrets []string) {
	e := abi.Overlay[abi.Opened](opened)
	if e == nil || len(secrets) == 0 {
		return
	}
	b, _ := abi.Inline(opened, int(unsafe.Sizeof(*e)), e.OptionsLen)
	for len(b) > 0 {
		end := slices.Index(b, 0)
		if end < 0 {
			end = len(b)
		}
		if eq := slices.Index(b[:end], '='); eq >= 0 && slices.Contains(secrets, string(b[:eq])) {
			star(b[eq+1 : end])
		}
		b = b[min(end+1, len(b)):]
	}
}
