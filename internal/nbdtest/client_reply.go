package nbdtest

import (
	"fmt"
	"slices"
)

// span is a half-open range of bytes.
type span struct{ from, to uint64 }

// pending is a request on its way, with what has come of its reply.
type pending struct {
	req    Request
	reply  Reply
	filled []span   // content chunks so far
	marks  []uint64 // offsets of error chunks so far
}

func newPending(r Request) *pending {
	return &pending{req: r, reply: Reply{Request: r, Extents: map[uint32][]Extent{}}}
}

func (p *pending) where() string {
	return fmt.Sprintf("reply to %s offset %d length %d cookie %#x", CmdName(p.req.Op), p.req.Offset, p.req.Length, p.req.Cookie)
}

func (p *pending) bad(format string, args ...any) error {
	return violation(p.where(), format, args...)
}

// Recv receives until one reply is complete and returns it, whichever it is.
// A server's error is in Reply.Err; the error returned is a *ProtocolError or
// the connection's own, and ends the use of this client.
func (c *Client) Recv() (*Reply, error) {
	if c.poison != nil {
		return nil, c.poison
	}
	for {
		p, done, err := c.recvMessage()
		if err != nil {
			c.mu.Lock()
			c.poison = err
			c.mu.Unlock()
			return nil, err
		}
		if done {
			c.mu.Lock()
			delete(c.pending, p.req.Cookie)
			c.mu.Unlock()
			return &p.reply, nil
		}
	}
}

// recvMessage receives one simple reply or one chunk.
func (c *Client) recvMessage() (*pending, bool, error) {
	b, err := c.ReadRaw(4)
	if err != nil {
		return nil, false, fmt.Errorf("waiting for a reply (%d outstanding): %w", c.Outstanding(), err)
	}
	switch magic := be.Uint32(b); {
	case magic == MagicSimple && !c.Extended:
		return c.recvSimple()
	case magic == MagicChunk && c.Structured && !c.Extended:
		return c.recvChunk(sizeChunk)
	case magic == MagicChunkEx && c.Extended:
		return c.recvChunk(sizeChunkEx)
	default:
		return nil, false, violation("reply", "magic %#x (structured %v, extended %v)", magic, c.Structured, c.Extended)
	}
}

func (c *Client) find(cookie uint64) (*pending, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pending[cookie]; p != nil {
		return p, nil
	}
	return nil, violation("reply", "cookie %#x belongs to no outstanding request", cookie)
}

// recvSimple handles "Simple reply message" after its magic.
func (c *Client) recvSimple() (*pending, bool, error) {
	b, err := c.ReadRaw(sizeSimple - 4)
	if err != nil {
		return nil, false, fmt.Errorf("simple reply cut short: %w", err)
	}
	p, err := c.find(be.Uint64(b[4:]))
	if err != nil {
		return nil, false, err
	}
	switch {
	case p.req.Op == CmdRead && c.Structured:
		return p, false, p.bad("simple reply to a read though structured replies are negotiated")
	case len(p.reply.Chunks) > 0:
		return p, false, p.bad("simple reply after chunks")
	}
	if e := be.Uint32(b); e != 0 {
		p.reply.Err = Errno(e)
		return p, true, c.checkErrno(p, e)
	}
	switch p.req.Op {
	case CmdRead:
		p.reply.Data, err = c.ReadRaw(int(p.req.Length))
	case CmdBlockStatus:
		return p, false, p.bad("success without a status chunk")
	}
	if err != nil {
		return p, false, fmt.Errorf("%s cut short: %w", p.where(), err)
	}
	return p, true, nil
}

func (c *Client) checkErrno(p *pending, e uint32) error {
	if _, known := errnoNames[e]; !known && !c.opts.AnyErrno {
		return p.bad("error value %d is not one of the protocol's", e)
	}
	return nil
}

