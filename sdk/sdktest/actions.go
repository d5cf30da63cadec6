package sdktest

import (
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// sizes of the fixed parts by kind of action.
var sizes = [...]uintptr{
	abi.ActSend:        unsafe.Sizeof(abi.Bytes{}),
	abi.ActSendPayload: unsafe.Sizeof(abi.Range{}),
	abi.ActSendDigest:  unsafe.Sizeof(abi.DigestMark{}),
	abi.ActConsume:     unsafe.Sizeof(abi.Count{}),
	abi.ActReceive:     unsafe.Sizeof(abi.Range{}),
	abi.ActDiscard:     unsafe.Sizeof(abi.Count{}),
	abi.ActCheckDigest: unsafe.Sizeof(abi.DigestMark{}),
	abi.ActWant:        unsafe.Sizeof(abi.Want{}),
	abi.ActZero:        unsafe.Sizeof(abi.Range{}),
	abi.ActExtent:      unsafe.Sizeof(abi.Extent{}),
	abi.ActComplete:    unsafe.Sizeof(abi.Complete{}),
	abi.ActReleased:    unsafe.Sizeof(abi.Complete{}),
	abi.ActTaken:       unsafe.Sizeof(abi.Count{}),
	abi.ActReady:       unsafe.Sizeof(abi.Count{}),
	abi.ActData:        unsafe.Sizeof(abi.Payload{}),
	abi.ActLimits:      unsafe.Sizeof(abi.Limits{}),
	abi.ActTimer:       unsafe.Sizeof(abi.SetTimer{}),
	abi.ActPublish:     unsafe.Sizeof(abi.SessionData{}),
	abi.ActMessage:     unsafe.Sizeof(abi.Message{}),
	abi.ActFail:        unsafe.Sizeof(abi.Fail{}),
	abi.ActClose:       unsafe.Sizeof(abi.Header{}),
	abi.ActState:       unsafe.Sizeof(abi.Bytes{}),
	abi.ActHash:        unsafe.Sizeof(abi.Hash{}),
	abi.ActPath:        unsafe.Sizeof(abi.PathState{}),
	abi.ActRedirect:    unsafe.Sizeof(abi.Bytes{}),
	abi.ActLog:         unsafe.Sizeof(abi.Bytes{}),
}

// maxBadActions ends a connection whose plugin breaks the contract over and
// over, so that a test's output stays readable.
const maxBadActions = 20

// actions carries out the records of one call.
func (x *Executor) actions(b []byte) {
	for len(b) > 0 && len(x.Violations) < maxBadActions {
		rec, rest, ok := abi.Next(b)
		if !ok {
			x.violate(inRecords, "the actions do not end with a whole record, or one is not a multiple of 8 long")
			return
		}
		b = rest
		kind := abi.Overlay[abi.Header](rec).Kind
		switch {
		case kind == 0 || int(kind) >= len(sizes):
			x.violate(inRecords, "unknown action %d", kind)
		case len(rec) < int(sizes[kind]):
			x.violate(inRecords, "action %d is %d bytes long, less than %d", kind, len(rec), sizes[kind])
		case x.in.over && kind != abi.ActLog && kind != abi.ActPublish:
			x.violate(inSession, "action %d in answer to Closed", kind)
		case x.answer != nil && !x.answer.may(kind):
			x.violate(inHandover, "action %d in answer to %s", kind, x.answer.to)
		case x.Failed != nil && kind != abi.ActLog:
			// Nothing that follows a failure matters.
		default:
			x.action(kind, rec)
		}
	}
}

func (x *Executor) action(kind uint16, rec []byte) {
	switch kind {
	case abi.ActSend, abi.ActSendPayload, abi.ActSendDigest, abi.ActHash:
		x.sendAction(kind, rec)
	case abi.ActConsume, abi.ActReceive, abi.ActDiscard, abi.ActCheckDigest, abi.ActWant:
		x.streamAction(kind, rec)
	case abi.ActZero, abi.ActExtent, abi.ActComplete, abi.ActReleased, abi.ActTaken, abi.ActReady, abi.ActData:
		x.requestAction(kind, rec)
	default:
		x.sessionAction(kind, rec)
	}
}

// inline gives a record's inline bytes, or nil and a violation.
func (x *Executor) inline(rec []byte, n, limit uint32) []byte {
	kind := abi.Overlay[abi.Header](rec).Kind
	b, ok := abi.Inline(rec, int(sizes[kind]), n)
	switch {
	case !ok:
		x.violate(inRecords, "action %d says it has %d bytes inline, and is %d bytes long", kind, n, len(rec))
	case n > limit:
		x.violate(inLimits, "action %d has %d bytes inline, more than %d", kind, n, limit)
	default:
		return b
	}
	return nil
}

// digested tells whether a record's bytes count in a running digest.
func digested(rec []byte) bool { return abi.Overlay[abi.Header](rec).Flags&abi.FlagDigest != 0 }

func (x *Executor) sendAction(kind uint16, rec []byte) {
	if x.Closing {
		x.violate(inSession, "action %d sends after Close", kind)
		return
	}
	switch kind {
	case abi.ActSend:
		x.send(x.inline(rec, abi.Overlay[abi.Bytes](rec).Len, abi.MaxInline), digested(rec))
	case abi.ActSendPayload:
		r := abi.Overlay[abi.Range](rec)
		if q := x.ranged(rec, block.OpWrite); q != nil {
			x.send(x.payloadOf(q)[r.From:r.To], digested(rec))
		}
	case abi.ActSendDigest:
		if x.algorithm(abi.Overlay[abi.DigestMark](rec).Kind, abi.DigestCRC32C) {
			c := x.crcOut
			x.crcOut = 0
			x.send([]byte{byte(c), byte(c >> 8), byte(c >> 16), byte(c >> 24)}, false)
		}
	case abi.ActHash:
		x.hash(rec)
	}
}

func (x *Executor) streamAction(kind uint16, rec []byte) {
	s := &x.in
	switch kind {
	case abi.ActConsume:
		x.consume(abi.Overlay[abi.Count](rec).N, digested(rec))
	case abi.ActReceive:
		r := abi.Overlay[abi.Range](rec)
		if q := x.ranged(rec, block.OpRead); q != nil && x.fill(q, r.From, r.To) {
			s.pos += r.To - r.From
			x.enqueue(directive{kind: kind, r: q, from: r.From, to: r.To, digest: digested(rec)})
		}
	case abi.ActDiscard:
		n := abi.Overlay[abi.Count](rec).N
		s.pos += n
		x.enqueue(directive{kind: kind, n: n, digest: digested(rec)})
	case abi.ActCheckDigest:
		m := abi.Overlay[abi.DigestMark](rec)
		if x.algorithm(m.Kind, abi.DigestCRC32C) {
			s.pos += 4
			x.enqueue(directive{kind: kind, n: 4, id: m.ID, algo: m.Kind})
		}
	case abi.ActWant:
		w := abi.Overlay[abi.Want](rec)
		if w.Min == 0 || w.Min > w.Max || w.Max > abi.MaxWant {
			x.violate(inReceiving, "it wants windows of %d to %d bytes; 1 to %d are possible", w.Min, w.Max, abi.MaxWant)
			return
		}
		s.min, s.max = w.Min, w.Max
	}
}

func (x *Executor) algorithm(kind uint32, allowed ...uint32) bool {
	for _, k := range allowed {
		if k == kind {
			return true
		}
	}
	x.violate(inDigests, "unknown kind of digest %d", kind)
	return false
}

func (x *Executor) sessionAction(kind uint16, rec []byte) {
	switch kind {
	case abi.ActLimits:
		x.limits(rec)
	case abi.ActTimer:
		x.setTimer(abi.Overlay[abi.SetTimer](rec))
	case abi.ActPublish:
		if x.o.Conn != 0 {
			x.violate(inSession, "connection %d published session data; only connection 0 may", x.o.Conn)
		}
		x.Published = append([]byte(nil), x.inline(rec, abi.Overlay[abi.SessionData](rec).Len, abi.MaxSession)...)
	case abi.ActMessage:
		x.message(rec)
	case abi.ActFail:
		f := abi.Overlay[abi.Fail](rec)
		if f.Scope < abi.FailConn || f.Scope > abi.FailForever || f.Len == 0 || f.Status > uint32(block.MaxStatus) {
			x.violate(inSession, "a failure of scope %d with errno %d and %d bytes of text", f.Scope, f.Status, f.Len)
		}
		x.Failed = &Failure{f.Scope, block.Status(f.Status), string(x.inline(rec, f.Len, abi.MaxText))}
	case abi.ActClose:
		x.Closing = true
	case abi.ActState:
		x.stateRecord(rec)
	case abi.ActPath:
		x.Paths = append(x.Paths, abi.Overlay[abi.PathState](rec).State)
	case abi.ActRedirect:
		h := abi.Overlay[abi.Bytes](rec)
		x.Redirects = append(x.Redirects, Redirect{string(x.inline(rec, h.Len, abi.MaxText)), h.Flags&abi.FlagPermanent != 0})
	case abi.ActLog:
		x.Logs = append(x.Logs, string(x.inline(rec, abi.Overlay[abi.Bytes](rec).Len, abi.MaxText)))
	}
}

func (x *Executor) message(rec []byte) {
	m := abi.Overlay[abi.Message](rec)
	b := x.inline(rec, m.Len, abi.MaxInline)
	if m.Conn == x.o.Conn {
		x.violate(inSession, "connection %d sends a message to itself", m.Conn)
		return
	}
	x.Messages = append(x.Messages, Message{m.Conn, string(b)})
	if x.o.Deliver != nil {
		data := append([]byte(nil), b...)
		x.after = append(x.after, func() { x.o.Deliver(m.Conn, data) })
	}
}

func (x *Executor) setTimer(s *abi.SetTimer) {
	switch {
	case s.ID >= abi.MaxTimers:
		x.violate(inLimits, "timer %d is set; a connection has timers 0 to %d", s.ID, abi.MaxTimers-1)
	case s.After == 0:
		delete(x.timers, s.ID)
	default:
		x.timers[s.ID] = x.mono + max(s.After, abi.MinTimerNS)
	}
}

func (x *Executor) limits(rec []byte) {
	l := abi.Overlay[abi.Limits](rec)
	v := protocol.Limits{
		Info: block.Info{
			Size: l.Size, BlockSize: l.BlockSize, PreferredBlock: l.Preferred, MaxTransfer: l.MaxTransfer,
			MaxZeroes: l.MaxZeroes, MaxDiscard: l.MaxDiscard, Caps: block.Caps(l.Caps),
			Identity: string(x.inline(rec, l.IdentityLen, abi.MaxText)),
		},
		Depth: l.Depth, MaxConns: l.MaxConns, Fence: l.Fence, FenceNS: l.FenceNS, Handover: l.Handover == 1,
	}
	x.checkLimits(&v)
	x.News = append(x.News, v)
	x.Limits = &v
}

// checkLimits checks that limits make sense.
func (x *Executor) checkLimits(l *protocol.Limits) {
	power := func(v uint32) bool { return v != 0 && v&(v-1) == 0 }
	switch b := uint64(l.BlockSize); {
	case !power(l.BlockSize) || l.BlockSize > 64<<10:
		x.violate(inSession, "limits: block size %d is no power of two from 1 to 65536", b)
	case l.Size%b != 0:
		x.violate(inSession, "limits: size %d is no multiple of the block size %d", l.Size, b)
	case !power(l.PreferredBlock) || l.PreferredBlock < l.BlockSize:
		x.violate(inSession, "limits: preferred block size %d is no power of two from %d up", l.PreferredBlock, b)
	case uint64(l.MaxTransfer)%b != 0 || l.MaxZeroes%b != 0 || l.MaxDiscard%b != 0:
		x.violate(inSession, "limits: a maximum is no multiple of the block size")
	case l.MaxConns == 0:
		x.violate(inSession, "limits: no connections at all")
	case l.Has(block.CapFastZero) && !l.Has(block.CapWriteZeroes):
		x.violate(inSession, "limits: fast zeroes without write-zeroes")
	case l.Fence > abi.FenceQuiesce:
		x.violate(inDuties, "limits: unknown fence %d", l.Fence)
	}
}
