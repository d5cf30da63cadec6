package protocol

import (
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// Actions collects what a plugin wants done, as records in the output buffer.
// Its methods do not fail and, while the buffer has room, do not allocate.
//
// The records of the data path are written field by field behind one check for
// room: in WebAssembly each call that is not inlined costs as much as a record.
type Actions struct {
	base  unsafe.Pointer // the output buffer
	n     int            // bytes of it in use
	limit int            // its length, or -1 while spill holds records
	buf   []byte         // the output buffer
	spill []byte         // whole records that found no room, given out by later calls
}

// newActions makes Actions over an output buffer that starts at a multiple of 8.
func newActions(out []byte) Actions {
	return Actions{base: unsafe.Pointer(unsafe.SliceData(out)), limit: len(out), buf: out}
}

// room gives size bytes (a multiple of 8) for one record.
func (a *Actions) room(size int) unsafe.Pointer {
	if n := a.n + size; n <= a.limit {
		a.n = n
		return unsafe.Add(a.base, n-size)
	}
	return a.roomSpill(size)
}

// roomSpill gives room in the spill.
//
//go:noinline
func (a *Actions) roomSpill(size int) unsafe.Pointer {
	at := len(a.spill)
	if cap(a.spill)-at < size {
		// A multiple of 8 of a uint64 slice keeps the records aligned.
		words := make([]uint64, (2*cap(a.spill)+size+4096)/8)
		grown := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)
		a.spill = grown[:copy(grown, a.spill)]
	}
	a.spill = a.spill[:at+size]
	a.limit = -1
	clear(a.spill[at:])
	return unsafe.Pointer(&a.spill[at])
}

// Raw gives the free part of the output buffer, for a plugin that lays the
// records of its hottest path by itself, with package abi: whole records, from
// the start on, of which Wrote then tells the length. It is empty while there
// is a spill, which goes out first.
func (a *Actions) Raw() []byte {
	if a.limit < 0 {
		return nil
	}
	return a.buf[a.n:]
}

// Wrote adds the first n bytes of what Raw gave to the actions.
func (a *Actions) Wrote(n int) { a.n += n }

// drain starts a new call: it moves what had spilled to the output buffer, as
// many whole records as fit.
func (a *Actions) drain() {
	a.n = 0
	rest := a.spill
	for {
		rec, next, ok := abi.Next(rest)
		if !ok || a.n+len(rec) > len(a.buf) {
			break
		}
		a.n += copy(a.buf[a.n:], rec)
		rest = next
	}
	a.spill = a.spill[:copy(a.spill, rest)]
	if len(rest) == 0 {
		a.limit = len(a.buf)
	}
}

// undo takes back the records from the given places on.
func (a *Actions) undo(n, spilt int) {
	a.n, a.spill = n, a.spill[:spilt]
	if spilt == 0 {
		a.limit = len(a.buf)
	}
}

// header makes a Header in a register.
func header(kind, flags uint16, size int) abi.Header {
	return abi.Header{Kind: kind, Flags: flags, Size: uint32(size)}
}

// record reserves a record of type T with extra inline bytes and fills in its
// header.
func record[T any](a *Actions, kind uint16, extra int) (*T, []byte) {
	fixed := int(unsafe.Sizeof(*new(T)))
	size := abi.Align(fixed + extra)
	p := a.room(size)
	*(*abi.Header)(p) = header(kind, 0, size)
	return (*T)(p), unsafe.Slice((*byte)(unsafe.Add(p, fixed)), extra)
}

// Sizes of the records of the data path.
const (
	sizeBytes    = int(unsafe.Sizeof(abi.Bytes{}))
	sizeRange    = int(unsafe.Sizeof(abi.Range{}))
	sizeCount    = int(unsafe.Sizeof(abi.Count{}))
	sizeComplete = int(unsafe.Sizeof(abi.Complete{}))
)

// Send queues a copy of b to be sent.
func (a *Actions) Send(b []byte) {
	for len(b) > abi.MaxInline {
		copy(a.SendBuffer(abi.MaxInline), b)
		b = b[abi.MaxInline:]
	}
	copy(a.SendBuffer(len(b)), b)
}

// SendBuffer queues n bytes, at most abi.MaxInline, to be sent and returns
// them for the caller to fill in: what they hold is unspecified. They are
// valid until the next action.
func (a *Actions) SendBuffer(n int) []byte {
	size := abi.Align(sizeBytes + n)
	p := a.room(size)
	r := (*abi.Bytes)(p)
	r.Header = header(abi.ActSend, 0, size)
	r.Len = uint32(n)
	return unsafe.Slice((*byte)(unsafe.Add(p, sizeBytes)), n)
}

// SendPayload queues bytes [from, to) of a write's payload to be sent.
func (a *Actions) SendPayload(tag, from, to uint64) { a.ranged(abi.ActSendPayload, tag, from, to) }

