package nbd

import (
	"math/bits"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// phase says what the next bytes of the server are.
type phase uint8

const (
	phaseGreeting   phase = iota
	phaseOption           // a reply to the option that was sent last
	phaseExportName       // the answer to EXPORT_NAME, which has no header
	phaseReady            // transmission
	phaseDead             // the connection has failed or said goodbye
)

// form is how requests and replies look in the transmission phase.
type form uint8

const (
	formSimple form = iota
	formStructured
	formExtended
)

// conn is the state machine of one connection to a server. What each request
// needs stands first.
type conn struct {
	protocol.Base
	mask       uint64 // cookies are tags XOR mask
	phase      phase
	form       form
	windowed   bool   // a request was refused; since then each free slot is told
	hasContext bool   // base:allocation was agreed on
	min        uint32 // the Want in force
	table      *table // made when login is done
	maxEffect  uint64 // longest request without payload; 0: any
	maxPayload uint32 // bytes
	context    uint32 // id of base:allocation
	pool       pool
	chunk      statusChunk // the block status chunk that is being received

	errorsLogged int
	connections  uint32 // the option; 0: as the engine likes
	export       string
	facts        facts // kept for Save
	login        login
}

// maxWindow is the largest window asked for in the transmission phase: 32
// simple replies. Larger ones would only copy payload that is not looked at.
const maxWindow = 512

// Opened waits for the server's greeting, or goes on where the version before
// stopped.
func (c *conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	c.export = o.Option(optionExport)
	n, ok := parseUint(o.Option(optionConnections))
	switch {
	case !ok:
		c.fail(a, abi.FailForever, block.EINVAL, "volume.options."+optionConnections+
			" is not a number that fits 32 bits: "+quote(o.Option(optionConnections)))
	case len(c.export) > maxString:
		c.fail(a, abi.FailForever, block.EINVAL, "volume.options."+optionExport+
			" is longer than the 4096 bytes that NBD allows")
	case o.Session == abi.SessionResumed:
		c.connections = n
		c.resume(a, o.State)
		if o.Flags&abi.FlagShadow != 0 {
			c.imitate(o.State)
		}
	default:
		c.connections = n
		c.want(a, sizeGreeting)
	}
}

// Received reads on for as long as whole messages are there and no action
// directs the bytes after them elsewhere.
func (c *conn) Received(a *protocol.Actions, b []byte) int {
	if c.phase == phaseReady {
		return c.transmission(a, b)
	}
	return c.negotiation(a, b)
}

// Goodbye disconnects softly ("Terminating the transmission phase").
func (c *conn) Goodbye(a *protocol.Actions) {
	c.takeLeave(a)
	c.phase = phaseDead
	a.Close()
}

// takeLeave tells the server that the client goes.
func (c *conn) takeLeave(a *protocol.Actions) {
	switch c.phase {
	case phaseReady:
		c.disconnect(a)
	case phaseOption:
		c.sendOption(a, optAbort, nil)
	}
}

// disconnect sends DISC.
func (c *conn) disconnect(a *protocol.Actions) {
	c.header(a.SendBuffer(c.headerSize()), bits.ReverseBytes32(cmdDisc), 0, 0, 0)
}

// Closed explains an end of the connection that the protocol gives no words for.
func (c *conn) Closed(a *protocol.Actions, reason uint32) {
	if reason != abi.ClosedEOF {
		return
	}
	switch c.phase {
	case phaseGreeting:
		a.Log(abi.LogWarn, "the server closed the connection before its greeting; it may admit fewer clients than there are")
	case phaseExportName:
		a.Log(abi.LogWarn, "the server closed the connection when asked for export "+quote(c.export)+
			"; it may have no such export: set volume.options."+optionExport)
	}
}

// want asks for windows of at least n bytes, if that is news.
func (c *conn) want(a *protocol.Actions, n uint32) {
	if n != c.min && c.phase != phaseDead {
		c.wantOther(a, n)
	}
}

func (c *conn) wantOther(a *protocol.Actions, n uint32) {
	c.min = n
	limit := uint32(maxWindow)
	if c.phase != phaseReady {
		limit = maxOptionData
	}
	a.Want(n, max(n, limit))
}

// fail ends the connection; nothing that comes later is looked at.
func (c *conn) fail(a *protocol.Actions, scope uint32, s block.Status, text string) {
	c.phase = phaseDead
	a.Fail(scope, s, text)
}

// violation ends a connection whose server broke the protocol.
func (c *conn) violation(a *protocol.Actions, text string) {
	c.fail(a, abi.FailConn, block.EPROTO, "the NBD server broke the protocol: "+text)
}
