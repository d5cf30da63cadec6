package inflight

// Entry is a request's place in a List. It is a field of the request; its zero
// value is in no list.
type Entry[T any] struct {
	// Seq is the request's place in the order of submission, which Insert and
	// Merge keep. It is the submitter's to set, before the entry is in a list.
	Seq uint64

	owner      *T
	prev, next *Entry[T]
}

// Of ties an entry to the request that it is a field of. It is called once in
// the life of a request, or as often as is convenient, but never while the
// entry is in a list.
func (e *Entry[T]) Of(owner *T) *Entry[T] {
	e.owner = owner
	return e
}

// Owner is the request that the entry belongs to.
func (e *Entry[T]) Owner() *T { return e.owner }

// Next is the entry behind e in its list, or nil. Whoever removes e while
// walking asks for it before.
func (e *Entry[T]) Next() *Entry[T] { return e.next }

// List is a doubly linked list through the entries of requests. The zero List
// is empty. An entry is in at most one list at a time, and a list belongs to
// one reactor. Nothing here allocates.
type List[T any] struct {
	head, tail *Entry[T]
	n          int
}

// Len is the number of entries.
func (l *List[T]) Len() int { return l.n }

// Front is the first entry, or nil.
func (l *List[T]) Front() *Entry[T] { return l.head }

// Back is the last entry, or nil.
func (l *List[T]) Back() *Entry[T] { return l.tail }

// PushBack puts e at the end, whatever its Seq.
func (l *List[T]) PushBack(e *Entry[T]) {
	e.prev, e.next = l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
	l.n++
}

// Insert puts e where its submission order belongs, behind those of the same
// Seq. It looks from the end that is nearer by Seq: what comes back for another
// try is older than what waits, what is new is younger.
func (l *List[T]) Insert(e *Entry[T]) {
	if l.tail == nil || l.tail.Seq <= e.Seq {
		l.PushBack(e)
		return
	}
	at := l.head // of a Seq that is greater: there is one, the last at the latest
	if e.Seq-at.Seq <= l.tail.Seq-e.Seq || e.Seq < at.Seq {
		for at.Seq <= e.Seq {
			at = at.next
		}
	} else {
		for at = l.tail; at.prev.Seq > e.Seq; {
			at = at.prev
		}
	}
	l.insertBefore(at, e)
}

func (l *List[T]) insertBefore(at, e *Entry[T]) {
	e.prev, e.next = at.prev, at
	if at.prev == nil {
		l.head = e
	} else {
		at.prev.next = e
	}
	at.prev = e
	l.n++
}

// Merge moves all of from, which is in submission order as l is, to where they
// belong in l, and leaves from empty. It walks each list once, where an Insert
// of each would walk l once for each.
func (l *List[T]) Merge(from *List[T]) {
	at := l.head
	for e := from.head; e != nil; {
		for at != nil && at.Seq <= e.Seq {
			at = at.next
		}
		if at == nil { // the rest is younger than all of l
			l.splice(e, from)
			break
		}
		next := e.next
		l.insertBefore(at, e)
		from.n--
		e = next
	}
	*from = List[T]{}
}

// splice appends e and what is behind it, all that from has left.
func (l *List[T]) splice(e *Entry[T], from *List[T]) {
	e.prev = l.tail
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = from.tail
	l.n += from.n
}

// Remove takes e out of l, which it is in.
func (l *List[T]) Remove(e *Entry[T]) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
	l.n--
}

// PopFront takes out the first entry and gives its request, or nil if the list
// is empty.
func (l *List[T]) PopFront() *T {
	e := l.head
	if e == nil {
		return nil
	}
	l.Remove(e)
	return e.owner
}