// recvChunk handles structured and extended chunks after their magic; size is
// that of the whole header.
func (c *Client) recvChunk(size int) (*pending, bool, error) {
	b, err := c.ReadRaw(size - 4)
	if err != nil {
		return nil, false, fmt.Errorf("chunk header cut short: %w", err)
	}
	flags, typ := be.Uint16(b), be.Uint16(b[2:])
	p, err := c.find(be.Uint64(b[4:]))
	if err != nil {
		return nil, false, err
	}
	var n uint64
	if size == sizeChunkEx {
		if off := be.Uint64(b[12:]); off != p.req.Offset {
			return p, false, p.bad("header offset %d does not match", off)
		}
		n = be.Uint64(b[20:])
	} else {
		n = uint64(be.Uint32(b[12:]))
	}
	if extra := flags &^ ReplyFlagDone; extra != 0 {
		return p, false, p.bad("unknown chunk flags %#x", extra)
	}
	done := flags&ReplyFlagDone != 0
	if err := c.recvBody(p, typ, n, done); err != nil {
		return p, false, err
	}
	last := &p.reply.Chunks[len(p.reply.Chunks)-1]
	last.Flags = flags
	if done {
		err = c.complete(p)
	}
	return p, done, err
}

// recvBody checks the length against the type before it reads the payload.
func (c *Client) recvBody(p *pending, typ uint16, n uint64, done bool) error {
	p.reply.Chunks = append(p.reply.Chunks, ChunkInfo{Type: typ})
	if err := c.checkLength(p, typ, n, done); err != nil {
		return err
	}
	body, err := c.ReadRaw(int(n))
	if err != nil {
		return fmt.Errorf("%s: chunk cut short: %w", p.where(), err)
	}
	switch typ {
	case ReplyNone:
		return nil
	case ReplyOffsetData:
		return p.content(be.Uint64(body), uint64(len(body)-8), body[8:])
	case ReplyOffsetHole:
		return p.content(be.Uint64(body), uint64(be.Uint32(body[8:])), nil)
	case ReplyBlockStatus, ReplyBlockStatusExt:
		return c.status(p, typ, body)
	default:
		return c.errorChunk(p, typ, body)
	}
}

func (c *Client) checkLength(p *pending, typ uint16, n uint64, done bool) error {
	ok := false
	switch typ {
	case ReplyNone:
		if !done {
			return p.bad("NONE chunk without DONE")
		}
		ok = n == 0
	case ReplyOffsetData:
		ok = p.req.Op == CmdRead && n >= 9 && n-8 <= p.req.Length
	case ReplyOffsetHole:
		ok = p.req.Op == CmdRead && n == 12
	case ReplyBlockStatus:
		ok = p.req.Op == CmdBlockStatus && !c.Extended && n >= 12 && (n-4)%8 == 0 && (n-4)/8 <= maxExtents
	case ReplyBlockStatusExt:
		ok = p.req.Op == CmdBlockStatus && c.Extended && n >= 24 && (n-8)%16 == 0 && (n-8)/16 <= maxExtents
	case ReplyError:
		ok = n >= 6 && n <= 6+MaxString
	case ReplyErrorOffset:
		ok = n >= 14 && n <= 14+MaxString && p.req.Op != CmdFlush
	default:
		if typ&replyErrBit == 0 {
			return p.bad("unknown chunk type %d", typ)
		}
		ok = n >= 6 && n <= maxRepLength
	}
	if !ok {
		return p.bad("chunk type %#x with length %d", typ, n)
	}
	return nil
}

// content takes a data (or hole, data nil) chunk of size bytes at off.
func (p *pending) content(off, size uint64, data []byte) error {
	from, to := off, off+size
	end := p.req.Offset + p.req.Length
	if size == 0 || to < from || from < p.req.Offset || to > end {
		return p.bad("content chunk [%d,+%d) lies outside the request", off, size)
	}
	for _, s := range p.filled {
		if from < s.to && s.from < to {
			return p.bad("content chunk [%d,%d) overlaps [%d,%d)", from, to, s.from, s.to)
		}
	}
	for _, m := range p.marks {
		if m >= from && m < to {
			return p.bad("content chunk [%d,%d) after an error chunk at %d", from, to, m)
		}
	}
	if p.req.Flags&CmdFlagDF != 0 && len(p.filled) > 0 {
		return p.bad("second content chunk though DF was set")
	}
	p.filled = append(p.filled, span{from, to})
	if p.reply.Data == nil {
		p.reply.Data = make([]byte, p.req.Length)
	}
	copy(p.reply.Data[from-p.req.Offset:], data)
	c := &p.reply.Chunks[len(p.reply.Chunks)-1]
	c.Offset, c.Size = off, size
	return nil
}