// Receive directs the next to-from bytes of the stream into a read's payload
// at from. Pieces may come in any order but must not overlap.
func (a *Actions) Receive(tag, from, to uint64) { a.ranged(abi.ActReceive, tag, from, to) }

// Zero says that bytes [from, to) of a read's payload are zeroes.
func (a *Actions) Zero(tag, from, to uint64) { a.ranged(abi.ActZero, tag, from, to) }

func (a *Actions) ranged(kind uint16, tag, from, to uint64) {
	r := (*abi.Range)(a.room(sizeRange))
	r.Header = header(kind, 0, sizeRange)
	r.Tag, r.From, r.To = tag, from, to
}

// Discard throws the next n bytes of the stream away.
func (a *Actions) Discard(n uint64) { a.count(abi.ActDiscard, n) }

// Want asks for windows of min to max bytes; both at most abi.MaxWant.
func (a *Actions) Want(min, max uint32) {
	r, _ := record[abi.Want](a, abi.ActWant, 0)
	r.Min, r.Max = min, max
}

// Complete ends a request. It takes effect when the stream actions that were
// given before it have been carried out.
func (a *Actions) Complete(tag uint64, s block.Status) {
	a.complete(abi.ActComplete, tag, uint32(s), 0)
}

// CompletePartial ends a request of which done bytes were done.
func (a *Actions) CompletePartial(tag uint64, s block.Status, done uint64) {
	a.complete(abi.ActComplete, tag, uint32(s), done)
}

// Released answers Abort: the request will not be completed. executed says
// whether the server may have executed it.
func (a *Actions) Released(tag uint64, executed bool) {
	s := uint32(0)
	if executed {
		s = 1
	}
	a.complete(abi.ActReleased, tag, s, 0)
}

func (a *Actions) complete(kind uint16, tag uint64, s uint32, done uint64) {
	r := (*abi.Complete)(a.room(sizeComplete))
	r.Header = header(kind, 0, sizeComplete)
	r.Tag, r.Status, r.Done = tag, s, done
}

// Extent adds the next extent to a block status.
func (a *Actions) Extent(tag, length uint64, state block.ExtentState) {
	r, _ := record[abi.Extent](a, abi.ActExtent, 0)
	*r = abi.Extent{Header: r.Header, Tag: tag, Length: length, State: uint32(state)}
}

// Ready says that n more requests can be taken, after Submit took fewer than
// it was offered.
func (a *Actions) Ready(n uint64) { a.count(abi.ActReady, n) }

func (a *Actions) count(kind uint16, n uint64) {
	r := (*abi.Count)(a.room(sizeCount))
	r.Header = header(kind, 0, sizeCount)
	r.N = n
}

// Data gives bytes of a read's payload, for a plugin that transforms it.
func (a *Actions) Data(tag, from uint64, b []byte) {
	for {
		n := min(len(b), abi.MaxInline)
		r, dst := record[abi.Payload](a, abi.ActData, n)
		r.Tag, r.From, r.Len = tag, from, uint32(n)
		copy(dst, b)
		if b, from = b[n:], from+uint64(n); len(b) == 0 {
			return
		}
	}
}

// Limits says what the disk and the connection are. The first one says that
// login is done; later ones are news.
type Limits struct {
	block.Info
	Depth    uint32 // requests outstanding at most; 0: as many as offered
	MaxConns uint32 // connections that the session may have; 0 means 1
	Fence    uint32 // abi.Fence…
	FenceNS  uint64 // for abi.FenceQuiesce
	Handover bool   // Save is supported
}

// Limits reports the disk and the connection's limits.
func (a *Actions) Limits(l *Limits) {
	r, b := record[abi.Limits](a, abi.ActLimits, min(len(l.Identity), abi.MaxText))
	*r = abi.Limits{
		Header: r.Header, Size: l.Size, MaxZeroes: l.MaxZeroes, MaxDiscard: l.MaxDiscard,
		FenceNS: l.FenceNS, BlockSize: l.BlockSize, Preferred: l.PreferredBlock,
		MaxTransfer: l.MaxTransfer, Caps: uint32(l.Caps), Depth: l.Depth,
		MaxConns: max(l.MaxConns, 1), Fence: l.Fence, IdentityLen: uint32(len(b)),
	}
	if l.Handover {
		r.Handover = 1
	}
	copy(b, l.Identity)
}

// SetTimer makes timer id (below abi.MaxTimers) fire once in after ns; 0
// cancels it.
func (a *Actions) SetTimer(id uint32, after uint64) {
	r, _ := record[abi.SetTimer](a, abi.ActTimer, 0)
	*r = abi.SetTimer{Header: r.Header, ID: id, After: after}
}

