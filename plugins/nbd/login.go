package nbd

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// maxOptionData is how much data of one option reply is looked at. What is
// longer is thrown away, up to maxOptionReply; beyond, the server is lying.
const (
	maxOptionData  = 16 << 10
	maxOptionReply = 32 << 20
)

// login is what is needed before the transmission phase only.
type login struct {
	noZeroes bool
	option   uint32   // the option that was sent last
	hasInfo  bool     // size and flags are known
	exports  []string // what LIST told, at most maxListed
	unlisted bool     // there are more
	refusal  string   // the server's words when it refused the export
}

// facts are what the server told of the export. Limits are made of them.
type facts struct {
	size     uint64 // bytes
	minBlock uint32
	prefer   uint32
	maximum  uint32
	flags    uint16 // transmission flags
	hasBlock bool   // it told block sizes
	hasName  bool
	name     string // its canonical name of the export
}

// negotiation handles the bytes of the handshake; once it has begun the
// transmission phase the Machine calls again with what is left.
func (c *conn) negotiation(a *protocol.Actions, b []byte) int {
	n := 0
	for {
		used, need := 0, 0
		switch c.phase {
		case phaseGreeting:
			used, need = c.greeting(a, b[n:])
		case phaseOption:
			used, need = c.optionReply(a, b[n:])
		case phaseExportName:
			used, need = c.exportNameReply(a, b[n:])
		case phaseDead:
			return len(b)
		default:
			return n
		}
		n += used
		if need == directed {
			need = sizeOptReply
		}
		if need > 0 {
			c.want(a, uint32(need))
			return n
		}
	}
}

// directed, given as a need, says that an action directs the following bytes.
const directed = -1

// greeting answers the server's first words ("Newstyle negotiation").
func (c *conn) greeting(a *protocol.Actions, b []byte) (used, need int) {
	if len(b) < sizeGreeting {
		return 0, sizeGreeting
	}
	if get64(b) != magicServer {
		c.fail(a, abi.FailConn, block.EPROTO, "this is no NBD server: it greets with "+quote(string(b[:8]))+
			"; check the address in volume.path")
		return len(b), 0
	}
	switch get64(b[8:]) {
	case magicOption:
	case magicOldstyle:
		c.fail(a, abi.FailConn, block.EPROTO, "the NBD server speaks the oldstyle negotiation, which has no options; "+
			"use a server of the newstyle, or start this one so (nbd-server: a configuration file with named exports)")
		return len(b), 0
	default:
		c.violation(a, "its greeting is neither newstyle nor oldstyle")
		return len(b), 0
	}
	flags := get16(b[16:]) & (flagFixedNewstyle | flagNoZeroes)
	c.login.noZeroes = flags&flagNoZeroes != 0
	put32(a.SendBuffer(4), uint32(flags))
	if flags&flagFixedNewstyle == 0 {
		c.askExportName(a) // the only option of the plain newstyle
	} else {
		c.ask(a, optExtendedHeaders, nil)
	}
	return sizeGreeting, 0
}

// ask sends an option and waits for its replies.
func (c *conn) ask(a *protocol.Actions, option uint32, data []byte) {
	c.phase = phaseOption
	c.login.option = option
	c.sendOption(a, option, data)
}

func (c *conn) sendOption(a *protocol.Actions, option uint32, data []byte) {
	b := a.SendBuffer(sizeOption + len(data))
	put64(b, magicOption)
	put32(b[8:], option)
	put32(b[12:], uint32(len(data)))
	copy(b[sizeOption:], data)
}

func (c *conn) askMetaContext(a *protocol.Actions) {
	d := append32(nil, uint32(len(c.export)))
	d = append(d, c.export...)
	d = append32(d, 1)
	d = append32(d, uint32(len(contextAllocation)))
	c.ask(a, optSetMetaContext, append(d, contextAllocation...))
}

func (c *conn) askGo(a *protocol.Actions) {
	d := append32(nil, uint32(len(c.export)))
	d = append(d, c.export...)
	d = append16(d, 2)
	d = append16(d, infoBlockSize)
	c.ask(a, optGo, append16(d, infoName))
}

func (c *conn) askExportName(a *protocol.Actions) {
	c.phase = phaseExportName
	c.login.option = optExportName
	c.sendOption(a, optExportName, []byte(c.export))
}

// exportNameReply takes size and flags, and 124 zeroes unless they were
// agreed away ("NBD_OPT_EXPORT_NAME").
func (c *conn) exportNameReply(a *protocol.Actions, b []byte) (used, need int) {
	size := 10
	if !c.login.noZeroes {
		size += 124
	}
	if len(b) < size {
		return 0, size
	}
	c.facts.size, c.facts.flags, c.login.hasInfo = get64(b), get16(b[8:]), true
	c.ready(a)
	return size, 0
}

// ready ends the login.
func (c *conn) ready(a *protocol.Actions) {
	l, text := c.limits()
	if text != "" {
		c.disconnect(a) // the server is in the transmission phase already
		c.fail(a, abi.FailConn, block.EINVAL, text)
		return
	}
	if l.Size != c.facts.size {
		a.Log(abi.LogWarn, "the export's size is no multiple of the server's minimum block size; its last "+
			decimal(c.facts.size-l.Size)+" bytes cannot be reached")
	}
	c.begin(a, l)
	c.login = login{}
}

// begin begins the transmission phase.
func (c *conn) begin(a *protocol.Actions, l *protocol.Limits) {
	c.table = new(table)
	c.phase = phaseReady
	a.Limits(l)
	c.want(a, c.base())
}
