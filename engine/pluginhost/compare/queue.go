package compare

import (
	"unsafe"

	"blockengine/sdk/abi"
)

// Room is memory for calls that wait, for all the connections of one reactor
// that are followed from there. It grows to roomChunks chunks at most, and goes
// with who holds it.
type Room struct {
	free []*chunk
	made int
}

const (
	chunkSize  = 256 << 10 // bytes; the parts of a call fit
	roomChunks = 128
)

// chunk holds parts of calls, one after the other.
type chunk struct {
	b    []byte // aligned to 8
	n    int    // bytes that are filled
	at   int    // bytes that have been taken
	next *chunk
}

// get gives a chunk to a queue that has n, nil if there is none for it: a queue
// has no more than it leaves to the others.
func (r *Room) get(n int) *chunk {
	if n > len(r.free)+roomChunks-r.made {
		return nil
	}
	if last := len(r.free) - 1; last >= 0 {
		c := r.free[last]
		r.free = r.free[:last]
		return c
	}
	if r.made == roomChunks {
		return nil
	}
	r.made++
	return &chunk{b: abi.Buffer(chunkSize)}
}

func (r *Room) put(c *chunk) {
	*c = chunk{b: c.b}
	r.free = append(r.free, c)
}

// partKind is what a part of a call is.
type partKind uint32

const (
	partEvents partKind = iota
	partMore            // actions, and more of them follow
	partLast            // actions, the last of the call
)

// partHead stands before the bytes of a part.
type partHead struct {
	kind partKind
	n    uint32
}

// queue keeps calls in order.
type queue struct {
	room   *Room
	first  *chunk
	last   *chunk
	n      int // chunks
	whole  int // calls that are there to their last action
	events int // bytes of events, of all calls
}

// push keeps a copy of a part. It is false if there is no room.
func (q *queue) push(kind partKind, b []byte) bool {
	size := int(unsafe.Sizeof(partHead{})) + abi.Align(len(b))
	if q.last == nil || len(q.last.b)-q.last.n < size {
		c := q.room.get(q.n)
		if c == nil {
			return false
		}
		if q.n++; q.last == nil {
			q.first = c
		} else {
			q.last.next = c
		}
		q.last = c
	}
	c := q.last
	head := (*partHead)(unsafe.Pointer(&c.b[c.n]))
	*head = partHead{kind, uint32(len(b))}
	copy(c.b[c.n+int(unsafe.Sizeof(*head)):], b)
	c.n += size
	switch kind {
	case partEvents:
		q.events += len(b)
	case partLast:
		q.whole++
	}
	return true
}

// peek gives the first part. There is one if a call is whole. It is valid until
// pop.
func (q *queue) peek() (partKind, []byte) {
	c := q.first
	if c.at == c.n { // what follows did not fit
		q.first = c.next
		q.n--
		q.room.put(c)
		c = q.first
	}
	head := (*partHead)(unsafe.Pointer(&c.b[c.at]))
	from := c.at + int(unsafe.Sizeof(*head))
	return head.kind, c.b[from : from+int(head.n) : from+int(head.n)]
}

// pop forgets the first part.
func (q *queue) pop() {
	kind, b := q.peek()
	c := q.first
	c.at += int(unsafe.Sizeof(partHead{})) + abi.Align(len(b))
	switch kind {
	case partEvents:
		q.events -= len(b)
	case partLast:
		q.whole--
	}
	if c.at == c.n && c == q.last {
		c.at, c.n = 0, 0
	}
}

// drop forgets all.
func (q *queue) drop() {
	for c := q.first; c != nil; {
		next := c.next
		q.room.put(c)
		c = next
	}
	*q = queue{room: q.room}
}
