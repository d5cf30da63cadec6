package nbdtest

import (
	"errors"
	"fmt"
)

// Request is one command. Length is the effect length; for a write it is taken
// from Data. A zero Cookie lets the client choose a fresh one.
type Request struct {
	Op     uint16
	Flags  uint16
	Offset uint64
	Length uint64
	Data   []byte
	Cookie uint64
}

// Extent is a run of blocks with one status. Length is in bytes.
type Extent struct{ Length, Flags uint64 }

// ChunkError is an error chunk of a reply; HasOffset says whether Offset counts.
type ChunkError struct {
	Errno     Errno
	Message   string
	Offset    uint64
	HasOffset bool
}

// Reply is a complete, validated answer.
type Reply struct {
	Request Request
	Err     error               // nil, or an Errno
	Errors  []ChunkError        // error chunks, in the order they came
	Data    []byte              // read: Request.Length bytes, when Err is nil
	Extents map[uint32][]Extent // block status by context id
	Chunks  []ChunkInfo         // what came on the wire; nil for a simple reply
}

// ChunkInfo is the frame of a chunk that came in. Offset and Size are those of
// content chunks, Size in bytes.
type ChunkInfo struct {
	Type, Flags  uint16
	Offset, Size uint64
}

// Send puts a request on the wire without waiting for its reply and returns its
// cookie. It checks nothing about the request: that is the server's task.
func (c *Client) Send(r Request) (uint64, error) {
	if r.Op == CmdWrite {
		r.Length = uint64(len(r.Data))
		if c.Extended {
			r.Flags |= CmdFlagPayloadLen
		}
	}
	if !c.Extended && r.Length > 1<<32-1 {
		return 0, fmt.Errorf("length %d needs extended headers", r.Length)
	}
	if r.Op != CmdDisc {
		if err := c.register(&r); err != nil {
			return 0, err
		}
	}
	h := header{Flags: r.Flags, Op: r.Op, Cookie: r.Cookie, Offset: r.Offset, Length: r.Length}
	if err := c.WriteRaw(append(h.encode(nil, c.Extended), r.Data...)); err != nil {
		return r.Cookie, fmt.Errorf("sending %s: %w", CmdName(r.Op), err)
	}
	return r.Cookie, nil
}

// register notes the request before it is sent, so that no reply can be early.
func (c *Client) register(r *Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.poison != nil {
		return c.poison
	}
	if r.Cookie == 0 {
		// A pattern in the high half shows cookies that were cut to 32 bits.
		c.cookie++
		r.Cookie = 0xc0c0_1e00<<32 | c.cookie
	}
	if _, dup := c.pending[r.Cookie]; dup {
		return fmt.Errorf("cookie %#x is in flight", r.Cookie)
	}
	c.pending[r.Cookie] = newPending(*r)
	return nil
}

// Outstanding is the number of requests without a complete reply.
func (c *Client) Outstanding() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// Do sends one request and waits for its reply; none may be outstanding. The
// error is the reply's Errno, a *ProtocolError, or the connection's.
func (c *Client) Do(r Request) (*Reply, error) {
	if n := c.Outstanding(); n != 0 {
		return nil, fmt.Errorf("Do with %d requests outstanding", n)
	}
	if _, err := c.Send(r); err != nil {
		return nil, err
	}
	rep, err := c.Recv()
	if err != nil {
		return nil, err
	}
	return rep, rep.Err
}

// Read reads n bytes at offset.
func (c *Client) Read(offset uint64, n int, flags uint16) ([]byte, error) {
	rep, err := c.Do(Request{Op: CmdRead, Flags: flags, Offset: offset, Length: uint64(n)})
	if err != nil {
		return nil, err
	}
	return rep.Data, nil
}

// Write writes data at offset.
func (c *Client) Write(offset uint64, data []byte, flags uint16) error {
	_, err := c.Do(Request{Op: CmdWrite, Flags: flags, Offset: offset, Data: data})
	return err
}

// Flush asks for all acknowledged writes to be made durable.
func (c *Client) Flush() error {
	_, err := c.Do(Request{Op: CmdFlush})
	return err
}

// Trim discards a range.
func (c *Client) Trim(offset, n uint64, flags uint16) error {
	_, err := c.Do(Request{Op: CmdTrim, Flags: flags, Offset: offset, Length: n})
	return err
}

// WriteZeroes zeroes a range.
func (c *Client) WriteZeroes(offset, n uint64, flags uint16) error {
	_, err := c.Do(Request{Op: CmdWriteZeroes, Flags: flags, Offset: offset, Length: n})
	return err
}

// Cache asks for a range to be prefetched.
func (c *Client) Cache(offset, n uint64, flags uint16) error {
	_, err := c.Do(Request{Op: CmdCache, Flags: flags, Offset: offset, Length: n})
	return err
}

// BlockStatus gives the extents of base:allocation for a range. It may cover
// less or more than asked, as the protocol allows.
func (c *Client) BlockStatus(offset, n uint64, flags uint16) ([]Extent, error) {
	rep, err := c.Do(Request{Op: CmdBlockStatus, Flags: flags, Offset: offset, Length: n})
	if err != nil {
		return nil, err
	}
	for id, name := range c.Contexts {
		if name == BaseAllocation {
			return rep.Extents[id], nil
		}
	}
	return nil, errors.New("base:allocation is not negotiated")
}

// Disconnect sends DISC and expects the server to close without another byte.
func (c *Client) Disconnect() error {
	if n := c.Outstanding(); n != 0 {
		return fmt.Errorf("DISC with %d requests outstanding", n)
	}
	if _, err := c.Send(Request{Op: CmdDisc}); err != nil {
		return err
	}
	return c.ExpectClosed()
}