func (c *Client) errorChunk(p *pending, typ uint16, b []byte) error {
	e := ChunkError{Errno: Errno(be.Uint32(b))}
	n, fixed := int(be.Uint16(b[4:])), 6
	if typ == ReplyErrorOffset {
		fixed = 14
	}
	if e.Errno == 0 {
		return p.bad("error chunk with error 0")
	}
	if n > MaxString || n > len(b)-fixed {
		return p.bad("error message of %d bytes in a chunk of %d", n, len(b))
	}
	e.Message = string(b[6 : 6+n])
	if typ == ReplyErrorOffset {
		e.Offset, e.HasOffset = be.Uint64(b[6+n:]), true
		if e.Offset < p.req.Offset || e.Offset >= p.req.Offset+p.req.Length {
			return p.bad("error offset %d lies outside the request", e.Offset)
		}
		p.marks = append(p.marks, e.Offset)
	}
	p.reply.Errors = append(p.reply.Errors, e)
	return c.checkErrno(p, uint32(e.Errno))
}

// status takes a status chunk; its length is checked already.
func (c *Client) status(p *pending, typ uint16, b []byte) error {
	id := be.Uint32(b)
	name, known := c.Contexts[id]
	if !known {
		return p.bad("status of context %d, which was not selected", id)
	}
	if _, twice := p.reply.Extents[id]; twice {
		return p.bad("second status chunk for %s", name)
	}
	extents, err := decodeExtents(p, typ, b)
	if err != nil {
		return err
	}
	p.reply.Extents[id] = extents
	return c.checkExtents(p, name, extents)
}

func decodeExtents(p *pending, typ uint16, b []byte) ([]Extent, error) {
	var extents []Extent
	if typ == ReplyBlockStatus {
		for b = b[4:]; len(b) > 0; b = b[8:] {
			extents = append(extents, Extent{uint64(be.Uint32(b)), uint64(be.Uint32(b[4:]))})
		}
		return extents, nil
	}
	if n := be.Uint32(b[4:]); uint64(n)*16+8 != uint64(len(b)) {
		return nil, p.bad("descriptor count %d in a chunk of %d bytes", n, len(b))
	}
	for b = b[8:]; len(b) > 0; b = b[16:] {
		extents = append(extents, Extent{be.Uint64(b), be.Uint64(b[8:])})
	}
	return extents, nil
}

// checkExtents applies the rules of NBD_REPLY_TYPE_BLOCK_STATUS, and one that
// only reason asks for: no extent beyond the end of the export.
func (c *Client) checkExtents(p *pending, name string, extents []Extent) error {
	one := p.req.Flags&CmdFlagReqOne != 0
	if one && len(extents) != 1 {
		return p.bad("%d extents though REQ_ONE was set", len(extents))
	}
	var sum uint64
	for i, e := range extents {
		switch {
		case e.Length == 0:
			return p.bad("extent %d has length 0", i)
		case i > 0 && sum >= p.req.Length:
			return p.bad("extent %d lies beyond the requested length", i)
		case one && e.Length > p.req.Length:
			return p.bad("extent of %d bytes though REQ_ONE was set", e.Length)
		case e.Length > c.Info.Size-p.req.Offset-sum:
			return p.bad("extent %d reaches beyond the export's end", i)
		case name == BaseAllocation && e.Flags&^(StateHole|StateZero) != 0:
			return p.bad("extent %d has reserved status bits %#x", i, e.Flags)
		}
		sum += e.Length
	}
	return nil
}

// complete judges the reply as a whole when DONE was seen.
func (c *Client) complete(p *pending) error {
	if len(p.reply.Errors) > 0 {
		p.reply.Err = p.reply.Errors[0].Errno
		return nil
	}
	switch p.req.Op {
	case CmdRead:
		return p.checkFilled()
	case CmdBlockStatus:
		if len(p.reply.Extents) != len(c.Contexts) {
			return p.bad("success with %d of %d contexts", len(p.reply.Extents), len(c.Contexts))
		}
	}
	return nil
}

// checkFilled finds gaps in a read that claims success; overlaps were refused.
func (p *pending) checkFilled() error {
	slices.SortFunc(p.filled, func(a, b span) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	at := p.req.Offset
	for _, s := range p.filled {
		if s.from != at {
			return p.bad("success with a gap [%d,%d)", at, s.from)
		}
		at = s.to
	}
	if end := p.req.Offset + p.req.Length; at != end {
		return p.bad("success with a gap [%d,%d)", at, end)
	}
	return nil
}
