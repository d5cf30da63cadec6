package tiny

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// The state that is handed over: u32 magic, u32 format, u32 features, u32 block
// size, u64 size, u64 token, u32 credits. What stands behind that is a later
// version's and ignored.
const (
	stateMagic  = 0x796e6974 // "tiny"
	stateFormat = 1
	stateSize   = 36
)

// Save writes down what resume needs, at a boundary between messages. Answers
// to pings and cancels that are on their way mean nothing, so they do not count.
func (c *Conn) Save(a *protocol.Actions) {
	if !c.loggedIn || c.used > 0 || c.piece.left > 0 {
		return
	}
	b := le.AppendUint32(le.AppendUint32(nil, stateMagic), stateFormat)
	b = le.AppendUint32(le.AppendUint32(b, c.features), c.blockSize)
	b = le.AppendUint64(le.AppendUint64(b, c.size), c.token)
	a.State(le.AppendUint32(b, c.credits))
}

// resume goes on where another version saved.
func (c *Conn) resume(a *protocol.Actions, state []byte) {
	if text := c.restore(state); text != "" {
		a.Fail(abi.FailConn, block.EINVAL, "the saved state "+text)
		return
	}
	c.begin(a)
}

// restore reads a state; a text says what is wrong with it.
func (c *Conn) restore(b []byte) string {
	switch {
	case len(b) < stateSize || le.Uint32(b) != stateMagic:
		return "is not this protocol's"
	case le.Uint32(b[4:]) != stateFormat:
		return "is of another format"
	case le.Uint32(b[8:]) != c.features:
		return "is of a connection with other features than the option says"
	}
	c.blockSize, c.size, c.token, c.credits = le.Uint32(b[12:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint32(b[32:])
	switch n := c.blockSize; {
	case n == 0 || n&(n-1) != 0 || n > 64<<10:
		return "has a block size that cannot be"
	case c.size%uint64(n) != 0 || c.size > 1<<63-1:
		return "has a size that cannot be"
	case c.features&FeatureCredits != 0 && c.credits == 0:
		return "has no credits"
	}
	return ""
}