// Publish makes data, at most abi.MaxSession bytes, the session's data.
func (a *Actions) Publish(data []byte) {
	r, b := record[abi.SessionData](a, abi.ActPublish, min(len(data), abi.MaxSession))
	r.Len = uint32(len(b))
	copy(b, data)
}

// Message sends data, at most abi.MaxInline bytes, to connection to of the
// same session.
func (a *Actions) Message(to uint32, data []byte) {
	r, b := record[abi.Message](a, abi.ActMessage, min(len(data), abi.MaxInline))
	r.Conn, r.Len = to, uint32(len(b))
	copy(b, data)
}

// Fail ends the connection, the session, or for ever (abi.Fail…). The text
// says what is wrong and how to mend it.
func (a *Actions) Fail(scope uint32, s block.Status, text string) {
	r, b := record[abi.Fail](a, abi.ActFail, min(len(text), abi.MaxText))
	*r = abi.Fail{Header: r.Header, Scope: scope, Status: uint32(s), Len: uint32(len(b))}
	copy(b, text)
}

// Close closes the connection when what is queued has been sent.
func (a *Actions) Close() { record[abi.Header](a, abi.ActClose, 0) }

// State answers Save, with at most abi.MaxState bytes.
func (a *Actions) State(b []byte) {
	for len(b) > abi.MaxInline {
		a.inline(abi.ActState, abi.FlagMore, b[:abi.MaxInline])
		b = b[abi.MaxInline:]
	}
	a.inline(abi.ActState, 0, b)
}

func (a *Actions) inline(kind, flags uint16, b []byte) {
	r, dst := record[abi.Bytes](a, kind, len(b))
	r.Flags, r.Len = flags, uint32(len(b))
	copy(dst, b)
}

// Path reports the path's state (abi.Path…).
func (a *Actions) Path(state uint32) {
	r, _ := record[abi.PathState](a, abi.ActPath, 0)
	r.State = state
}

// Redirect asks the engine to connect to another address, which it does if the
// configuration allows it.
func (a *Actions) Redirect(address string, permanent bool) {
	flags := uint16(0)
	if permanent {
		flags = abi.FlagPermanent
	}
	a.inline(abi.ActRedirect, flags, []byte(address[:min(len(address), abi.MaxText)]))
}

// Log writes a line to the engine's log.
func (a *Actions) Log(level uint16, text string) {
	r, b := record[abi.Bytes](a, abi.ActLog, min(len(text), abi.MaxText))
	r.Flags, r.Len = level, uint32(len(b))
	copy(b, text)
}

// Hash asks for the digest of bytes [from, to) of a write's payload; Digest
// brings it. What is sent of that payload from now on is the copy hashed.
func (a *Actions) Hash(id, kind uint32, tag, from, to uint64) {
	r, _ := record[abi.Hash](a, abi.ActHash, 0)
	*r = abi.Hash{Header: r.Header, ID: id, Kind: kind, Tag: tag, From: from, To: to}
}

// SendDigest sends the digest of everything that was sent with Digested since
// the last one.
func (a *Actions) SendDigest(kind uint32) { a.digest(abi.ActSendDigest, 0, kind) }

// CheckDigest compares the next bytes of the stream with the digest of
// everything received with Digested since the last one; Digest brings the
// outcome under id.
func (a *Actions) CheckDigest(id, kind uint32) { a.digest(abi.ActCheckDigest, id, kind) }

func (a *Actions) digest(kind uint16, id, digest uint32) {
	r, _ := record[abi.DigestMark](a, kind, 0)
	r.ID, r.Kind = id, digest
}

// SendDigested, SendPayloadDigested, ReceiveDigested and DiscardDigested are
// Send, SendPayload, Receive and Discard whose bytes count in the running
// digest of their stream.
func (a *Actions) SendDigested(b []byte) {
	for len(b) > abi.MaxInline {
		a.inline(abi.ActSend, abi.FlagDigest, b[:abi.MaxInline])
		b = b[abi.MaxInline:]
	}
	a.inline(abi.ActSend, abi.FlagDigest, b)
}

// SendPayloadDigested: see SendDigested.
func (a *Actions) SendPayloadDigested(tag, from, to uint64) {
	a.rangedDigested(abi.ActSendPayload, tag, from, to)
}

// ReceiveDigested: see SendDigested.
func (a *Actions) ReceiveDigested(tag, from, to uint64) {
	a.rangedDigested(abi.ActReceive, tag, from, to)
}

func (a *Actions) rangedDigested(kind uint16, tag, from, to uint64) {
	r, _ := record[abi.Range](a, kind, 0)
	r.Flags = abi.FlagDigest
	r.Tag, r.From, r.To = tag, from, to
}

// DiscardDigested: see SendDigested.
func (a *Actions) DiscardDigested(n uint64) {
	r, _ := record[abi.Count](a, abi.ActDiscard, 0)
	r.Flags, r.N = abi.FlagDigest, n
}
