package nbd

import (
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// statusChunk is a block status chunk that is being received. Its descriptors
// come one behind the other, as many as the server likes; of all of them only
// the extent that may still grow is kept.
type statusChunk struct {
	s     *slot
	left  uint64 // descriptors still to come
	rest  uint64 // bytes of the request that none has described yet
	size  uint64 // of the extent that may still grow; 0 if there is none
	state block.ExtentState
	done  bool // the chunk ends its reply
}

func (c *conn) descriptorSize() int {
	if c.form == formExtended {
		return 16
	}
	return 8
}

// blockStatus handles the start of a chunk of type BLOCK_STATUS or
// BLOCK_STATUS_EXT, up to its first descriptor.
func (c *conn) blockStatus(a *protocol.Actions, b []byte, h *header) (used, need int) {
	each := uint64(c.descriptorSize())
	fixed := each / 2 // the context's id, and in the extended form a count
	switch {
	case h.s.op != block.OpBlockStatus:
		return c.brokenChunk(a, h, "has a block status")
	case h.length < fixed+each || (h.length-fixed)%each != 0 || h.length > maxStatusChunk:
		return c.brokenChunk(a, h, "is a block status with the length "+decimal(h.length))
	case h.s.status:
		return c.brokenChunk(a, h, "is a second block status")
	case len(b) < h.size+int(fixed):
		return 0, h.size + int(fixed)
	}
	count := (h.length - fixed) / each
	switch {
	case get32(b[h.size:]) != c.context:
		return c.brokenChunk(a, h, "is of metadata context "+decimal(uint64(get32(b[h.size:])))+", which was not asked for")
	case fixed == 8 && uint64(get32(b[h.size+4:])) != count:
		return c.brokenChunk(a, h, "counts "+decimal(uint64(get32(b[h.size+4:])))+" extents and holds "+decimal(count))
	}
	h.s.status = true
	c.chunk = statusChunk{s: h.s, left: count, rest: h.s.length, done: h.done}
	return h.size + int(fixed), 0
}

// extents handles as many descriptors as are there. What lies behind the end of
// the request is not told to the engine: the last extent is cut, and further
// ones are thrown away.
func (c *conn) extents(a *protocol.Actions, b []byte) (used, need int) {
	k, each := &c.chunk, c.descriptorSize()
	for k.left > 0 && k.rest > 0 {
		if len(b)-used < each {
			return used, each
		}
		length, state := c.descriptor(b[used:])
		if length == 0 {
			return c.broken(a, "its reply to "+describe(k.s)+" has an empty extent")
		}
		used += each
		k.left--
		c.extent(a, min(length, k.rest), state)
	}
	surplus := k.left * uint64(each)
	k.left = 0
	k.flush(a)
	if surplus > 0 {
		a.Discard(surplus)
	}
	if k.done {
		c.finish(a, k.s)
	}
	if surplus > 0 || c.phase == phaseDead {
		return used, directed
	}
	return used, 0
}

// descriptor reads one; of its flags only the defined ones count.
func (c *conn) descriptor(b []byte) (length uint64, state block.ExtentState) {
	const known = block.Hole | block.Zero // the same bits as NBD's
	if c.form == formExtended {
		return get64(b), block.ExtentState(get64(b[8:])) & known
	}
	return uint64(get32(b)), block.ExtentState(get32(b[4:])) & known
}

// extent joins an extent with the one before, or gives that one out.
func (c *conn) extent(a *protocol.Actions, length uint64, state block.ExtentState) {
	k := &c.chunk
	if k.size > 0 && k.state != state {
		k.flush(a)
	}
	k.size += length
	k.state = state
	k.rest -= length
	if k.s.one {
		k.rest = 0
	}
}

func (k *statusChunk) flush(a *protocol.Actions) {
	if k.size > 0 {
		a.Extent(k.s.tag, k.size, k.state)
	}
	k.size = 0
}
