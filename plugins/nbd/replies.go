package nbd

import (
	"math/bits"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// The steps of this file and of chunks.go return how many bytes they used and
// what they need: 0 to go on, directed when an action directs the bytes that
// follow (or nothing more is to be read), else the number of bytes without
// which there is no step.

// transmission handles the stream of the transmission phase.
func (c *conn) transmission(a *protocol.Actions, b []byte) int {
	n := 0
	for {
		var used, need int
		if c.chunk.left != 0 {
			used, need = c.extents(a, b[n:])
		} else {
			used, need = c.reply(a, b[n:])
		}
		n += used
		if need == 0 {
			continue
		}
		if c.phase == phaseDead {
			return len(b)
		}
		if need == directed {
			need = 0
		}
		c.want(a, max(uint32(need), c.base()))
		return n
	}
}

// base is the size of the shortest thing that can come next.
func (c *conn) base() uint32 {
	switch {
	case c.chunk.left != 0:
		return uint32(c.descriptorSize())
	case c.form == formExtended:
		return sizeReplyExt
	}
	return sizeSimple
}

// reply handles a simple reply or the start of a chunk. Which of them it is
// only the magic number tells, where structured replies were agreed on.
func (c *conn) reply(a *protocol.Actions, b []byte) (used, need int) {
	if len(b) < sizeSimple {
		return 0, sizeSimple
	}
	magic := native32(b)
	switch {
	case magic == bits.ReverseBytes32(magicSimple) && c.form != formExtended:
		return c.simple(a, b)
	case magic == bits.ReverseBytes32(magicStructured) && c.form == formStructured:
		if len(b) < sizeStructured {
			return 0, sizeStructured
		}
		return c.chunkStart(a, b, sizeStructured, uint64(get32(b[16:])))
	case magic == bits.ReverseBytes32(magicReplyExt) && c.form == formExtended:
		if len(b) < sizeReplyExt {
			return 0, sizeReplyExt
		}
		return c.chunkStart(a, b, sizeReplyExt, get64(b[24:]))
	}
	return c.wrongMagic(a, b)
}

// Texts are made in functions of their own, because what they need of the stack
// would be cleared at each entry of the functions that are always run.

//go:noinline
func (c *conn) wrongMagic(a *protocol.Actions, b []byte) (used, need int) {
	return c.broken(a, "a reply has the magic number 0x"+hex32(get32(b))+", which does not fit what was negotiated")
}

//go:noinline
func (c *conn) wrongForm(a *protocol.Actions, s *slot) (used, need int) {
	return c.broken(a, "it answers "+describe(s)+" with a simple reply")
}

// simple handles a simple reply ("Simple reply message").
func (c *conn) simple(a *protocol.Actions, b []byte) (used, need int) {
	s := c.table.find(native64(b[8:]) ^ c.mask)
	if s == nil {
		return c.stranger(a, b)
	}
	if err := get32(b[4:]); err != 0 {
		// Structured servers ought not to answer a read so, but it is
		// clear what is meant: there is no payload.
		return c.finishWith(a, s, statusOf(err), sizeSimple)
	}
	switch {
	case s.op == block.OpRead && c.form == formSimple:
		a.Receive(s.tag, 0, s.length)
		c.complete(a, s, block.OK)
		return sizeSimple, directed
	case s.op == block.OpRead || s.op == block.OpBlockStatus:
		return c.wrongForm(a, s)
	}
	c.complete(a, s, block.OK)
	return sizeSimple, 0
}

// finishWith completes a request with a server's verdict, size bytes of which
// have been looked at.
func (c *conn) finishWith(a *protocol.Actions, s *slot, status block.Status, size int) (used, need int) {
	if status == block.ESHUTDOWN {
		return c.shutdown(a)
	}
	c.complete(a, s, status)
	return size, 0
}

// shutdown leaves a server that is about to go, as it must ("Terminating the
// transmission phase"). What is outstanding, the request that it refused
// included, stays with the engine, which sends it again when a server is back.
func (c *conn) shutdown(a *protocol.Actions) (used, need int) {
	c.takeLeave(a)
	c.fail(a, abi.FailConn, block.ESHUTDOWN, "the NBD server is shutting down")
	return 0, directed
}

// broken ends the connection over what a server sent.
//
//go:noinline
func (c *conn) broken(a *protocol.Actions, text string) (used, need int) {
	c.violation(a, text)
	return 0, directed
}

// stranger ends the connection over a reply to nothing, or to what has been
// answered already.
//
//go:noinline
func (c *conn) stranger(a *protocol.Actions, b []byte) (used, need int) {
	return c.broken(a, "a reply names a cookie, 0x"+hex32(get32(b[8:]))+hex32(get32(b[12:]))+
		", that no outstanding request has")
}

// statusOf maps a server's error number ("Error values"). The defined ones are
// Linux's own; any other counts as EINVAL.
func statusOf(err uint32) block.Status {
	switch s := block.Status(err); s {
	case block.EPERM, block.EIO, block.ENOMEM, block.EINVAL, block.ENOSPC,
		block.EOVERFLOW, block.ENOTSUP, block.ESHUTDOWN:
		return s
	}
	return block.EINVAL
}
