package nbd

import (
	"math/bits"

	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// commands gives the third and fourth word of a request header, flags and
// type, for op*16+mods, ready to be stored.
var commands = makeCommands()

// withPayloadLen is the flag that extended headers want on a write, as it
// stands in a word of commands.
var withPayloadLen = bits.ReverseBytes32(cmdFlagPayloadLen << 16)

func makeCommands() (words [(block.MaxOp + 1) * 16]uint32) {
	types := [block.MaxOp + 1]uint32{
		block.OpRead: cmdRead, block.OpWrite: cmdWrite, block.OpFlush: cmdFlush, block.OpDiscard: cmdTrim,
		block.OpWriteZeroes: cmdWriteZeroes, block.OpBlockStatus: cmdBlockStatus, block.OpCache: cmdCache,
	}
	for op := block.OpRead; op <= block.MaxOp; op++ {
		for mods := range block.Flags(16) {
			words[int(op)*16+int(mods)] = bits.ReverseBytes32(commandFlags(op, mods)<<16 | types[op])
		}
	}
	return words
}

// commandFlags gives the flags of a request; those that its type does not know
// are left out, because a server may refuse them ("Command flags").
func commandFlags(op block.Op, mods block.Flags) (flags uint32) {
	if op.Modifies() && mods&block.FUA != 0 {
		flags |= cmdFlagFUA
	}
	if op == block.OpWriteZeroes && mods&block.NoHole != 0 {
		flags |= cmdFlagNoHole
	}
	if op == block.OpWriteZeroes && mods&block.FastZero != 0 {
		flags |= cmdFlagFastZero
	}
	if op == block.OpBlockStatus && mods&block.OneExtent != 0 {
		flags |= cmdFlagReqOne
	}
	return flags
}

// Submit sends requests. Runs of them that carry no payload go out as one
// piece, so that the engine has few records to look at.
func (c *conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	if c.phase != phaseReady {
		return len(batch) // the connection has failed; they are replayed on another
	}
	taken := c.submitFast(a, batch)
	for taken < len(batch) {
		room := maxDepth - c.table.used
		if room == 0 {
			c.windowed = true
			break
		}
		rest := batch[taken:]
		if n := c.plain(rest[:min(room, len(rest))]); n > 0 {
			c.submitPlain(a, rest[:n])
			taken += n
			continue
		}
		c.submitOne(a, &rest[0])
		taken++
	}
	return taken
}

// plain counts the requests at the start of batch that are sent as a header
// and nothing else, with a length that every request may have.
func (c *conn) plain(batch []protocol.Request) int {
	limit := uint64(c.maxPayload)
	for i := range batch {
		r := &batch[i]
		if r.Op == block.OpWrite || r.Length > limit || r.Op-block.OpRead >= block.MaxOp {
			return i
		}
	}
	return len(batch)
}

func (c *conn) submitPlain(a *protocol.Actions, batch []protocol.Request) {
	size := c.headerSize()
	b := a.SendBuffer(len(batch) * size)
	for i := range batch {
		r := &batch[i]
		c.header(b, command(r), r.Tag, r.Offset, r.Length)
		b = b[size:]
		c.add(r, r.Length)
	}
}

// submitOne sends a write, or a request that is somehow out of the ordinary.
func (c *conn) submitOne(a *protocol.Actions, r *protocol.Request) {
	length := r.Length
	switch {
	case !r.Op.Valid():
		a.Complete(r.Tag, block.ENOTSUP)
		return
	case length <= uint64(c.maxPayload):
	case r.Op == block.OpCache:
		length = uint64(c.maxPayload) // a hint; servers refuse longer ones
	case r.Op == block.OpBlockStatus:
		length = min(length, c.effectLimit()) // an answer may be shorter than asked for
	case r.Op.HasPayload() || length > c.effectLimit():
		a.Complete(r.Tag, block.EINVAL) // beyond what Limits promised
		return
	}
	word := command(r)
	if r.Op == block.OpWrite && c.form == formExtended {
		word |= withPayloadLen
	}
	c.header(a.SendBuffer(c.headerSize()), word, r.Tag, r.Offset, length)
	if r.Op == block.OpWrite {
		a.SendPayload(r.Tag, 0, length)
	}
	c.add(r, length)
}

// effectLimit is the longest request without payload.
func (c *conn) effectLimit() uint64 {
	if c.maxEffect == 0 {
		return 1<<64 - 1
	}
	return c.maxEffect
}

func command(r *protocol.Request) uint32 {
	return commands[(int(r.Op)*16+int(r.Mods&15))%len(commands)]
}

func (c *conn) headerSize() int {
	if c.form == formExtended {
		return sizeRequestExt
	}
	return sizeRequest
}

// header writes a request header ("Request message"). word is from commands.
// The cookie means nothing to the server and keeps the machine's byte order.
func (c *conn) header(b []byte, word uint32, tag, offset, length uint64) {
	if c.form == formExtended {
		b = b[:sizeRequestExt]
		putNative32(b, bits.ReverseBytes32(magicRequestExt))
		putNative64(b[24:], bits.ReverseBytes64(length))
	} else {
		b = b[:sizeRequest]
		putNative32(b, bits.ReverseBytes32(magicRequest))
		put32(b[24:], uint32(length))
	}
	putNative32(b[4:], word)
	putNative64(b[8:], tag^c.mask)
	putNative64(b[16:], bits.ReverseBytes64(offset))
}

// add notes a request as outstanding.
func (c *conn) add(r *protocol.Request, length uint64) {
	s := c.table.add(r.Tag)
	s.tag, s.offset, s.length = r.Tag, r.Offset, length
	s.op, s.one, s.status, s.failed = r.Op, r.Mods&block.OneExtent != 0, false, 0
	s.left, s.lo, s.hi, s.pieces = uint32(length), 0, 0, 0
}

// complete ends a request.
func (c *conn) complete(a *protocol.Actions, s *slot, status block.Status) {
	a.Complete(s.tag, status)
	if s.pieces != 0 {
		c.pool.giveAll(s)
	}
	c.table.remove(s)
	if c.windowed {
		a.Ready(1)
	}
}
