package session

import "blockengine/engine/volume"

// list is a doubly linked list of IOs through Lower. An IO is in at most one.
type list struct {
	head, tail *volume.IO
	n          int
}

func (l *list) pushBack(io *volume.IO) {
	io.Lower.Prev, io.Lower.Next = l.tail, nil
	if l.tail == nil {
		l.head = io
	} else {
		l.tail.Lower.Next = io
	}
	l.tail = io
	l.n++
}

// insert puts io where its submission order belongs, looking from the front:
// what comes back for another try is older than what waits.
func (l *list) insert(io *volume.IO) {
	at := l.head
	for at != nil && at.Lower.Seq < io.Lower.Seq {
		at = at.Lower.Next
	}
	if at == nil {
		l.pushBack(io)
		return
	}
	prev := at.Lower.Prev
	io.Lower.Prev, io.Lower.Next = prev, at
	at.Lower.Prev = io
	if prev == nil {
		l.head = io
	} else {
		prev.Lower.Next = io
	}
	l.n++
}

func (l *list) remove(io *volume.IO) {
	prev, next := io.Lower.Prev, io.Lower.Next
	if prev == nil {
		l.head = next
	} else {
		prev.Lower.Next = next
	}
	if next == nil {
		l.tail = prev
	} else {
		next.Lower.Prev = prev
	}
	io.Lower.Prev, io.Lower.Next = nil, nil
	l.n--
}

func (l *list) popFront() *volume.IO {
	io := l.head
	if io != nil {
		l.remove(io)
	}
	return io
}
