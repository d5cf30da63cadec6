package tiny

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// maxShort is the longest reply, without data, that is looked at as a whole.
const maxShort = 16 << 10

// Received handles one reply, or a part of the data of one.
func (c *Conn) Received(a *protocol.Actions, b []byte) int {
	if c.piece.left > 0 {
		return c.more(a, b)
	}
	if len(b) < SizeReply {
		c.want(a, SizeReply)
		return 0
	}
	kind, length := b[2], le.Uint32(b[4:])
	if kind == ReplyData {
		return c.data(a, b, uint64(length))
	}
	need := SizeReply + int(length)
	if length > maxShort {
		a.Fail(abi.FailConn, block.EPROTO, "the server sent a reply that is too long")
		return len(b)
	}
	if len(b) < need {
		c.want(a, uint32(need))
		return 0
	}
	c.want(a, SizeReply)
	c.reply(a, kind, b[:need])
	return need
}

func (c *Conn) reply(a *protocol.Actions, kind uint8, b []byte) {
	body := b[SizeReply:]
	switch {
	case kind == ReplyHello && len(body) == 24 && !c.loggedIn:
		c.hello(a, b)
	case kind == ReplySize && len(body) == 8:
		c.size = le.Uint64(body)
		a.Limits(c.limits())
	case kind == ReplyPath && len(body) == 8:
		a.Path(uint32(le.Uint64(body)))
	case kind == ReplyRedirect:
		a.Redirect(string(body), false)
	case kind == ReplyEnd && le.Uint64(b[8:]) == 0:
		// the answer to a ping or a cancel
	default:
		c.answer(a, kind, b)
	}
}

func (c *Conn) hello(a *protocol.Actions, b []byte) {
	if status := block.Status(le.Uint16(b)); status != block.OK {
		a.Fail(abi.FailSession, status, "the server does not know the session; it will get a new one")
		return
	}
	body := b[SizeReply:]
	c.size, c.blockSize, c.credits = le.Uint64(body), le.Uint32(body[8:]), le.Uint32(body[12:])
	c.token = le.Uint64(body[16:])
	c.begin(a)
}

// find gives the request that a reply is for; without one the connection fails.
func (c *Conn) find(a *protocol.Actions, b []byte) *slot {
	cookie := le.Uint64(b[8:])
	i := int(cookie & 0xff)
	if i >= maxOutstanding || !c.slots[i].used || c.cookie(i) != cookie {
		a.Fail(abi.FailConn, block.EPROTO, "the server answers a request that is not outstanding")
		return nil
	}
	return &c.slots[i]
}

func (c *Conn) answer(a *protocol.Actions, kind uint8, b []byte) {
	s := c.find(a, b)
	body := b[SizeReply:]
	switch {
	case s == nil:
	case kind == ReplyEnd && s.op == block.OpWrite && c.transforms:
		s.left -= min(s.left, le.Uint64(body)) // it says how much was written
		s.status = max(s.status, block.Status(le.Uint16(b)))
		s.ended = s.left == 0
		c.finish(a, s)
	case kind == ReplyEnd:
		s.status, s.ended = block.Status(le.Uint16(b)), true
		c.finish(a, s)
	case kind == ReplyZero && len(body) == 16:
		a.Zero(s.tag, le.Uint64(body), le.Uint64(body)+le.Uint64(body[8:]))
	case kind == ReplyExtents:
		for ; len(body) >= 16; body = body[16:] {
			a.Extent(s.tag, le.Uint64(body), block.ExtentState(le.Uint64(body[8:])))
		}
	case kind == ReplyCancelled:
		c.release(a, s)
		a.Released(s.tag, false)
	default:
		a.Fail(abi.FailConn, block.EPROTO, "the server sent a reply of an unknown kind")
	}
}

// data directs the data of a reply into the read, or begins to transform it.
func (c *Conn) data(a *protocol.Actions, b []byte, length uint64) int {
	const head = SizeReply + 8
	if len(b) < head {
		c.want(a, head)
		return 0
	}
	s := c.find(a, b)
	if s == nil {
		return len(b)
	}
	n := length - 8
	if c.features&FeatureDigest != 0 {
		n -= 4
	}
	at := le.Uint64(b[SizeReply:])
	if length < 9 || at > s.length || n > s.length-at {
		a.Fail(abi.FailConn, block.EPROTO, "the server sent data outside the request")
		return len(b)
	}
	switch {
	case c.transforms:
		c.piece = piece{s, at, n}
		c.want(a, 1)
	case c.features&FeatureDigest != 0:
		c.want(a, SizeReply)
		a.ReceiveDigested(s.tag, at, at+n)
		a.CheckDigest(uint32(le.Uint64(b[8:])), abi.DigestCRC32C)
		s.checks++
	default:
		c.want(a, SizeReply)
		a.Receive(s.tag, at, at+n)
	}
	return head
}

// more transforms what is there of the data of a reply.
func (c *Conn) more(a *protocol.Actions, b []byte) int {
	n := min(uint64(len(b)), c.piece.left)
	a.Data(c.piece.s.tag, c.piece.at, c.turn(b[:n]))
	c.piece.at += n
	c.piece.left -= n
	if c.piece.left == 0 {
		c.want(a, SizeReply)
	}
	return int(n)
}
