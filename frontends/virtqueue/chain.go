package virtqueue

import (
	"math"
	"sync/atomic"
	"unsafe"
)

// read reads the chain at head into c. Each descriptor is read once, as two
// words of 8 bytes, and only the private copy is looked at (virtio 1.2, 2.7.5).
// A buffer of length zero is legal; it adds no piece, wherever it points.
//
// A chain has at most as many pieces as MaxChain and memory has regions: buffers
// that do not overlap go over each edge once. The memory for them stays with the
// head, so that this bounds what a guest can make a queue keep.
func (q *Queue) read(c *Chain, head uint16) error {
	pieces, readable, count, edges := q.pieces[head][:0], 0, 0, 0
	table, entries, inTable := q.desc, uint32(q.size), false
	near := q.near
	var readLen, writeLen uint64
	for i, wrote := uint32(head), uint64(0); ; {
		p := unsafe.Add(table, uintptr(i)*descSize)
		addr := atomic.LoadUint64((*uint64)(p))
		rest := atomic.LoadUint64((*uint64)(unsafe.Add(p, 8)))
		n, flags := rest&math.MaxUint32, rest>>32
		if flags&descIndirect != 0 {
			var err error
			if table, entries, err = q.indirectTable(head, addr, uint32(n), uint16(flags), inTable); err != nil {
				return err
			}
			i, inTable = 0, true
			continue
		}
		if count++; count > q.maxChain || flags&descWrite < wrote {
			return q.badOrder(head, count)
		}
		if off := addr - near.start; off < near.size && n <= near.size-off && n != 0 {
			pieces = append(pieces, unsafe.Slice((*byte)(unsafe.Add(near.host, uintptr(off))), int(n)))
		} else if n != 0 {
			was := len(pieces)
			var err error
			if pieces, err = q.addFar(head, pieces, addr, n); err != nil {
				return err
			}
			near = q.near
			if edges += len(pieces) - was - 1; edges > len(q.memory.spans) {
				return q.failChain(head, "its buffers go over more edges of memory regions than there are")
			}
		}
		if wrote = flags & descWrite; wrote != 0 {
			writeLen += n
		} else {
			readLen += n
			readable = len(pieces)
		}
		if flags&descNext == 0 {
			break
		}
		if i = uint32(rest >> 48); i >= entries {
			return q.failChain(head, "it goes on at descriptor %d, there are %d", i, entries)
		}
	}
	q.pieces[head] = pieces
	c.Head, c.ReadLen, c.WriteLen = head, readLen, writeLen
	c.Read, c.Write = pieces[:readable:readable], pieces[readable:len(pieces):len(pieces)]
	return nil
}

// addFar adds the pieces of a buffer that is not where the last one was, or that
// goes over more than one region.
//
//go:noinline
func (q *Queue) addFar(head uint16, pieces [][]byte, addr, n uint64) ([][]byte, error) {
	pieces, err := q.memory.Append(pieces, addr, n)
	if err != nil {
		return pieces, q.failChain(head, "%v", err)
	}
	q.near = q.memory.find(addr)
	return pieces, nil
}

// badOrder fails a chain that is too long, or has a buffer to read from after
// one to write to (virtio 1.2, 2.7.4.2).
//
//go:noinline
func (q *Queue) badOrder(head uint16, count int) error {
	if count > q.maxChain {
		return q.failChain(head, "it has more than %d descriptors, or runs in a circle", q.maxChain)
	}
	return q.failChain(head, "a buffer to read from comes after one to write to")
}

// indirectTable finds the table that a descriptor with the flag INDIRECT names
// (virtio 1.2, 2.7.5.3). Its WRITE flag means nothing.
func (q *Queue) indirectTable(head uint16, addr uint64, n uint32, flags uint16, nested bool) (unsafe.Pointer, uint32, error) {
	switch {
	case nested:
		return nil, 0, q.failChain(head, "an indirect table within an indirect table")
	case !q.indirect:
		return nil, 0, q.failChain(head, "an indirect table, which was not negotiated")
	case flags&descNext != 0:
		return nil, 0, q.failChain(head, "an indirect table with a descriptor after it")
	case n == 0 || n%descSize != 0:
		return nil, 0, q.failChain(head, "an indirect table of %d bytes, which is no multiple of %d", n, descSize)
	case int64(n)/descSize > int64(q.maxChain):
		return nil, 0, q.failChain(head, "an indirect table of %d descriptors, more than %d", n/descSize, q.maxChain)
	}
	s := q.near
	if !s.holds(addr, uint64(n)) {
		if s = q.memory.find(addr); s == nil || !s.holds(addr, uint64(n)) {
			return q.copyTable(head, addr, n)
		}
	}
	p := unsafe.Add(s.host, uintptr(addr-s.start))
	if uintptr(p)&7 != 0 {
		return q.copyTable(head, addr, n)
	}
	return p, n / descSize, nil
}

// copyTable makes a private copy of a table of n bytes that goes over more than
// one region or is not aligned: drivers' tables are neither, but may be.
//
//go:noinline
func (q *Queue) copyTable(head uint16, addr uint64, n uint32) (unsafe.Pointer, uint32, error) {
	var err error
	if q.parts, err = q.memory.Append(q.parts[:0], addr, uint64(n)); err != nil {
		return nil, 0, q.failChain(head, "indirect table: %v", err)
	}
	if q.table == nil {
		q.table = make([]uint64, q.maxChain*descSize/8)
	}
	p := unsafe.Pointer(unsafe.SliceData(q.table))
	at := unsafe.Slice((*byte)(p), len(q.table)*8)
	for _, part := range q.parts {
		at = at[copy(at, part):]
	}
	return p, n / descSize, nil
}
