// Package plain is the smallest protocol plugin that is good for something: a
// disk behind a server that speaks a protocol of three messages.
//
// All integers are little endian. The server speaks first:
//
//	greeting  24 bytes: "plain01\n", u64 size of the disk, u32 size of a block, u32 0
//
// The client sends requests, as many as it likes; the server answers each when
// it is done, in any order:
//
//	request   24 bytes: u32 operation (1 read, 2 write, 3 flush), u32 length,
//	          u64 cookie, u64 offset; behind a write, its data
//	reply     16 bytes: u32 errno or 0, u32 length of the data that follows
//	          (of a read that worked, else 0), u64 cookie; then the data
package plain

import (
	"encoding/binary"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

const (
	magic       = "plain01\n"
	greetSize   = 24
	requestSize = 24
	replySize   = 16
	depth       = 128 // requests outstanding on a connection
	maxTransfer = 1 << 20
)

var le = binary.LittleEndian

// Plugin gives the plugin.
func Plugin() protocol.Plugin { return plugin{} }

type plugin struct{}

func (plugin) Manifest() manifest.Manifest { return manifest.Manifest{Name: "plain", Version: "0.1.0"} }

func (plugin) NewConn() protocol.Conn {
	c := &conn{}
	for i := range c.free {
		c.free[i] = uint32(i)
	}
	return c
}

// conn is the state machine of one connection.
type conn struct {
	protocol.Base
	greeting [greetSize]byte
	loggedIn bool
	slots    [depth]slot
	free     [depth]uint32 // slots that are not in use: the last len(free)-used
	used     int
}

// slot is an outstanding request; its number is the cookie.
type slot struct {
	tag    uint64
	length uint64
	op     block.Op // 0: free
}

// Opened waits for the greeting, or takes the one that another version has seen.
func (c *conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	if o.Session == abi.SessionResumed {
		c.greet(a, o.State)
		return
	}
	a.Want(greetSize, greetSize)
}

// greet ends the login: it says what the disk is.
func (c *conn) greet(a *protocol.Actions, b []byte) {
	if len(b) != greetSize || string(b[:8]) != magic {
		a.Fail(abi.FailConn, block.EPROTO, "this is no greeting of a plain server: is the address right?")
		return
	}
	size, unit := le.Uint64(b[8:]), le.Uint32(b[16:])
	if unit == 0 || unit&(unit-1) != 0 || unit > 64<<10 || size%uint64(unit) != 0 {
		a.Fail(abi.FailConn, block.EPROTO, "the server tells of a disk that cannot be: its size is no multiple of its block size")
		return
	}
	copy(c.greeting[:], b)
	c.loggedIn = true
	a.Limits(&protocol.Limits{
		Info: block.Info{
			Size: size, BlockSize: unit, PreferredBlock: max(unit, 4096), MaxTransfer: maxTransfer,
			Caps: block.CapFlush | block.CapFlushCoversAll,
		},
		Depth: depth, MaxConns: 8, Handover: true,
	})
	a.Want(replySize, 16*replySize)
}

// Submit sends requests. The limits promise depth places, so there is one.
func (c *conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		r := &batch[i]
		cookie := c.free[c.used]
		c.used++
		c.slots[cookie] = slot{tag: r.Tag, length: r.Length, op: r.Op}
		b := a.SendBuffer(requestSize)
		le.PutUint32(b, uint32(r.Op)) // 1, 2 and 3 are the same in both
		le.PutUint32(b[4:], uint32(r.Length))
		le.PutUint64(b[8:], uint64(cookie))
		le.PutUint64(b[16:], r.Offset)
		if r.Op == block.OpWrite {
			a.SendPayload(r.Tag, 0, r.Length)
		}
	}
	return len(batch)
}

// Received handles one reply; its data goes to the request without being seen.
func (c *conn) Received(a *protocol.Actions, b []byte) int {
	if !c.loggedIn {
		if len(b) < greetSize {
			return 0
		}
		c.greet(a, b[:greetSize])
		return greetSize
	}
	if len(b) < replySize {
		return 0
	}
	status, length, cookie := block.Status(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint64(b[8:])
	if cookie >= depth || c.slots[cookie].op == 0 {
		a.Fail(abi.FailConn, block.EPROTO, "the server answers a request that is not outstanding")
		return len(b)
	}
	s := c.slots[cookie]
	want := uint64(0)
	if s.op == block.OpRead && status == block.OK {
		want = s.length
	}
	if length != want || status > block.MaxStatus {
		a.Fail(abi.FailConn, block.EPROTO, "the server's reply does not fit the request: wrong length, or no errno")
		return len(b)
	}
	c.slots[cookie] = slot{}
	c.used--
	c.free[c.used] = uint32(cookie)
	if length > 0 {
		a.Receive(s.tag, 0, length)
	}
	a.Complete(s.tag, status)
	return replySize
}

// Save gives what the next version goes on from: the greeting.
func (c *conn) Save(a *protocol.Actions) {
	if c.loggedIn && c.used == 0 {
		a.State(c.greeting[:])
	}
}
