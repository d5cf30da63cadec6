package main

import (
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// conn hands everything on to the nbd plugin's own, but for its fault. It is no
// protocol.Windower, so it is slower than that even without one.
type conn struct {
	protocol.Conn
	fault    string // the export's name
	session  uint16 // how the connection came to be
	requests int    // seen so far
}

// Opened is where the faults of the login lie: those of any login, those of a
// handover only, which no trial login beforehand can show, and those of a login
// that is not for a trial, which come to light when a connection is lost.
func (c *conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	c.fault, c.session = o.Option("export"), o.Session
	resumed, again := o.Session == abi.SessionResumed, o.Session == abi.SessionReconnect
	switch {
	case c.fault == "fail-login", c.fault == "fail-resume" && resumed, c.fault == "fail-again" && again:
		a.Fail(abi.FailConn, block.EACCES, "this version cannot log in")
	case c.fault == "hang-login", c.fault == "hang-resume" && resumed, c.fault == "hang-again" && again:
	case c.fault == "trap-login", c.fault == "trap-resume" && resumed:
		panic("this version traps as soon as it is connected")
	default:
		c.lying(a, func() { c.Conn.Opened(a, o) })
	}
}

func (c *conn) Received(a *protocol.Actions, b []byte) (consumed int) {
	switch c.fault {
	case "hang-login":
		return len(b)
	case "hang-again":
		if c.session == abi.SessionReconnect {
			return len(b)
		}
	case "slow":
		burn()
	}
	c.lying(a, func() { consumed = c.Conn.Received(a, b) })
	return consumed
}

// lying calls f and makes a lie of the Limits that it gives, if that is the
// fault.
func (c *conn) lying(a *protocol.Actions, f func()) {
	out := a.Raw()
	f()
	for rest := out[:len(out)-len(a.Raw())]; ; {
		rec, more, ok := abi.Next(rest)
		if !ok {
			return
		}
		if abi.Overlay[abi.Header](rec).Kind == abi.ActLimits {
			c.lie(rec)
		}
		rest = more
	}
}

func (c *conn) lie(rec []byte) {
	l := abi.Overlay[abi.Limits](rec)
	switch what := c.fault; {
	case what == "lie-size", what == "lie-resumed-size" && c.session == abi.SessionResumed:
		l.Size /= 2
	case what == "lie-block", what == "lie-resumed-block" && c.session == abi.SessionResumed:
		l.BlockSize *= 8
	case what == "lie-identity", what == "lie-resumed-identity" && c.session == abi.SessionResumed:
		if l.IdentityLen > 0 {
			rec[unsafe.Sizeof(*l)] ^= 1 // the identity's first byte
		}
	}
}

// thousand is the request that the fault trap-thousandth does not survive.
const thousand = 1000

// foreign is a tag that no request has.
const foreign = 0xdeadbeefdeadbeef

func (c *conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	c.requests += len(batch)
	switch c.fault {
	case "trap-first":
		panic("this version takes no request")
	case "trap-read":
		if batch[0].Op == block.OpRead {
			panic("this version cannot read")
		}
	case "loop":
		for c.requests > 0 {
			sum++ // until the meter stops it
		}
	case "trap-thousandth":
		if c.requests >= thousand {
			panic("this version takes so many requests and no more")
		}
	case "complete-foreign":
		a.Complete(foreign, block.OK)
	case "complete-unfilled":
		return c.answerReads(a, batch, block.OK)
	case "eio":
		return c.answerReads(a, batch, block.EIO)
	case "swallow":
		return len(batch) // and that was it
	case "slow":
		burn()
	case "leak":
		leak(len(batch))
	}
	return c.Conn.Submit(a, batch)
}

// answerReads completes reads without asking the server.
func (c *conn) answerReads(a *protocol.Actions, batch []protocol.Request, s block.Status) int {
	for i := range batch {
		if batch[i].Op == block.OpRead {
			a.Complete(batch[i].Tag, s)
		} else if c.Conn.Submit(a, batch[i:i+1]) == 0 {
			return i
		}
	}
	return len(batch)
}

// What keeps the loops below from being optimised away.
var (
	sum  uint64
	kept [][]byte
)

// burn wastes most of a millisecond, and far fewer ticks of the meter than a
// call may have: a turn is long, because each division waits for the last. Were
// it inlined, a turn would be charged for all that it is inlined into.
//
//go:noinline
func burn() {
	n, all := sum, ^uint64(0)
	for range 24_000 {
		n = all/(n|1) | 1<<32
		n = all/(n|1) | 1<<32
		n = all/(n|1) | 1<<32
		n = all/(n|1) | 1<<32
	}
	sum = n
}

// leak keeps memory for n requests. It stays within what a call may do.
func leak(n int) {
	for range min(n, 8) {
		b := make([]byte, 64<<10)
		b[0] = 1
		kept = append(kept, b)
	}
}
