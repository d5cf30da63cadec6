package nbd

import "blockengine/engine/sys"

// iovecs is what a call sends, or receives into. The reactor's connections
// share it; nothing stays in it between calls.
type iovecs [sys.MaxIovecs]sys.Iovec

// calmTurns is how many times everything must have gone out at once before the
// kernel is asked no longer when it can take more. Asking all the time would
// wake the reactor whenever a client has read something.
const calmTurns = 16

// sender is the half of a connection that sends replies. They stand in out,
// from head on, as pieces of memory; neighbours are one piece.
type sender struct {
	tx         *chunk // where the next reply is placed
	out        []piece
	head       int
	outBlocked bool // the socket is full
	calm       int
}

// piece is memory to be sent: bytes [from, to) of a chunk, of which it holds
// refs, or of a buffer.
type piece struct {
	chunk    *chunk
	buf      *buffer
	from, to int
	refs     int
}

func (p *piece) bytes() []byte {
	if p.buf != nil {
		return p.buf.mem[p.from:p.to]
	}
	return p.chunk.mem[p.from:p.to]
}

func (c *conn) pieces() int  { return len(c.out) - c.head }
func (c *conn) unsent() bool { return len(c.out) > c.head }

// fits tells whether n bytes more can be placed without another chunk.
func (c *conn) fits(n int) bool {
	return c.tx != nil && (c.tx.refs == 1 || c.tx.used+n <= chunkBytes)
}

// place gives n bytes, at most chunkBytes, to write a reply to, and a
// reference to the chunk that they lie in.
func (c *conn) place(n int) (k *chunk, at int) {
	switch {
	case c.tx == nil:
		c.tx = c.wk.pool.take(c, &c.wk.pool.serving)
	case c.tx.refs == 1:
		c.tx.used = 0 // nothing in it is needed any more
	case c.tx.used+n > chunkBytes:
		c.wk.drop(c.tx, 1)
		c.tx = c.wk.pool.take(c, &c.wk.pool.serving)
	}
	k, at = c.tx, c.tx.used
	k.used += n
	k.refs++
	return k, at
}

// reserve places a request's reply of n bytes in all, room of them in front of
// the data.
func (c *conn) reserve(q *request, room, n int) {
	q.tx, q.at = c.place(n)
	q.room = room
}

// push puts bytes of a chunk, with the reference that place gave, behind what
// is to be sent.
func (c *conn) push(k *chunk, from, to int) {
	if n := len(c.out); n > c.head {
		last := &c.out[n-1]
		if last.chunk == k && last.to == from {
			last.to = to
			last.refs++
			return
		}
	}
	c.out = append(c.out, piece{chunk: k, from: from, to: to, refs: 1})
}

// flush sends what it can in as few calls as possible.
func (c *conn) flush() {
	for c.unsent() && !c.outBlocked && c.phase < lingering {
		total, n, e := c.write()
		switch {
		case e == sys.EINTR:
		case e == sys.EAGAIN:
			c.block()
		case e != 0:
			c.cut() // the client is gone
		default:
			c.sent(n)
			if n < total {
				c.block()
			}
		}
	}
	if !c.unsent() && c.phase < closed {
		c.calmDown()
	}
}

// write makes one call for as many pieces as it takes.
func (c *conn) write() (total, n int, e sys.Errno) {
	if c.pieces() == 1 {
		b := c.out[c.head].bytes()
		n, e = sys.RawWrite(c.fd, b)
		return len(b), n, e
	}
	count := min(c.pieces(), sys.MaxIovecs)
	v := c.wk.out[:count]
	for i := range v {
		b := c.out[c.head+i].bytes()
		sys.SetIovec(&v[i], b)
		total += len(b)
	}
	n, e = sys.RawWritev(c.fd, v)
	clear(v)
	return total, n, e
}

// sent takes n bytes off what is to be sent.
func (c *conn) sent(n int) {
	c.progress = c.wk.r.Now()
	for n > 0 {
		p := &c.out[c.head]
		if size := p.to - p.from; n < size {
			p.from += n
			break
		} else {
			n -= size
		}
		c.dropPiece(p)
		c.head++
	}
	if c.head == len(c.out) {
		c.out, c.head = c.out[:0], 0
	} else if c.head >= maxPieces {
		rest := copy(c.out, c.out[c.head:])
		clear(c.out[rest:])
		c.out, c.head = c.out[:rest], 0
	}
}

func (c *conn) dropPiece(p *piece) {
	if p.buf != nil {
		c.wk.dropBuffer(p.buf)
	} else {
		c.wk.drop(p.chunk, p.refs)
	}
	*p = piece{}
}

// block waits for the socket to take more.
func (c *conn) block() {
	c.outBlocked, c.calm = true, 0
	if c.watch&sys.EpollOut == 0 {
		c.watchFor(c.watch | sys.EpollOut)
	}
}

// calmDown stops asking for room in the socket when it has been there always
// for a while.
func (c *conn) calmDown() {
	if c.watch&sys.EpollOut == 0 {
		return
	}
	if c.calm++; c.calm >= calmTurns {
		c.watchFor(c.watch &^ sys.EpollOut)
	}
}

// dropOutput forgets what has not been sent.
func (c *conn) dropOutput() {
	for ; c.head < len(c.out); c.head++ {
		c.dropPiece(&c.out[c.head])
	}
	c.out, c.head = nil, 0
	if c.tx != nil {
		c.wk.drop(c.tx, 1)
		c.tx = nil
	}
}
