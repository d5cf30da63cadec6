package nbd

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// The state that a connection leaves to the next version of the plugin, which
// goes on with it on the same socket. Little endian:
//
//	 0  "nbd"
//	 3  u8   format of the state, 1
//	 4  u8   form of requests and replies: 0 simple, 1 structured, 2 extended
//	 5  u8   bits: 1 base:allocation was agreed on, 2 the server told a name
//	 6  u16  transmission flags
//	 8  u64  size of the export in bytes
//	16  u32  its minimum, preferred and maximum block size in bytes
//	28  u32  id of base:allocation
//	32  u16  n, length of the option export
//	34  u16  m, length of the server's name of the export
//	36  n bytes, then m bytes
//	    u64  what its cookies differ by from tags
//
// What stands behind that was added by a later version, and may be ignored. A
// change that may not be ignored takes another format. What a version reads it
// must go on reading, and should write, so that one can go back to the version
// before.
//
// Nothing is outstanding, so each version uses cookies of its own. Only one that
// runs beside the version that has saved, as its shadow, uses that one's.

const (
	stateMagic  = "nbd"
	stateFormat = 1
	stateFixed  = 36
	stateMask   = 8

	stateHasContext = 1 << 0
	stateHasName    = 1 << 1
)

// Save gives the state of a connection in the transmission phase that waits for
// no reply. At any other moment there is none. (In the middle of a message a
// reply is awaited: the rest of it.)
func (c *conn) Save(a *protocol.Actions) {
	if c.phase == phaseReady && c.table.used == 0 {
		a.State(c.state())
	}
}

func (c *conn) state() []byte {
	f, bits := &c.facts, byte(0)
	if c.hasContext {
		bits |= stateHasContext
	}
	if f.hasName {
		bits |= stateHasName
	}
	b := make([]byte, stateFixed, stateFixed+len(c.export)+len(f.name))
	copy(b, stateMagic)
	b[3], b[4], b[5] = stateFormat, byte(c.form), bits
	putNative16(b[6:], f.flags)
	putNative64(b[8:], f.size)
	putNative32(b[16:], f.minBlock)
	putNative32(b[20:], f.prefer)
	putNative32(b[24:], f.maximum)
	putNative32(b[28:], c.context)
	putNative16(b[32:], uint16(len(c.export)))
	putNative16(b[34:], uint16(len(f.name)))
	b = append(append(b, c.export...), f.name...)
	b = append(b, make([]byte, stateMask)...)
	putNative64(b[len(b)-stateMask:], c.mask)
	return b
}

// imitate has a shadow that was resumed number its requests as the version does
// that has saved.
func (c *conn) imitate(state []byte) {
	if c.phase == phaseReady {
		c.mask = native64(state[stateFixed+len(c.export)+len(c.facts.name):])
	}
}

func putNative16(b []byte, v uint16) { b[0], b[1] = byte(v), byte(v>>8) }
func native16(b []byte) uint16       { return uint16(b[0]) | uint16(b[1])<<8 }

// resume goes on in the transmission phase where another instance saved. It
// sends nothing. A state that it does not understand it refuses; the instance
// that saved it then goes on.
func (c *conn) resume(a *protocol.Actions, state []byte) {
	text := c.restore(state)
	if text == "" {
		text = c.facts.check()
	}
	var l *protocol.Limits
	if text == "" {
		l, text = c.limits()
	}
	if text != "" {
		c.fail(a, abi.FailConn, block.EINVAL, "the connection of another version of the nbd plugin cannot be taken over: "+text)
		return
	}
	c.begin(a, l)
}

// restore reads a state, which may be anything. A text says what is wrong.
func (c *conn) restore(b []byte) string {
	if len(b) < stateFixed+stateMask || string(b[:3]) != stateMagic {
		return "what it saved, " + decimal(uint64(len(b))) + " bytes, is no state of this plugin"
	}
	if b[3] != stateFormat {
		return "its state has format " + decimal(uint64(b[3])) + "; this version reads format " + decimal(stateFormat)
	}
	bits := b[5]
	n, m := int(native16(b[32:])), int(native16(b[34:]))
	c.form, c.hasContext, c.context = form(b[4]), bits&stateHasContext != 0, native32(b[28:])
	switch {
	case c.form > formExtended:
		return "its state has the unknown form of replies " + decimal(uint64(b[4]))
	case bits&^(stateHasContext|stateHasName) != 0 || c.hasContext && c.form == formSimple:
		return "its state has the features " + decimal(uint64(bits)) + ", which do not fit the form of replies"
	case n > maxString || m > maxString || len(b) < stateFixed+n+m+stateMask || m > 0 && bits&stateHasName == 0:
		return "its state has names of " + decimal(uint64(n)) + " and " + decimal(uint64(m)) +
			" bytes, which it cannot hold"
	}
	if export := string(b[stateFixed : stateFixed+n]); export != c.export {
		return "it leads to export " + quote(export) + ", and volume.options." + optionExport + " is now " +
			quote(c.export) + "; a new connection is needed"
	}
	c.facts = facts{
		size: native64(b[8:]), flags: native16(b[6:]), hasBlock: true,
		minBlock: native32(b[16:]), prefer: native32(b[20:]), maximum: native32(b[24:]),
		hasName: bits&stateHasName != 0, name: string(b[stateFixed+n : stateFixed+n+m]),
	}
	return ""
}

// check tells what is impossible in facts that were saved. A login mends block
// sizes before it saves them, so these have no excuse.
func (f *facts) check() string {
	switch {
	case f.size > 1<<63-1:
		return "its state has a size of " + decimal(f.size) + " bytes, more than a disk can have"
	case !isPower(f.minBlock) || f.minBlock > maxMinBlock,
		!isPower(f.prefer) || f.prefer < f.minBlock,
		f.maximum < f.minBlock:
		return "its state has the block sizes " + decimal(uint64(f.minBlock)) + ", " + decimal(uint64(f.prefer)) +
			" and " + decimal(uint64(f.maximum)) + ", which cannot be"
	}
	return ""
}
