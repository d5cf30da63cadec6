package virtioblk

import (
	"encoding/binary"

	"blockengine/sdk/block"
)

// Request is a request of a driver's on its way: where its status goes, and
// what is left to do of it. One belongs to each head of a ring and is used
// again and again; it allocates nothing.
//
// Its life: Begin; if that says so, the block request is carried out and Next
// called with the outcome, again and again as long as that says so; then Finish.
type Request struct {
	status  []byte // the last byte that the device may write; empty if there is none
	written uint32 // bytes that the device may write
	result  Status

	// With discard and write-zeroes: the ranges that are still to be done.
	op     block.Op
	flags  block.Flags // that all of them have
	ranges [maxRanges]segment
	next   int
	count  int
}

// segment is a range of a discard or write-zeroes.
type segment struct {
	sector  uint64
	sectors uint32
	flags   uint32
}

// Begin takes a request out of the pieces of a descriptor chain: read is what
// the driver has written, write what the device may write, with their lengths
// in bytes. It reports whether b has to be carried out now; if not, the request
// is decided and Finish is next. b.Data is made of the pieces, in place: the
// slices of read and write are changed and stay in use until Finish.
//
// It reads guest memory, each byte once.
func (r *Request) Begin(rules *Rules, read, write [][]byte, readLen, writeLen uint64, b *block.Request) bool {
	r.next, r.count, r.result = 0, 0, StatusIOErr
	r.written = uint32(min(writeLen, 1<<32-1))
	r.status, write = splitStatus(write)
	if len(r.status) == 0 || readLen < headerSize {
		return false // malformed: no place for an answer, see Answerable, or no question
	}
	var h [headerSize]byte
	read = take(read, h[:])
	readLen -= headerSize
	writeLen--
	sector := binary.LittleEndian.Uint64(h[8:])
	switch binary.LittleEndian.Uint32(h[0:]) {
	case typeIn:
		return readLen == 0 && r.transfer(block.OpRead, 0, sector, write, writeLen, b)
	case typeOut:
		return writeLen == 0 && r.transfer(block.OpWrite, rules.durable(), sector, read, readLen, b)
	case typeFlush:
		b.Op, b.Flags, b.Offset, b.Length, b.Data = block.OpFlush, 0, 0, 0, nil
		return true
	case typeGetID:
		give(write, rules.Serial[:])
		r.result = StatusOK
	case typeDiscard:
		if rules.Discard {
			return r.manage(block.OpDiscard, rules.MaxDiscardSectors, 0, read, readLen, b)
		}
		r.result = StatusUnsupp
	case typeWriteZeroes:
		if rules.WriteZeroes {
			return r.manage(block.OpWriteZeroes, rules.MaxZeroesSectors, rules.durable(), read, readLen, b)
		}
		r.result = StatusUnsupp
	default:
		r.result = StatusUnsupp
	}
	return false
}

func (r *Rules) durable() block.Flags {
	if r.FUA {
		return block.FUA
	}
	return 0
}

// transfer begins a read or write of whole sectors. The volume checks the rest.
func (r *Request) transfer(op block.Op, flags block.Flags, sector uint64, data [][]byte, n uint64, b *block.Request) bool {
	if n%SectorSize != 0 || sector >= 1<<(64-sectorShift) {
		return false
	}
	if n == 0 {
		r.result = StatusOK
		return false
	}
	b.Op, b.Flags, b.Offset, b.Length, b.Data = op, flags, sector<<sectorShift, n, data
	return true
}

// manage begins a discard or write-zeroes: it takes all ranges and refuses the
// request as a whole if one of them is not allowed (virtio 1.2, 5.2.6.2).
func (r *Request) manage(op block.Op, most uint32, flags block.Flags, read [][]byte, n uint64, b *block.Request) bool {
	if n == 0 || n%segmentSize != 0 || n > maxRanges*segmentSize {
		return false
	}
	r.op, r.flags, r.count = op, flags, int(n/segmentSize)
	for i := range r.count {
		var raw [segmentSize]byte
		read = take(read, raw[:])
		s := &r.ranges[i]
		s.sector = binary.LittleEndian.Uint64(raw[0:])
		s.sectors = binary.LittleEndian.Uint32(raw[8:])
		s.flags = binary.LittleEndian.Uint32(raw[12:])
		if s.flags&^flagUnmap != 0 || s.flags&flagUnmap != 0 && op == block.OpDiscard {
			r.result = StatusUnsupp
			return false
		}
		if s.sectors > most || s.sector >= 1<<(64-sectorShift) {
			return false
		}
	}
	return r.nextRange(b)
}

// nextRange makes b of the next range that is not empty.
func (r *Request) nextRange(b *block.Request) bool {
	for r.next < r.count {
		s := &r.ranges[r.next]
		r.next++
		if s.sectors == 0 {
			continue
		}
		b.Op, b.Flags, b.Data = r.op, r.flags, nil
		b.Offset, b.Length = s.sector<<sectorShift, uint64(s.sectors)<<sectorShift
		if r.op == block.OpWriteZeroes && s.flags&flagUnmap == 0 {
			b.Flags |= block.NoHole
		}
		return true
	}
	r.result = StatusOK
	return false
}

// Next takes how the block request has ended, and reports whether b has to be
// carried out with what comes next of the same request.
func (r *Request) Next(b *block.Request) bool {
	r.result = StatusOf(b.Status)
	return r.result == StatusOK && r.next < r.count && r.nextRange(b)
}

// Answerable tells whether the chain has a place for the status. One that has not
// is no request: the driver would take whatever is there for its answer. Nothing
// can be done then but to end the ring (virtio 1.2, 5.2.6).
func (r *Request) Answerable() bool { return len(r.status) > 0 }

// Fail ends a request that cannot be carried out.
func (r *Request) Fail() { r.result = StatusIOErr }

// Finish writes the status byte, if the chain has one, and gives the length for
// the used ring: all that the device may write, because the status comes last.
// It writes guest memory.
func (r *Request) Finish() (written uint32) {
	if len(r.status) > 0 {
		r.status[0] = byte(r.result)
	}
	r.status = nil
	return r.written
}

// Result is how the request has ended, or IOERR if it has not.
func (r *Request) Result() Status { return r.result }

// splitStatus takes the last byte off the pieces that the device may write.
func splitStatus(write [][]byte) (status []byte, data [][]byte) {
	for n := len(write); n > 0; n-- {
		last := write[n-1]
		switch len(last) {
		case 0:
		case 1:
			return last, write[:n-1]
		default:
			write[n-1] = last[:len(last)-1]
			return last[len(last)-1:], write[:n]
		}
	}
	return nil, nil
}

// take copies the first len(to) bytes out of the pieces and gives what is left.
func take(from [][]byte, to []byte) [][]byte {
	if len(from) > 0 && len(from[0]) == len(to) { // as nearly all drivers lay it out
		copy(to, from[0])
		return from[1:]
	}
	for len(from) > 0 && len(to) > 0 {
		n := copy(to, from[0])
		to = to[n:]
		if n == len(from[0]) {
			from = from[1:]
		} else {
			from[0] = from[0][n:]
		}
	}
	return from
}

// give copies b into the pieces, as far as there is room.
func give(to [][]byte, b []byte) {
	for _, piece := range to {
		b = b[copy(piece, b):]
	}
}
