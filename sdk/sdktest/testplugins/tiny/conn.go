package tiny

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// maxOutstanding is how many requests a connection has under way.
const maxOutstanding = 64

// pingAfter is the keep-alive timer, in ns.
const pingAfter = 1e9

// slot is one outstanding request.
type slot struct {
	tag        uint64
	offset     uint64
	length     uint64
	left       uint64 // of a transformed write: bytes whose writing is not confirmed
	status     block.Status
	checks     int // digests whose outcome is awaited
	op         block.Op
	mods       block.Flags
	waiting    bool // for its hash; not sent yet
	ended      bool // the server is done with it
	used       bool
	generation uint32
}

// Conn is the state machine of one connection. It is exported for the badly
// behaved plugins, which embed it.
type Conn struct {
	protocol.Base
	transforms bool
	features   uint32
	conn       uint32
	size       uint64
	blockSize  uint32
	credits    uint32
	token      uint64
	loggedIn   bool
	used       int
	windowed   bool // a request was refused; since then each free slot is told
	min        uint32
	slots      [maxOutstanding]slot
	piece      piece
	flip       []byte
}

// piece is read data that a transforming plugin is in the middle of.
type piece struct {
	s        *slot
	at, left uint64
}

// NewConn makes a connection.
func NewConn(transforms bool) *Conn {
	return &Conn{transforms: transforms, flip: make([]byte, abi.MaxInline)}
}

// Opened says hello, or goes on where the version before stopped.
func (c *Conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	c.features, c.conn = features(o.Option("features")), o.Conn
	if c.transforms {
		c.features &^= FeatureDigest | FeatureHash
	}
	if o.Session == abi.SessionResumed {
		c.resume(a, o.State)
		return
	}
	if c.conn > 0 && len(o.SessionData) == 8 {
		c.token = le.Uint64(o.SessionData)
	}
	putRequest(a.SendBuffer(SizeRequest), OpHello, 0, c.features, 0, c.token)
	c.want(a, SizeReply)
}

func (c *Conn) want(a *protocol.Actions, n uint32) {
	if c.min != n {
		c.min = n
		a.Want(n, max(n, 256))
	}
}

func (c *Conn) limits() *protocol.Limits {
	l := &protocol.Limits{
		Info: block.Info{
			Size: c.size, BlockSize: c.blockSize, PreferredBlock: max(c.blockSize, 4096), MaxTransfer: 1 << 20,
			MaxZeroes: 1 << 30, MaxDiscard: 1 << 30, Identity: "tiny",
			Caps: block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero |
				block.CapBlockStatus | block.CapCache,
		},
		Depth: maxOutstanding, MaxConns: 1, Fence: abi.FenceQuiesce, FenceNS: 50e6, Handover: true,
	}
	if c.features&FeatureSession != 0 {
		l.MaxConns = 4
		l.Caps |= block.CapFlushCoversAll
	}
	return l
}

// limit is how many requests may be outstanding now.
func (c *Conn) limit() int {
	if c.features&FeatureCredits != 0 {
		return int(min(c.credits, maxOutstanding))
	}
	return maxOutstanding
}

// Submit takes requests while there are slots and credits.
func (c *Conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		if c.used >= c.limit() {
			c.windowed = true
			return i
		}
		c.submit(a, &batch[i])
	}
	return len(batch)
}

func (c *Conn) submit(a *protocol.Actions, r *protocol.Request) {
	i := 0
	for c.slots[i].used {
		i++
	}
	s := &c.slots[i]
	*s = slot{tag: r.Tag, offset: r.Offset, length: r.Length, left: r.Length, op: r.Op, mods: r.Mods,
		used: true, generation: s.generation + 1}
	c.used++
	switch {
	case s.op == block.OpWrite && c.transforms:
		// Payload brings it.
	case s.op == block.OpWrite && c.features&FeatureHash != 0:
		s.waiting = true
		a.Hash(uint32(c.cookie(i)), abi.DigestSHA256, s.tag, 0, s.length)
	default:
		c.send(a, i, nil)
	}
}

// cookie names slot i on the wire.
func (c *Conn) cookie(i int) uint64 { return uint64(c.slots[i].generation)<<8 | uint64(i) }

