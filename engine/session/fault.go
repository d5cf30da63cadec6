package session

import (
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// A request's memory may be a virtual machine's, whose monitor can take it away
// at any time (DESIGN chapter 2, rule 9). Here it is touched by copies, which
// fault, and lent to the kernel, which says EFAULT. Either costs that request.

// fill copies what was received into a read's payload, from at on. It reports
// whether the memory was there.
func fill(io *volume.IO, at uint64, b []byte) bool {
	return sys.Guard(func() {
		if dst := io.Contiguous(); dst != nil {
			copy(dst[at:], b)
			return
		}
		io.EachSegment(at, at+uint64(len(b)), func(part []byte) { b = b[copy(part, b):] })
	}) == nil
}

// wipe zeroes bytes [from, to) of a read's payload.
func wipe(io *volume.IO, from, to uint64) bool {
	return sys.Guard(func() { io.EachSegment(from, to, func(b []byte) { clear(b) }) }) == nil
}

// fetch copies bytes [from, to) of a write's payload to dst.
func fetch(dst []byte, io *volume.IO, from, to uint64) bool {
	return sys.Guard(func() {
		at := 0
		io.EachSegment(from, to, func(b []byte) { at += copy(dst[at:], b) })
	}) == nil
}

// spoil fails a read whose memory is gone. The plugin keeps its slot; what still
// comes for it is thrown away.
func (cn *conn) spoil(n uint32) {
	s := &cn.slots[n]
	io := s.io
	if io == nil {
		return
	}
	cn.logSpoilt(io)
	cn.order.remove(io)
	s.io = nil
	cn.ch.finish(io, block.EIO)
}

// giveUp ends the connection because a write's memory is gone: what was begun of
// it on the stream cannot be finished.
func (cn *conn) giveUp(io *volume.IO) {
	cn.logSpoilt(io)
	io.Lower.Flags |= ioSpoilt
	cn.lose(loss{text: "a write's memory is gone: its owner has taken it away"})
}

func (cn *conn) logSpoilt(io *volume.IO) {
	if cn.mayLog() {
		cn.log.Error("a request fails because its memory is gone: its owner has taken it away",
			"op", io.Op.String(), "offset", io.Offset, "length", io.Length)
	}
}

// sendFault finds the write whose memory the kernel has missed.
func (cn *conn) sendFault() {
	if loan, found := cn.stream.Culprit(); found {
		if io := cn.slots[loan].io; io != nil {
			cn.giveUp(io)
			return
		}
	}
	cn.lose(loss{text: "send: " + sys.EFAULT.Error(), byEOF: true})
}

// again puts a request of a lost connection in line, or fails it if it cannot be
// sent.
func (c *channel) again(io *volume.IO) {
	if io.Lower.Flags&ioSpoilt != 0 {
		c.finish(io, block.EIO)
		return
	}
	c.waiting.insert(io)
}
