package nbd

import (
	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

const (
	readsPerTurn = 8       // before others get theirs
	leastRoom    = 8 << 10 // of a chunk that is worth a read
	peekBytes    = 4 << 10 // received behind a payload that has a buffer
)

// receiver is the half of a connection that takes requests in. Bytes [r, w) of
// rx have been received and not been used; payloads that lie wholly in rx are
// borrowed from there. A larger one is received into a buffer of its own.
type receiver struct {
	rx   *chunk // nil while there is nothing to keep
	r, w int
	need int // bytes from r on that the next step takes

	cur    *request // whose payload is being received into its buffer
	curGot int
	skip   uint64 // bytes of a refused request's payload still to come
	refuse header // that request
	errno  uint32 // and what it is told

	batch    []*volume.IO // to be submitted
	readable bool         // the socket may hold more
	hup      bool         // the client has closed its side
	large    bool         // the last payload had a buffer: the next may, too
}

// outcome is how a step of receiving ended.
type outcome uint8

const (
	goOn    outcome = iota
	more            // more bytes are needed
	stalled         // a limit is reached; who frees something calls receive again
	ended           // the connection receives no more
)

// receive takes requests in until the socket is empty, a limit is reached or
// others have to get their turn. Everything that one read has brought goes
// down as one batch.
func (c *conn) receive() {
	for reads := 0; c.phase == transmitting; reads++ {
		st := c.parse()
		c.submit()
		if st != more || !c.readable {
			break
		}
		if reads == readsPerTurn {
			c.source.Again()
			break
		}
		if !c.fill() {
			break
		}
	}
	c.flush() // what was refused without the volume
	if c.blocked && c.inFlight == 0 && !c.unsent() && c.phase == transmitting {
		c.blocked = false
		c.source.Again() // nothing else would go on
	}
	c.rest()
	c.settle()
}

// rest gives memory back that holds nothing.
func (c *conn) rest() {
	if c.rx != nil && c.r == c.w && c.rx.refs == 1 {
		c.wk.drop(c.rx, 1)
		c.rx, c.r, c.w = nil, 0, 0
	}
	if c.tx != nil && c.tx.refs == 1 {
		c.wk.drop(c.tx, 1)
		c.tx = nil
	}
}

// submit hands the batch to the volume.
func (c *conn) submit() {
	if len(c.batch) == 0 {
		return
	}
	if c.l.path != "" && sys.RawUnread(c.fd) > 0 {
		c.wk.r.Behind()
	}
	c.q.Submit(c.batch)
	c.batch = c.batch[:0]
}

// parse turns what has been received into requests.
func (c *conn) parse() outcome {
	for {
		var st outcome
		switch {
		case c.skip > 0:
			st = c.skipPayload()
		case c.cur != nil:
			st = c.takePayload(c.w - c.r)
		default:
			st = c.parseRequest()
		}
		if st != goOn {
			return st
		}
	}
}

// skipPayload throws away what was sent with a refused request, which is
// answered after that.
func (c *conn) skipPayload() outcome {
	n := min(c.skip, uint64(c.w-c.r))
	c.r += int(n)
	if c.skip -= n; c.skip > 0 {
		c.need = 1
		return more
	}
	c.sayError(&c.refuse, c.errno)
	return goOn
}

// takePayload moves n received bytes, or as many as belong to it, to the
// payload that is being received.
func (c *conn) takePayload(n int) outcome {
	if n > 0 { // else there may be no rx
		n = copy(c.cur.segs[0][c.curGot:], c.rx.mem[c.r:c.r+n])
		c.r += n
	}
	return c.tookPayload(n)
}

// tookPayload counts n bytes that have come into the buffer of cur.
func (c *conn) tookPayload(n int) outcome {
	if c.curGot += n; c.curGot < len(c.cur.segs[0]) {
		c.need = 1
		return more
	}
	c.batch = append(c.batch, &c.cur.io)
	c.cur = nil
	return goOn
}

// fill reads from the socket; false if the loop must end.
func (c *conn) fill() bool {
	if !c.makeRoom() {
		return false
	}
	n, asked, e := c.read()
	switch {
	case e == sys.EINTR:
		return true
	case e == sys.EAGAIN:
		c.readable = false
		return false
	case e != 0:
		c.cut() // reset: nobody is there to be answered
		return false
	case n == 0:
		// The client sends no more. It may still be waiting for replies, and
		// for our end as a sign that nothing is outstanding.
		c.lost()
		return false
	}
	c.progress = c.wk.r.Now()
	if n < asked && !c.hup {
		c.readable = false // the next bytes are news to the kernel again
	}
	return true
}

// lost handles a client that stops without DISC.
func (c *conn) lost() {
	if c.cur != nil || c.skip > 0 || c.r < c.w {
		c.complain("nbd client disconnected in the middle of a request", "outstanding", c.inFlight)
	}
	c.drain()
}

// read receives into the current payload, if there is one, and into rx.
func (c *conn) read() (n, asked int, e sys.Errno) {
	tail := c.rx.mem[c.w:]
	if c.cur == nil {
		if c.large && c.r == c.w {
			tail = tail[:min(len(tail), peekBytes)]
		}
		n, e = sys.RawRead(c.fd, tail)
		if e == 0 {
			c.w += n
		}
		return n, len(tail), e
	}
	// parse has used up rx, so what comes behind the payload starts at w.
	rest := c.cur.segs[0][c.curGot:]
	tail = tail[:min(len(tail), peekBytes)]
	v := c.wk.out[:2]
	sys.SetIovec(&v[0], rest)
	if len(tail) > 0 {
		sys.SetIovec(&v[1], tail)
	} else {
		v = v[:1]
	}
	n, e = sys.RawReadv(c.fd, v)
	clear(v)
	if e != 0 {
		return n, 0, e
	}
	if n > 0 {
		c.w += max(0, n-len(rest))
		c.tookPayload(min(n, len(rest)))
	}
	return n, len(rest) + len(tail), 0
}

// makeRoom sees to it that rx can take the rest of the next request, or as
// much of it as makes sense; false if there is no memory for that now.
func (c *conn) makeRoom() bool {
	if c.cur != nil {
		// Only what frees this payload's buffer may not wait for memory.
		if c.rx == nil {
			c.takeInput()
		}
		if c.rx.refs == 1 {
			c.r, c.w = 0, 0
		}
		return true
	}
	if c.rx == nil {
		if !c.admit(chunkBytes, &c.wk.pool.receiving) {
			return false
		}
		c.takeInput()
		return true
	}
	if c.r == c.w && c.rx.refs == 1 {
		c.r, c.w = 0, 0
		return true
	}
	left := c.w - c.r
	if c.w+max(leastRoom, c.need-left) <= chunkBytes {
		return true
	}
	if c.rx.refs == 1 {
		c.w = copy(c.rx.mem, c.rx.mem[c.r:c.w])
		c.r = 0
		return true
	}
	// Payloads that the volume has lie in front.
	if !c.admit(chunkBytes, &c.wk.pool.receiving) {
		return false
	}
	before, from := c.rx, c.r
	c.takeInput()
	c.w = copy(c.rx.mem, before.mem[from:from+left])
	c.wk.drop(before, 1)
	return true
}

// takeInput begins a chunk to receive into.
func (c *conn) takeInput() {
	c.rx, c.r, c.w = c.wk.pool.take(c, &c.wk.pool.receiving), 0, 0
}

// admit asks for n bytes of a budget. Without them the connection stalls,
// until others, or its own requests, have given some back.
func (c *conn) admit(n int, b *budget) bool {
	if c.mem+n > connMemory {
		c.blocked = true
		return false
	}
	if b.used+n > b.limit {
		c.wk.wait(c)
		return false
	}
	return true
}

// dropInput forgets what has been received and not been submitted.
func (c *conn) dropInput() {
	c.skip = 0
	if c.cur != nil {
		c.release(c.cur)
		c.cur = nil
	}
	if c.rx != nil {
		c.wk.drop(c.rx, 1)
		c.rx, c.r, c.w = nil, 0, 0
	}
}

// dropBatch forgets requests that have not been submitted.
func (c *conn) dropBatch() {
	for _, io := range c.batch {
		c.release(c.slots[io.Tag])
	}
	c.batch = c.batch[:0]
}
