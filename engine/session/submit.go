package session

import (
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

const requestSize = int(unsafe.Sizeof(abi.Request{}))

// submit offers the plugin what waits in a list, as much as it can take.
func (cn *conn) submit(from *list) {
	if cn.link != nil {
		cn.submitLink(from)
		return
	}
	for cn.state == online && from.Len() > 0 && !cn.await.on {
		n := cn.offerBatch(from)
		if n == 0 {
			break
		}
		cn.taken = len(cn.offered)
		cn.credits -= min(cn.credits, uint64(cn.taken)) // what Ready gives from now on is new
		cn.await.from = from
		if !cn.call(n, guest.BudgetCall+int64(n)*guest.PerByte, thenSubmit) || !cn.submitted(from) {
			return
		}
	}
}

// submitted follows an offer.
func (cn *conn) submitted(from *list) bool {
	if !cn.takeBatch(from) {
		return false
	}
	if !cn.gen.copies {
		return true
	}
	cn.handing = handing{}
	return cn.handPayload()
}

// room is how many requests can be offered now.
func (cn *conn) room() int {
	n := len(cn.free)
	if cn.starved {
		n = min(n, int(min(cn.credits, maxSlots)))
	}
	if cn.gen.copies {
		n = min(n, 1) // each is followed by its payload
		if cn.stream.Copied() > maxCopied {
			n = 0 // which it sends by copy: let that go first
		}
	}
	return n
}

// offerBatch writes request events and returns their length in bytes.
func (cn *conn) offerBatch(from *list) int {
	in := cn.inst.Input()
	room := min(cn.room(), len(in)/requestSize)
	cn.offered = cn.offered[:0]
	at := 0
	for io := from.first(); io != nil && len(cn.offered) < room; io = from.first() {
		from.remove(io)
		if cn.ch.parks(cn, io) {
			continue
		}
		tag := cn.offer(io)
		*abi.Overlay[abi.Request](in[at:]) = abi.Request{
			Header: abi.Header{Kind: abi.EvRequest, Size: uint32(requestSize)},
			Tag:    tag, Op: io.Op, Mods: io.Flags, Offset: io.Offset, Length: io.Length,
		}
		at += requestSize
		cn.offered = append(cn.offered, uint32(tag))
		cn.order.pushBack(io)
	}
	return at
}

// parks keeps a request that cn must not have yet: a write that would overtake
// one of unknown outcome, a flush that is to cover what the generation before
// has under way.
func (c *channel) parks(cn *conn, io *volume.IO) bool {
	if wait, until := c.s.fences.blocks(io); wait {
		if until > 0 { // it is no fault of the server's, nor of the guest's
			io.Lower.Deadline = max(io.Lower.Deadline, until+int64(c.s.opt.Timeout))
		}
		c.parked.pushBack(io)
		return true
	}
	if io.Op == block.OpFlush && c.draining != nil && c.draining != cn && !c.draining.settled {
		c.flushes.pushBack(io)
		return true
	}
	return false
}

// takeBatch puts back what the plugin did not take.
func (cn *conn) takeBatch(from *list) bool {
	if cn.taken == len(cn.offered) {
		return true
	}
	for _, n := range cn.offered[cn.taken:] {
		s := &cn.slots[n]
		if s.ended || s.recv > 0 || s.lent > 0 || s.io == nil {
			return cn.violation("it acted on a request that it did not take")
		}
		io := s.io
		cn.order.remove(io)
		cn.vacate(n)
		from.insert(io)
	}
	cn.offered = cn.offered[:cn.taken]
	return true
}

// handing is how much of the offered requests' payload has been handed.
type handing struct {
	n  int // index of the request
	at uint64
}

// handPayload gives a plugin that transforms payload a copy of it, from where it
// stands on.
func (cn *conn) handPayload() bool {
	for h := &cn.handing; h.n < len(cn.offered); {
		n := cn.offered[h.n]
		s := &cn.slots[n]
		io := s.io
		if !s.held || s.ended || io == nil || io.Op != block.OpWrite || h.at == io.Length {
			*h = handing{n: h.n + 1}
			continue
		}
		from, piece := h.at, min(io.Length-h.at, abi.MaxInline)
		h.at += piece
		if !cn.payloadEvent(tagOf(n, s.gen), io, from, piece) {
			return false
		}
	}
	return true
}

func (cn *conn) payloadEvent(tag uint64, io *volume.IO, from, n uint64) bool {
	const fixed = int(unsafe.Sizeof(abi.Payload{}))
	in := cn.inst.Input()
	size := abi.Align(fixed + int(n))
	*abi.Overlay[abi.Payload](in) = abi.Payload{
		Header: abi.Header{Kind: abi.EvPayload, Size: uint32(size)}, Tag: tag, From: from, Len: uint32(n),
	}
	if !fetch(in[fixed:], io, from, from+n) {
		cn.giveUp(io)
		return false
	}
	return cn.call(size, guest.BudgetCall+int64(size)*guest.PerByte, thenPayload)
}
