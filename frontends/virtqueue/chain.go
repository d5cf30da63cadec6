package virtqueue

import (
	"sync/atomic"
	"unsafe"
)

// walk is where the reading of a chain stands.
type walk struct {
	pieces   [][]byte
	readable int // of the pieces
	readLen  uint64
	writeLen uint64
	writing  bool
}

// read reads the chain at head into c. Each descriptor is read once, as two
// words of 8 bytes, and only the private copy is looked at (virtio 1.2, 2.7.5).
func (q *Queue) read(c *Chain, head uint16) error {
	w := walk{pieces: q.pieces[head][:0]}
	table, entries, inTable := q.desc, uint32(q.size), false
	for i, count := uint32(head), 0; ; {
		p := unsafe.Add(table, uintptr(i)*descSize)
		addr := atomic.LoadUint64((*uint64)(p))
		rest := atomic.LoadUint64((*uint64)(unsafe.Add(p, 8)))
		flags, next := uint16(rest>>32), uint16(rest>>48)
		if flags&descIndirect != 0 {
			if inTable {
				return q.failChain(head, "an indirect table within an indirect table")
			}
			var err error
			if table, entries, err = q.indirectTable(head, addr, uint32(rest), flags); err != nil {
				return err
			}
			i, inTable = 0, true
			continue
		}
		if count++; count > q.maxChain {
			return q.failChain(head, "it has more than %d descriptors, or runs in a circle", q.maxChain)
		}
		if err := q.addBuffer(&w, head, addr, uint32(rest), flags); err != nil {
			return err
		}
		if flags&descNext == 0 {
			break
		}
		if i = uint32(next); i >= entries {
			return q.failChain(head, "it goes on at descriptor %d, there are %d", next, entries)
		}
	}
	q.pieces[head] = w.pieces
	c.Head = head
	c.Read, c.Write = w.pieces[:w.readable:w.readable], w.pieces[w.readable:len(w.pieces):len(w.pieces)]
	c.ReadLen, c.WriteLen = w.readLen, w.writeLen
	return nil
}

// addBuffer adds a buffer to the chain. Readable ones come first (virtio 1.2,
// 2.7.4.2). One of length zero is legal; it adds nothing, wherever it points.
func (q *Queue) addBuffer(w *walk, head uint16, addr uint64, n uint32, flags uint16) error {
	if flags&descWrite == 0 && w.writing {
		return q.failChain(head, "a buffer to read from comes after one to write to")
	}
	if n != 0 {
		near := q.near
		if off := addr - near.start; off < near.size && uint64(n) <= near.size-off {
			w.pieces = append(w.pieces, unsafe.Slice((*byte)(unsafe.Add(near.host, uintptr(off))), int(n)))
		} else if err := q.addFar(w, head, addr, n); err != nil {
			return err
		}
	}
	if flags&descWrite != 0 {
		w.writing = true
		w.writeLen += uint64(n)
		return nil
	}
	w.readable = len(w.pieces)
	w.readLen += uint64(n)
	return nil
}

// addFar adds a buffer that is not where the last one was, or that goes over
// more than one region.
func (q *Queue) addFar(w *walk, head uint16, addr uint64, n uint32) error {
	pieces, err := q.memory.Append(w.pieces, addr, uint64(n))
	if err != nil {
		return q.failChain(head, "%v", err)
	}
	w.pieces = pieces
	q.near = q.memory.find(addr)
	return nil
}

// indirectTable finds the table that a descriptor with the flag INDIRECT names
// (virtio 1.2, 2.7.5.3). Its WRITE flag means nothing.
func (q *Queue) indirectTable(head uint16, addr uint64, n uint32, flags uint16) (unsafe.Pointer, uint32, error) {
	switch {
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
	parts, err := q.memory.Append(nil, addr, uint64(n))
	if err != nil {
		return nil, 0, q.failChain(head, "indirect table: %v", err)
	}
	q.table = q.table[:0]
	for _, p := range parts {
		q.table = append(q.table, p...)
	}
	if !aligned(q.table, 8) {
		return nil, 0, q.failChain(head, "internal: private table is not aligned")
	}
	return unsafe.Pointer(unsafe.SliceData(q.table)), n / descSize, nil
}
