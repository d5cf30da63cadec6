package nbd

import (
	"math/bits"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// Bounds on chunks, far above what the text allows a server.
const (
	maxErrorChunk  = 8 << 10  // an error, its message and fields to come
	maxStatusChunk = 32 << 20 // the text: 8 MiB
	maxErrorsShown = 16       // error messages logged for each connection
)

// header is that of a structured or extended reply chunk.
type header struct {
	size   int // bytes of the header itself
	kind   uint16
	done   bool
	length uint64 // bytes of payload
	s      *slot
}

// chunkStart handles a chunk whose header is there ("Structured reply chunk
// message", "Extended reply chunk message").
func (c *conn) chunkStart(a *protocol.Actions, b []byte, size int, length uint64) (used, need int) {
	s := c.table.find(native64(b[8:]) ^ c.mask)
	if s == nil {
		return c.stranger(a, b)
	}
	if size == sizeReplyExt && get64(b[16:]) != s.offset {
		return c.wrongOffset(a, s, get64(b[16:]))
	}
	h := header{size: size, kind: get16(b[6:]), done: b[5]&replyDone != 0, length: length, s: s}
	switch {
	case h.kind == chunkOffsetData:
		return c.data(a, b, &h)
	case h.kind == chunkNone:
		return c.none(a, &h)
	case h.kind == chunkOffsetHole:
		return c.hole(a, b, &h)
	case h.kind == chunkBlockStatus && c.form == formStructured,
		h.kind == chunkBlockStatusExt && c.form == formExtended:
		return c.blockStatus(a, b, &h)
	case h.kind&chunkErr != 0:
		return c.failure(a, b, &h)
	}
	return c.wrongKind(a, &h)
}

//go:noinline
func (c *conn) wrongOffset(a *protocol.Actions, s *slot, offset uint64) (used, need int) {
	return c.broken(a, "a reply to "+describe(s)+" says that the request was at "+decimal(offset))
}

//go:noinline
func (c *conn) wrongKind(a *protocol.Actions, h *header) (used, need int) {
	return c.brokenChunk(a, h, "has type "+decimal(uint64(h.kind))+", which does not fit what was negotiated")
}

//go:noinline
func (c *conn) brokenLength(a *protocol.Actions, h *header, text string) (used, need int) {
	return c.brokenChunk(a, h, text+decimal(h.length))
}

//go:noinline
func (c *conn) brokenChunk(a *protocol.Actions, h *header, text string) (used, need int) {
	return c.broken(a, "a chunk of the reply to "+describe(h.s)+" "+text)
}

// data directs the bytes of an OFFSET_DATA chunk into the read.
func (c *conn) data(a *protocol.Actions, b []byte, h *header) (used, need int) {
	s := h.s
	switch {
	case s.op != block.OpRead:
		return c.brokenChunk(a, h, "has data")
	case h.length < 9:
		return c.brokenLength(a, h, "has no data: its length is ")
	case len(b) < h.size+8:
		return 0, h.size + 8
	}
	from, n := bits.ReverseBytes64(native64(b[h.size:]))-s.offset, h.length-8
	if from == 0 && n == s.length && n == uint64(s.left) {
		s.left = 0 // the whole read in one piece, as nearly always
	} else if text := c.describes(s, from, n); text != "" {
		return c.brokenChunk(a, h, text)
	}
	a.Receive(s.tag, from, from+n)
	if h.done {
		c.finish(a, s)
	}
	return h.size + 8, directed
}

// hole zeroes a part of the read.
func (c *conn) hole(a *protocol.Actions, b []byte, h *header) (used, need int) {
	s := h.s
	switch {
	case s.op != block.OpRead:
		return c.brokenChunk(a, h, "has a hole of data")
	case h.length != 12:
		return c.brokenChunk(a, h, "is a hole with the length "+decimal(h.length))
	case len(b) < h.size+12:
		return 0, h.size + 12
	}
	from, n := get64(b[h.size:])-s.offset, uint64(get32(b[h.size+8:]))
	if n == 0 {
		return c.brokenChunk(a, h, "is an empty hole")
	}
	if text := c.describes(s, from, n); text != "" {
		return c.brokenChunk(a, h, text)
	}
	a.Zero(s.tag, from, from+n)
	return c.end(a, h, h.size+12)
}

// describes notes that n bytes of a read, from an offset relative to it, are
// described by a content chunk. A text says what is wrong with that. An offset
// before the read has wrapped around and is far outside it.
func (c *conn) describes(s *slot, from, n uint64) string {
	if from >= s.length || n > s.length-from {
		return "lies outside the request: " + decimal(n) + " bytes at " + decimal(s.offset+from)
	}
	switch c.pool.cover(s, uint32(from), uint32(from+n)) {
	case coverOverlap:
		return "overlaps an earlier one: " + decimal(n) + " bytes at " + decimal(s.offset+from)
	case coverScattered:
		return "is one too many: the replies are too scattered"
	}
	return ""
}

// none handles NONE, which only ends a reply.
func (c *conn) none(a *protocol.Actions, h *header) (used, need int) {
	if h.length != 0 || !h.done {
		return c.brokenChunk(a, h, "is of type NONE, yet has a payload or is not the last")
	}
	return c.end(a, h, h.size)
}

// end finishes the reply if the chunk was its last.
func (c *conn) end(a *protocol.Actions, h *header, size int) (used, need int) {
	if h.done {
		c.finish(a, h.s)
		if c.phase == phaseDead {
			return 0, directed
		}
	}
	return size, 0
}

// finish completes a request whose reply has ended, if it may end so.
func (c *conn) finish(a *protocol.Actions, s *slot) {
	switch {
	case s.failed != block.OK:
		c.complete(a, s, s.failed)
	case s.op == block.OpRead && s.left != 0:
		c.violation(a, "its reply to "+describe(s)+" ended with "+decimal(uint64(s.left))+" bytes missing")
	case s.op == block.OpBlockStatus && !s.status:
		c.violation(a, "its reply to "+describe(s)+" ended without a status of "+contextAllocation)
	default:
		c.complete(a, s, block.OK)
	}
}

// failure handles an error chunk of any type: all begin alike. Its offset, if
// it has one, is checked and not used, because a failed request's data is not.
func (c *conn) failure(a *protocol.Actions, b []byte, h *header) (used, need int) {
	fixed := uint64(6)
	if h.kind == chunkErrorOffset {
		fixed = 14
	}
	if h.length < fixed || h.length > maxErrorChunk {
		return c.brokenChunk(a, h, "is an error with the length "+decimal(h.length))
	}
	size := h.size + int(h.length)
	if len(b) < size {
		return 0, size
	}
	err, n := get32(b[h.size:]), uint64(get16(b[h.size+4:]))
	switch {
	case err == 0:
		return c.brokenChunk(a, h, "is an error without a number")
	case n > h.length-fixed || n > maxString:
		return c.brokenChunk(a, h, "has an error message of "+decimal(n)+" bytes, more than its length holds")
	case h.kind == chunkErrorOffset && h.s.op != block.OpFlush &&
		get64(b[h.size+6+int(n):])-h.s.offset >= h.s.length:
		return c.brokenChunk(a, h, "has an error at an offset outside the request")
	}
	status := statusOf(err)
	if status == block.ESHUTDOWN {
		return c.shutdown(a)
	}
	if h.s.failed == block.OK {
		h.s.failed = status
	}
	if n > 0 {
		c.showError(a, h.s, status, b[h.size+6:h.size+6+int(n)])
	}
	return c.end(a, h, size)
}

// showError logs a server's own words, but not for ever.
func (c *conn) showError(a *protocol.Actions, s *slot, status block.Status, message []byte) {
	if c.errorsLogged++; c.errorsLogged > maxErrorsShown {
		return
	}
	a.Log(abi.LogWarn, "the NBD server failed "+describe(s)+" with "+status.String()+words(message))
}
