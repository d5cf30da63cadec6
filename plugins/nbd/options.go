package nbd

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// maxListed is how many names of exports a failure text shows.
const maxListed = 8

// optionReply handles one reply to the last option ("Fixed newstyle negotiation").
func (c *conn) optionReply(a *protocol.Actions, b []byte) (used, need int) {
	if len(b) < sizeOptReply {
		return 0, sizeOptReply
	}
	option, kind, length := get32(b[8:]), get32(b[12:]), get32(b[16:])
	switch {
	case get64(b) != magicOptReply:
		c.violation(a, "an option reply has the wrong magic number")
	case option != c.login.option:
		c.violation(a, "it answers option "+decimal(uint64(option))+" where "+optionName(c.login.option)+" was sent")
	case length > maxOptionReply:
		c.violation(a, "a reply to "+optionName(option)+" is said to be "+decimal(uint64(length))+" bytes long")
	case length > maxOptionData:
		// Too long to be anything that matters here, but legal.
		a.Discard(uint64(length))
		c.optionAnswer(a, kind, nil)
		return sizeOptReply, directed
	default:
		size := sizeOptReply + int(length)
		if len(b) < size {
			return 0, size
		}
		c.optionAnswer(a, kind, b[sizeOptReply:size])
		return size, 0
	}
	return len(b), 0
}

// optionAnswer goes on with the login. data is nil if there was too much of it.
func (c *conn) optionAnswer(a *protocol.Actions, kind uint32, data []byte) {
	if c.refusedAltogether(a, kind, data) {
		return
	}
	switch c.login.option {
	case optExtendedHeaders:
		c.extendedAnswer(a, kind)
	case optStructuredReply:
		c.structuredAnswer(a, kind)
	case optSetMetaContext:
		c.contextAnswer(a, kind, data)
	case optGo:
		c.goAnswer(a, kind, data)
	default:
		c.listAnswer(a, kind, data)
	}
}

// refusedAltogether handles the errors that mean the same for every option.
func (c *conn) refusedAltogether(a *protocol.Actions, kind uint32, data []byte) bool {
	switch {
	case c.login.option == optList:
	case kind == repErrTLSReqd:
		c.giveUp(a, block.EACCES, "the NBD server wants TLS"+words(data)+
			"; set volume.path.address to tls:HOST:PORT, or let the server allow plain connections")
		return true
	case kind == repErrShutdown:
		c.giveUp(a, block.ESHUTDOWN, "the NBD server is shutting down"+words(data))
		return true
	}
	return false
}

// extendedAnswer: extended headers imply structured replies.
func (c *conn) extendedAnswer(a *protocol.Actions, kind uint32) {
	switch {
	case kind == repAck:
		c.form = formExtended
		c.askMetaContext(a)
	case kind&repErr != 0:
		c.ask(a, optStructuredReply, nil)
	default:
		c.strange(a, kind)
	}
}

func (c *conn) structuredAnswer(a *protocol.Actions, kind uint32) {
	switch {
	case kind == repAck:
		c.form = formStructured
		c.askMetaContext(a)
	case kind&repErr != 0:
		c.askGo(a)
	default:
		c.strange(a, kind)
	}
}

// contextAnswer: without the context there is no block status, no more.
func (c *conn) contextAnswer(a *protocol.Actions, kind uint32, data []byte) {
	switch {
	case kind == repMetaContext:
		if len(data) >= 4 && string(data[4:]) == contextAllocation {
			c.context, c.hasContext = get32(data), true
		}
	case kind == repAck:
		c.askGo(a)
	case kind&repErr != 0:
		c.hasContext = false
		c.askGo(a)
	default:
		c.strange(a, kind)
	}
}

func (c *conn) goAnswer(a *protocol.Actions, kind uint32, data []byte) {
	switch {
	case kind == repInfo:
		c.info(a, data)
	case kind == repAck && c.login.hasInfo:
		c.ready(a)
	case kind == repAck:
		c.violation(a, "it let go without telling the export's size")
	case kind == repErrUnsup && c.form != formExtended:
		c.askExportName(a)
	case kind == repErrUnknown:
		c.login.refusal = words(data)
		c.ask(a, optList, nil)
	case kind&repErr != 0:
		c.giveUp(a, statusOfRefusal(kind), "the NBD server refuses export "+quote(c.export)+": "+
			refusalName(kind)+words(data)+"; its own log may tell more")
	default:
		c.strange(a, kind)
	}
}

// info takes what the server tells about the export ("NBD_REP_INFO").
func (c *conn) info(a *protocol.Actions, data []byte) {
	f := &c.facts
	if len(data) < 2 {
		if data != nil {
			c.violation(a, "an information about the export has no type")
		}
		return
	}
	switch kind, body := get16(data), data[2:]; {
	case kind == infoExport && len(body) == 10:
		f.size, f.flags, c.login.hasInfo = get64(body), get16(body[8:]), true
	case kind == infoBlockSize && len(body) == 12:
		f.minBlock, f.prefer, f.maximum, f.hasBlock = get32(body), get32(body[4:]), get32(body[8:]), true
	case kind == infoExport || kind == infoBlockSize:
		c.violation(a, "an information about the export has the wrong length, "+decimal(uint64(len(data))))
	case kind == infoName && len(body) <= maxString:
		f.name, f.hasName = string(body), true
	}
}

// listAnswer collects names until the server has told them all; then the
// export that it does not have can be complained about.
func (c *conn) listAnswer(a *protocol.Actions, kind uint32, data []byte) {
	g := &c.login
	if kind == repServer {
		if len(g.exports) == maxListed {
			g.unlisted = true
		} else if len(data) >= 4 && uint64(get32(data)) <= uint64(len(data)-4) {
			g.exports = append(g.exports, string(data[4:4+get32(data)]))
		}
		return
	}
	c.giveUp(a, block.ENOENT, "the NBD server has no export "+quote(c.export)+g.refusal+c.remedy())
}

// strange ends the login over a reply that does not belong to its option.
func (c *conn) strange(a *protocol.Actions, kind uint32) {
	c.violation(a, "it answers "+optionName(c.login.option)+" with a reply of type "+decimal(uint64(kind)))
}

// giveUp takes leave of a server that keeps to the protocol but will not serve.
// It may change its mind, so the engine is to try again.
func (c *conn) giveUp(a *protocol.Actions, s block.Status, text string) {
	c.takeLeave(a)
	c.fail(a, abi.FailConn, s, text)
}
