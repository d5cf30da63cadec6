package nbd

import (
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// Sizes that hold where the server gives none ("Size constraints"): servers
// ought to take single bytes then, clients ought not to rely on it.
const (
	defaultBlock  = 512
	defaultPrefer = 4096
)

// anyConnections is how many connections are allowed when neither server nor
// option sets a limit; the engine knows better.
const anyConnections = 1 << 15

// capsOfFlags maps transmission flags to capabilities.
var capsOfFlags = [...]struct {
	flag uint16
	caps block.Caps
}{
	{flagReadOnly, block.CapReadOnly},
	{flagSendFlush, block.CapFlush},
	{flagSendFUA, block.CapFUA},
	{flagRotational, block.CapRotational},
	{flagSendTrim, block.CapDiscard},
	{flagSendWriteZeroes, block.CapWriteZeroes},
	{flagCanMultiConn, block.CapFlushCoversAll},
	{flagSendCache, block.CapCache},
	{flagSendFastZero | flagSendWriteZeroes, block.CapFastZero},
}

// limits makes of what the login learned what the engine must know. A text
// says why the export cannot be used.
func (c *conn) limits() (*protocol.Limits, string) {
	if text := c.blockSizes(); text != "" {
		return nil, text
	}
	f := &c.facts
	if f.size > 1<<63-1 {
		return nil, "the NBD server gives the export " + quote(c.export) + " a size of " + decimal(f.size) +
			" bytes, more than a disk can have"
	}
	low := f.minBlock - 1
	c.maxPayload = min(f.maximum, defaultMaxPayload) &^ low
	c.maxEffect = 0
	if c.form != formExtended {
		c.maxEffect = 1<<32 - uint64(f.minBlock)
	}
	return &protocol.Limits{
		Info: block.Info{
			Size: f.size &^ uint64(low), BlockSize: f.minBlock, PreferredBlock: f.prefer,
			MaxTransfer: c.maxPayload, MaxZeroes: c.maxEffect, MaxDiscard: c.maxEffect,
			Caps: c.caps(), Identity: c.identity(),
		},
		Depth:    maxDepth,
		MaxConns: c.maxConns(),
		Handover: true,
	}, ""
}

func (c *conn) caps() (caps block.Caps) {
	flags := c.facts.flags
	if flags&flagHasFlags == 0 {
		flags = 0
	}
	for _, f := range capsOfFlags {
		if flags&f.flag == f.flag {
			caps |= f.caps
		}
	}
	if c.hasContext {
		caps |= block.CapBlockStatus
	}
	return caps
}

// maxConns allows several connections only with a server that promises that
// flush and FUA cover all of them ("Transmission flags", CAN_MULTI_CONN).
func (c *conn) maxConns() uint32 {
	switch {
	case c.facts.flags&(flagHasFlags|flagCanMultiConn) != flagHasFlags|flagCanMultiConn:
		return 1
	case c.connections == 0:
		return anyConnections
	}
	return min(c.connections, anyConnections)
}

// identity is the export's canonical name where the server tells one. Its
// description is left out: it is prose, and may change while the disk does not.
func (c *conn) identity() string {
	if c.facts.hasName {
		return c.facts.name
	}
	return c.export
}

// blockSizes checks the block sizes that the server gave, or fills in the
// defaults: 512, or 1 where the size is no multiple of that, since servers that
// give none ought to take single bytes and the end is not to be reached
// otherwise. A text says what is wrong with them.
func (c *conn) blockSizes() string {
	f := &c.facts
	if !f.hasBlock {
		f.minBlock, f.prefer, f.maximum = defaultBlock, defaultPrefer, defaultMaxPayload
		if f.size%defaultBlock != 0 {
			f.minBlock = 1
		}
		return ""
	}
	switch {
	case !isPower(f.minBlock) || f.minBlock > maxMinBlock:
		return "the NBD server broke the protocol: its minimum block size is " + decimal(uint64(f.minBlock)) +
			", no power of two up to 65536"
	case f.maximum < f.minBlock:
		return "the NBD server broke the protocol: its maximum payload of " + decimal(uint64(f.maximum)) +
			" bytes is smaller than its minimum block size"
	}
	if !isPower(f.prefer) || f.prefer < f.minBlock {
		f.prefer = max(f.minBlock, defaultPrefer) // only advice: mended, not refused
	}
	return ""
}

func isPower(v uint32) bool { return v != 0 && v&(v-1) == 0 }
