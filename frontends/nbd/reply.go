package nbd

import "blockengine/sdk/block"

// answer puts the reply to a finished request behind what is to be sent. What
// it sends from changes hands: the pieces have it then.
func (c *conn) answer(q *request) {
	switch {
	case q.io.Status != block.OK:
		c.answerError(q)
	case q.io.Op == block.OpRead:
		c.answerRead(q)
	case q.io.Op == block.OpBlockStatus:
		c.answerStatus(q)
	default:
		c.putDone(q.tx.mem[q.at:], q.cookie, q.offset)
		c.push(q.tx, q.at, q.at+q.room)
		q.tx = nil
	}
}

func (c *conn) answerRead(q *request) {
	n := len(q.segs[0])
	c.putRead(q.tx.mem[q.at:], q.cookie, q.offset, n)
	if q.buf == nil {
		c.push(q.tx, q.at, q.at+q.room+n)
	} else {
		c.push(q.tx, q.at, q.at+q.room)
		c.out = append(c.out, piece{buf: q.buf, to: n})
		q.buf = nil
	}
	q.tx = nil
}

// chunked tells operations whose errors are chunks where there are any.
func chunked(op block.Op) bool { return op == block.OpRead || op == block.OpBlockStatus }

// answerError uses the place of a reply that is not sent, if it is there and
// large enough.
func (c *conn) answerError(q *request) {
	e := errno(q.io.Status)
	if q.tx == nil || q.room < maxErrorRoom && c.framing == extended {
		k, at := c.place(maxErrorRoom)
		n := c.putError(k.mem[at:], e, q.cookie, q.offset, chunked(q.io.Op))
		c.push(k, at, at+n)
		return
	}
	n := c.putError(q.tx.mem[q.at:], e, q.cookie, q.offset, chunked(q.io.Op))
	c.push(q.tx, q.at, q.at+n)
	q.tx = nil
}

// sayError answers a request that has not gone to the volume.
func (c *conn) sayError(h *header, e uint32) {
	chunk := h.command == cmdRead || h.command == cmdBlockStatus
	k, at := c.place(maxErrorRoom)
	n := c.putError(k.mem[at:], e, h.cookie, h.offset, chunk)
	c.push(k, at, at+n)
}

// say sends bytes as they are.
func (c *conn) say(b []byte) {
	for len(b) > 0 {
		n := min(len(b), chunkBytes)
		k, at := c.place(n)
		copy(k.mem[at:], b[:n])
		c.push(k, at, at+n)
		b = b[n:]
	}
}

// answerStatus writes the extents of a block status as one chunk.
func (c *conn) answerStatus(q *request) {
	ext := tidy(q.io.Extents, q.io.Length, q.io.Flags&block.OneExtent != 0)
	if len(ext) == 0 {
		q.io.Status = block.EIO // the device said nothing about the range
		c.answerError(q)
		return
	}
	k, at := c.place(c.statusRoom(len(ext)))
	n := c.putStatus(k.mem[at:], q.cookie, q.offset, ext)
	c.push(k, at, at+n)
}

// tidy joins neighbours of the same state and ends with the range asked for,
// in place.
func tidy(ext []block.Extent, length uint64, one bool) []block.Extent {
	n := 0
	for _, e := range ext {
		if e.Length = min(e.Length, length); e.Length == 0 {
			continue
		}
		length -= e.Length
		if n > 0 && ext[n-1].State == e.State {
			ext[n-1].Length += e.Length
			continue
		}
		if one && n == 1 {
			break
		}
		ext[n] = e
		n++
	}
	return ext[:n]
}

// statusRoom is the size of a block status reply with n extents.
func (f framing) statusRoom(n int) int {
	if f == extended {
		return extReplySize + 8 + 16*n
	}
	return chunkSize + 4 + 8*n
}

// putStatus writes a block status reply and gives its size. What an extent
// says is what the protocol's bits say: bit 0 a hole, bit 1 zeroes. The volume
// reports no more than 1 GiB at a time, so that 32 bits hold every length.
func (f framing) putStatus(b []byte, cookie, offset uint64, ext []block.Extent) int {
	size := f.statusRoom(len(ext))
	if f == extended {
		rest := f.putChunk(b, replyBlockStatusExt, cookie, offset, size-extReplySize)
		be.PutUint32(rest, baseAllocationID)
		be.PutUint32(rest[4:], uint32(len(ext)))
		for i, e := range ext {
			be.PutUint64(rest[8+16*i:], e.Length)
			be.PutUint64(rest[16+16*i:], uint64(e.State))
		}
		return size
	}
	rest := f.putChunk(b, replyBlockStatus, cookie, offset, size-chunkSize)
	be.PutUint32(rest, baseAllocationID)
	for i, e := range ext {
		be.PutUint32(rest[4+8*i:], uint32(e.Length))
		be.PutUint32(rest[8+8*i:], uint32(e.State))
	}
	return size
}
