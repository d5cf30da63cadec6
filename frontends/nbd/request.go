package nbd

import (
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// request is a client's request on its way through the volume, and the memory
// that it has on loan.
type request struct {
	io     volume.IO
	cookie uint64
	offset uint64 // as the client said
	segs   [1][]byte

	rx  *chunk  // the payload lies in it
	buf *buffer // or in this, which may also be a read's data
	tx  *chunk  // where the reply begins, at [at, at+room)
	at  int
	// room is the header of a successful reply; of a read up to inlineBytes
	// the data follows in tx.
	room int
}

// operations gives the volume's operation for a command; 0 for DISC and for
// commands that do not exist.
var operations = [8]block.Op{
	cmdRead: block.OpRead, cmdWrite: block.OpWrite, cmdFlush: block.OpFlush, cmdTrim: block.OpDiscard,
	cmdCache: block.OpCache, cmdWriteZeroes: block.OpWriteZeroes, cmdBlockStatus: block.OpBlockStatus,
}

// volumeFlags translates command flags that have been checked.
func volumeFlags(f uint16) (v block.Flags) {
	if f&cmdFlagFUA != 0 {
		v |= block.FUA
	}
	if f&cmdFlagNoHole != 0 {
		v |= block.NoHole
	}
	if f&cmdFlagFastZero != 0 {
		v |= block.FastZero
	}
	if f&cmdFlagReqOne != 0 {
		v |= block.OneExtent
	}
	return v
}

// parseRequest begins the request at r, if it has come and may be begun.
func (c *conn) parseRequest() outcome {
	size := c.requestSize()
	if c.w-c.r < size {
		c.need = size
		return more
	}
	if c.inFlight >= maxInFlight || c.pieces() >= maxPieces {
		c.blocked = true
		return stalled
	}
	h, ok := c.decode(c.rx.mem[c.r:])
	if !ok {
		c.violate("request magic %#x", be.Uint32(c.rx.mem[c.r:]))
		return ended
	}
	if h.command == cmdDisc && !c.hasPayload(&h) {
		c.drain()
		return ended
	}
	if e := c.refusal(&h); e != 0 {
		return c.refuseRequest(&h, e)
	}
	switch h.command {
	case cmdRead:
		return c.beginRead(&h)
	case cmdWrite:
		return c.beginWrite(&h)
	}
	return c.beginPlain(&h)
}

// refusal gives the error of a request that the volume need not see, else 0.
func (c *conn) refusal(h *header) uint32 {
	if h.command > cmdBlockStatus || operations[h.command] == 0 || h.flags&^c.allowed[h.command] != 0 {
		return nbdEINVAL
	}
	switch h.command {
	case cmdRead:
		if h.length > maxPayload {
			if c.framing == simple {
				return nbdEINVAL
			}
			return nbdEOVERFLOW
		}
	case cmdWrite:
		if !c.hasPayload(h) || h.length > maxPayload {
			return nbdEINVAL
		}
	case cmdFlush:
		if h.offset|h.length != 0 {
			return nbdEINVAL
		}
	case cmdBlockStatus:
		if !c.status {
			return nbdEINVAL
		}
	}
	return 0
}

// refuseRequest answers with an error, after what was sent with the request
// has been skipped, unless that is so much that it must be meant as harm.
func (c *conn) refuseRequest(h *header, errno uint32) outcome {
	c.r += c.requestSize()
	if !c.hasPayload(h) {
		c.sayError(h, errno)
		return goOn
	}
	if h.length > 2*maxPayload || c.framing == extended && h.length > maxPayload {
		c.violate("payload of %d bytes, more than %d", h.length, maxPayload)
		return ended
	}
	c.skip, c.refuse, c.errno = h.length, *h, errno
	if c.skip == 0 {
		c.sayError(h, errno)
	}
	return goOn
}

// newRequest takes a request out of the pool and gives it a place among those
// in flight. The caller fills in what it loans.
func (c *conn) newRequest(h *header) *request {
	q := c.wk.pool.takeRequest()
	q.cookie, q.offset = h.cookie, h.offset
	q.io.Request = block.Request{
		Op: operations[h.command], Flags: volumeFlags(h.flags), Offset: h.offset, Length: h.length,
	}
	if n := len(c.free); n > 0 {
		q.io.Tag = uint64(c.free[n-1])
		c.free = c.free[:n-1]
		c.slots[q.io.Tag] = q
	} else {
		q.io.Tag = uint64(len(c.slots))
		c.slots = append(c.slots, q)
	}
	c.inFlight++
	return q
}

// beginRead reserves the place of the reply: header and data side by side, so
// that replies which are ready in order are one run of memory.
func (c *conn) beginRead(h *header) outcome {
	n, room := int(h.length), c.readRoom()
	if n > inlineBytes {
		return c.beginLargeRead(h)
	}
	if !c.fits(room+n) && !c.admit(chunkBytes, &c.wk.pool.serving) {
		return stalled
	}
	q := c.newRequest(h)
	c.reserve(q, room, room+n)
	if n > 0 {
		q.segs[0] = q.tx.mem[q.at+room : q.at+room+n]
		q.io.Data = q.segs[:]
	}
	return c.begun(q)
}

// beginLargeRead gives the data a buffer of its own.
func (c *conn) beginLargeRead(h *header) outcome {
	n, room := int(h.length), c.readRoom()
	_, bytes := bufferSize(n)
	if !c.admit(bytes+chunkBytes, &c.wk.pool.serving) {
		return stalled
	}
	q := c.newRequest(h)
	c.reserve(q, room, room)
	q.buf = c.wk.pool.takeBuffer(c, n)
	q.segs[0] = q.buf.mem[:n]
	q.io.Data = q.segs[:]
	return c.begun(q)
}

// begun moves past the header of a request that is complete.
func (c *conn) begun(q *request) outcome {
	c.r += c.requestSize()
	c.batch = append(c.batch, &q.io)
	return goOn
}

// beginPlain begins a request without data in either direction.
func (c *conn) beginPlain(h *header) outcome {
	q := c.newRequest(h)
	if h.command == cmdBlockStatus {
		q.io.Extents = c.wk.pool.takeExtents()
	} else {
		c.reserve(q, c.doneRoom(), c.doneRoom())
	}
	return c.begun(q)
}

// beginWrite borrows the payload where it lies, if all of it has come; else
// waits for it, if a chunk can hold it, or gives it a buffer. It is submitted
// only when whole (DESIGN chapter 2, rule 2).
func (c *conn) beginWrite(h *header) outcome {
	n, size := int(h.length), c.requestSize()
	have := c.w - c.r - size
	if have < n && n > inlineBytes {
		return c.beginLargeWrite(h, have)
	}
	c.large = false
	if have < n {
		c.need = size + n
		return more
	}
	q := c.newRequest(h)
	if n > 0 {
		q.rx = c.rx
		q.rx.refs++
		q.segs[0] = c.rx.mem[c.r+size : c.r+size+n]
		q.io.Data = q.segs[:]
	}
	c.reserve(q, c.doneRoom(), c.doneRoom())
	c.r += n
	return c.begun(q)
}

// beginLargeWrite gives a payload a buffer, into which the rest of it is
// received without a detour.
func (c *conn) beginLargeWrite(h *header, have int) outcome {
	n := int(h.length)
	_, bytes := bufferSize(n)
	if !c.admit(bytes+chunkBytes, &c.wk.pool.serving) {
		return stalled
	}
	q := c.newRequest(h)
	c.reserve(q, c.doneRoom(), c.doneRoom())
	q.buf = c.wk.pool.takeBuffer(c, n)
	q.segs[0] = q.buf.mem[:n]
	q.io.Data = q.segs[:]
	c.cur, c.curGot, c.large = q, 0, true
	c.r += c.requestSize()
	return c.takePayload(have)
}

// Completed takes finished requests back; it is the queue's.
func (c *conn) Completed(batch []*volume.IO) {
	for _, io := range batch {
		q := c.slots[io.Tag]
		if c.phase < closed {
			c.answer(q)
		}
		c.release(q)
	}
	if c.phase == closed {
		c.bury()
		return
	}
	c.flush()
	if c.blocked {
		c.blocked = false
		c.receive()
		return
	}
	if c.phase < closed {
		c.rest()
		c.settle()
	}
}

// release gives back what a request still has, and its place.
func (c *conn) release(q *request) {
	if q.rx != nil {
		c.wk.drop(q.rx, 1)
	}
	if q.buf != nil {
		c.wk.dropBuffer(q.buf)
	}
	if q.tx != nil {
		c.wk.drop(q.tx, 1)
	}
	if q.io.Extents != nil {
		c.wk.pool.dropExtents(q.io.Extents)
		q.io.Extents = nil
	}
	q.rx, q.buf, q.tx = nil, nil, nil
	c.slots[q.io.Tag] = nil
	c.free = append(c.free, uint16(q.io.Tag))
	c.inFlight--
	c.wk.pool.dropRequest(q)
}
