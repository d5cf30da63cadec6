package nbd

import (
	"math/bits"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
)

// The loops of this file do what requests.go and replies.go do, for what
// nearly all of a load consists of: reads and writes with compact headers that
// succeed in one piece. They call nothing and write the records by themselves.
// In WebAssembly, where each call of Go code and each jump that is taken costs
// some nanoseconds, that is several times as fast. Whatever is out of the
// ordinary they leave to the others, untouched.

// The first words of the records that they write: kind and size.
const (
	wordConsume  = abi.ActConsume | 16<<32
	wordReceive  = abi.ActReceive | 32<<32
	wordPayload  = abi.ActSendPayload | 32<<32
	wordComplete = abi.ActComplete | 32<<32
)

// submitRoom is the most that one request takes of the output buffer: a Send
// record with a header and padding, and a SendPayload record.
const submitRoom = 16 + sizeRequest + 4 + 32

// maxRun bounds the headers of one Send record.
const maxRun = abi.MaxInline / sizeRequest

// submitFast sends reads and writes from the start of a batch and returns how
// many. Headers that no payload follows are put into one Send record.
func (c *conn) submitFast(a *protocol.Actions, batch []protocol.Request) int {
	if c.form == formExtended {
		return 0
	}
	out := a.Raw()
	room := min(len(batch), maxDepth-c.table.used, len(out)/submitRoom)
	if room <= 0 {
		return 0
	}
	p := unsafe.Pointer(unsafe.SliceData(out))
	at, send, i := 0, -1, 0 // send: where the open Send record starts
	mask, limit, slots := c.mask, uint64(c.maxPayload), &c.table.slots
	for i < room {
		r := &batch[i]
		s := &slots[r.Tag%tableSlots]
		if r.Op-block.OpRead > block.OpWrite-block.OpRead || r.Length > limit || s.op != 0 {
			break
		}
		if send < 0 {
			send = at
			at += 16
		}
		w := (*[3]uint64)(unsafe.Add(p, at))
		w[0] = uint64(bits.ReverseBytes32(magicRequest)) | uint64(command(r))<<32
		w[1] = r.Tag ^ mask
		w[2] = bits.ReverseBytes64(r.Offset)
		*(*uint32)(unsafe.Add(p, at+24)) = bits.ReverseBytes32(uint32(r.Length))
		at += sizeRequest
		s.tag, s.offset, s.length = r.Tag, r.Offset, r.Length
		s.left, s.lo, s.hi, s.failed = uint32(r.Length), 0, 0, 0
		s.pieces, s.op, s.status, s.one = 0, r.Op, false, false
		i++
		if r.Op == block.OpRead && at-send < 16+(maxRun-1)*sizeRequest {
			continue
		}
		at = closeSend(p, send, at)
		send = -1
		if r.Op == block.OpWrite {
			w := (*[4]uint64)(unsafe.Add(p, at))
			w[0], w[1], w[2], w[3] = wordPayload, r.Tag, 0, r.Length
			at += 32
		}
	}
	if send >= 0 {
		at = closeSend(p, send, at)
	}
	c.table.used += i
	a.Wrote(at)
	return i
}

// closeSend fills in the head of a Send record that ends at at, and returns
// where the next record starts.
func closeSend(p unsafe.Pointer, send, at int) int {
	end := abi.Align(at)
	w := (*[2]uint64)(unsafe.Add(p, send))
	w[0] = abi.ActSend | uint64(end-send)<<32
	w[1] = uint64(at - send - 16)
	return end
}

// replyRoom is the most that one reply takes of the output buffer: Consume,
// Receive and Complete.
const replyRoom = 16 + 32 + 32

// Windows handles replies that end a request well and in one piece: simple
// ones, and a structured one whose only chunk holds all of a read's data.
func (c *conn) Windows(a *protocol.Actions, events []byte, pos uint64) (done int, newPos uint64) {
	if c.phase != phaseReady || c.form == formExtended || c.min != sizeSimple || c.windowed || c.chunk.left != 0 {
		return 0, pos
	}
	out := a.Raw()
	in := unsafe.Pointer(unsafe.SliceData(events))
	p := unsafe.Pointer(unsafe.SliceData(out))
	at, room := 0, len(out)-replyRoom
	mask, slots, ended := c.mask, &c.table.slots, 0
	for len(events)-done >= sizeReceived && at <= room {
		e := (*[3]uint64)(unsafe.Add(in, done)) // an abi.Received
		size, n := int(e[0]>>32), int(uint32(e[2]))
		if uint16(e[0]) != abi.EvReceived || size > len(events)-done || n > size-sizeReceived {
			break
		}
		rel := pos - e[1]
		if rel >= uint64(n) {
			done += size // elsewhere, or used up
			continue
		}
		left := n - int(rel)
		if left < sizeSimple {
			break
		}
		b := (*[2]uint64)(unsafe.Add(in, done+sizeReceived+int(rel)))
		tag := b[1] ^ mask
		s := &slots[tag%tableSlots]
		if s.tag != tag || s.op-block.OpRead > block.OpWrite-block.OpRead {
			break
		}
		w := (*[10]uint64)(unsafe.Add(p, at))
		used := uint64(sizeSimple)
		if b[0] == goodSimple && s.op == block.OpWrite {
			w[0], w[1] = wordConsume, used
			w[2], w[3], w[4], w[5] = wordComplete, tag, 0, 0
			at += 48
			pos += used
		} else {
			if b[0] != goodSimple || c.form != formSimple {
				if left < sizeStructured+8 || c.form != formStructured || b[0] != goodChunk ||
					!wholeRead((*[3]uint32)(unsafe.Add(unsafe.Pointer(b), 16)), s) {
					break
				}
				used = sizeStructured + 8
			}
			w[0], w[1] = wordConsume, used
			w[2], w[3], w[4], w[5] = wordReceive, tag, 0, s.length
			w[6], w[7], w[8], w[9] = wordComplete, tag, 0, 0
			at += 80
			pos += used + s.length
		}
		s.op = 0
		ended++
	}
	c.table.used -= ended
	a.Wrote(at)
	return done, pos
}

const sizeReceived = int(unsafe.Sizeof(abi.Received{}))

// goodSimple are the first 8 bytes of a simple reply without an error, and
// goodChunk those of an OFFSET_DATA chunk that is the last of its reply.
var (
	goodSimple = uint64(bits.ReverseBytes32(magicSimple))
	goodChunk  = uint64(bits.ReverseBytes32(magicStructured)) |
		uint64(bits.ReverseBytes32(uint32(replyDone)<<16|uint32(chunkOffsetData)))<<32
)

// wholeRead tells whether a chunk with this length and offset is all of a read
// of which nothing has come yet.
func wholeRead(b *[3]uint32, s *slot) bool {
	offset := uint64(b[1]) | uint64(b[2])<<32
	return s.op == block.OpRead && s.left == uint32(s.length) && s.failed == block.OK &&
		uint64(bits.ReverseBytes32(b[0])) == s.length+8 && bits.ReverseBytes64(offset) == s.offset
}