// send sends a request, a write with its hash if it has one.
func (c *Conn) send(a *protocol.Actions, i int, hash []byte) {
	s := &c.slots[i]
	if s.op != block.OpWrite || c.features&FeatureDigest == 0 {
		putRequest(a.SendBuffer(SizeRequest), uint8(s.op), uint8(s.mods), uint32(s.length), c.cookie(i), s.offset)
		a.Send(hash)
		if s.op == block.OpWrite {
			a.SendPayload(s.tag, 0, s.length)
		}
		return
	}
	b := c.flip[:SizeRequest]
	putRequest(b, uint8(s.op), uint8(s.mods), uint32(s.length), c.cookie(i), s.offset)
	a.SendDigested(b)
	a.Send(hash)
	half := s.length / 2 // in two parts, because it is possible
	a.SendPayloadDigested(s.tag, 0, half)
	a.SendPayloadDigested(s.tag, half, s.length)
	a.SendDigest(abi.DigestCRC32C)
}

// Payload writes a part of a transformed write; each part is confirmed by itself.
func (c *Conn) Payload(a *protocol.Actions, tag, from uint64, data []byte) {
	for i := range c.slots {
		if s := &c.slots[i]; s.used && s.tag == tag {
			putRequest(a.SendBuffer(SizeRequest), uint8(s.op), uint8(s.mods), uint32(len(data)), c.cookie(i), s.offset+from)
			a.Send(c.turn(data))
			return
		}
	}
}

// turn turns every bit over.
func (c *Conn) turn(data []byte) []byte {
	out := c.flip[:len(data)]
	for i, b := range data {
		out[i] = ^b
	}
	return out
}

// finish gives the request back if nothing of it is awaited any more.
func (c *Conn) finish(a *protocol.Actions, s *slot) {
	if s.ended && s.checks == 0 {
		c.release(a, s)
		a.Complete(s.tag, s.status)
	}
}

func (c *Conn) release(a *protocol.Actions, s *slot) {
	s.used = false
	c.used--
	if c.windowed {
		a.Ready(1)
	}
}

// Digest brings a write's hash or the outcome of a read's check.
func (c *Conn) Digest(a *protocol.Actions, d *abi.Digest) {
	i := int(d.ID % maxOutstanding)
	s := &c.slots[i]
	switch {
	case !s.used || uint32(c.cookie(i)) != d.ID:
		// of a request that was aborted
	case s.waiting:
		s.waiting = false
		c.send(a, i, d.Value[:])
	case d.Status != 0:
		a.Fail(abi.FailConn, block.EBADMSG, "the data of a read does not match its digest")
	default:
		s.checks--
		c.finish(a, s)
	}
}

// Abort gives back what was not sent, and asks the server for the rest. On a
// data connection the control connection is told, which pings the server.
func (c *Conn) Abort(a *protocol.Actions, tag uint64) {
	for i := range c.slots {
		s := &c.slots[i]
		if !s.used || s.tag != tag {
			continue
		}
		if s.waiting {
			s.waiting = false
			c.release(a, s)
			a.Released(tag, false)
			return
		}
		if c.conn != 0 {
			a.Message(0, []byte("an abort"))
		}
		putRequest(a.SendBuffer(SizeRequest), OpCancel, 0, 0, 0, c.cookie(i))
		return
	}
}

// Message: the control connection answers each message after a ping.
func (c *Conn) Message(a *protocol.Actions, from uint32, data []byte) {
	if c.conn == 0 {
		c.ping(a)
		a.Message(from, append([]byte("seen: "), data...))
	}
}

// SessionData is the token of a new session.
func (c *Conn) SessionData(_ *protocol.Actions, data []byte) {
	if len(data) == 8 {
		c.token = le.Uint64(data)
	}
}

// Timer pings and sets the timer again.
func (c *Conn) Timer(a *protocol.Actions, id uint32, _ protocol.Clock) {
	c.ping(a)
	a.SetTimer(id, pingAfter)
}

func (c *Conn) ping(a *protocol.Actions) {
	putRequest(a.SendBuffer(SizeRequest), OpPing, 0, 0, 0, 0)
}

// Goodbye says bye and closes.
func (c *Conn) Goodbye(a *protocol.Actions) {
	putRequest(a.SendBuffer(SizeRequest), OpBye, 0, 0, 0, 0)
	a.SetTimer(0, 0)
	a.Close()
}

// begin ends the login.
func (c *Conn) begin(a *protocol.Actions) {
	c.loggedIn = true
	if c.features&FeatureKeepAlive != 0 {
		a.SetTimer(0, pingAfter)
	}
	if c.conn == 0 && c.features&FeatureSession != 0 {
		a.Publish(le.AppendUint64(nil, c.token))
	}
	a.Limits(c.limits())
	c.want(a, SizeReply)
}
