package inflight

import (
	"math/rand/v2"
	"slices"
	"testing"
)

type req struct {
	id    int
	place Entry[req]
	_     [64]byte
}

func newReq(id int, seq uint64) *req {
	r := &req{id: id}
	r.place.Of(r).Seq = seq
	return r
}

// check walks l both ways and compares it with want.
func check(t *testing.T, l *List[req], want []*req) {
	t.Helper()
	var there, back []*req
	for e := l.Front(); e != nil; e = e.Next() {
		there = append(there, e.Owner())
	}
	for e := l.Back(); e != nil; e = e.prev {
		back = append(back, e.Owner())
	}
	slices.Reverse(back)
	if !slices.Equal(there, want) || !slices.Equal(back, want) || l.Len() != len(want) {
		t.Fatalf("%d forward, %d backward, length %d: want %d, or their order differs", len(there), len(back), l.Len(), len(want))
	}
	if (l.Front() == nil) != (len(want) == 0) || (l.Back() == nil) != (len(want) == 0) {
		t.Fatal("the ends of an empty list")
	}
}

// insert is Insert on a slice: behind all that are not younger.
func insert(s []*req, r *req) []*req {
	i := slices.IndexFunc(s, func(o *req) bool { return o.place.Seq > r.place.Seq })
	if i < 0 {
		i = len(s)
	}
	return slices.Insert(s, i, r)
}

// Every operation at random on two lists, against slices.
func TestAgainstSlices(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var lists [2]List[req]
		var model [2][]*req
		var free []*req
		for i := range 40 {
			free = append(free, newReq(i, 0))
		}
		for range 3000 {
			k := rng.IntN(2)
			l, m := &lists[k], &model[k]
			switch op := rng.IntN(8); {
			case op < 3 && len(free) > 0:
				r := free[len(free)-1]
				free = free[:len(free)-1]
				r.place.Seq = uint64(rng.IntN(30)) // many are equal
				l.Insert(&r.place)
				*m = insert(*m, r)
			case op == 3 && len(free) > 0: // the youngest yet
				r := free[len(free)-1]
				free = free[:len(free)-1]
				r.place.Seq = 30
				l.PushBack(&r.place)
				*m = append(*m, r)
			case op == 4 && len(*m) > 0:
				i := rng.IntN(len(*m))
				r := (*m)[i]
				l.Remove(&r.place)
				*m = slices.Delete(*m, i, i+1)
				free = append(free, r)
			case op == 5:
				r := l.PopFront()
				if len(*m) == 0 {
					if r != nil {
						t.Fatal("an empty list gave a request")
					}
					break
				}
				if r != (*m)[0] {
					t.Fatalf("the first was request %d, want %d", r.id, (*m)[0].id)
				}
				*m = (*m)[1:]
				free = append(free, r)
			case op == 6 && rng.IntN(10) == 0:
				l.Merge(&lists[1-k])
				for _, r := range model[1-k] {
					*m = insert(*m, r)
				}
				model[1-k] = nil
			}
			check(t, &lists[0], model[0])
			check(t, &lists[1], model[1])
			for _, r := range free {
				if r.place.next != nil || r.place.prev != nil {
					t.Fatalf("request %d is in no list and has neighbours", r.id)
				}
			}
		}
	}
}

// What was sent comes back among what waits: between, before and behind.
func TestMerge(t *testing.T) {
	for _, c := range []struct{ into, from []uint64 }{
		{nil, nil}, {nil, []uint64{1, 2}}, {[]uint64{1, 2}, nil}, {[]uint64{1, 2}, []uint64{3, 4}},
		{[]uint64{3, 4}, []uint64{1, 2}}, {[]uint64{1, 3, 5}, []uint64{2, 4, 6}}, {[]uint64{2, 4, 6}, []uint64{1, 3, 5, 7}},
		{[]uint64{1, 5, 5}, []uint64{5, 5, 9}}, {[]uint64{0, 1<<64 - 1}, []uint64{0, 1 << 63, 1<<64 - 1}},
	} {
		var into, from List[req]
		var want []*req
		for i, seq := range c.into {
			r := newReq(i, seq)
			into.PushBack(&r.place)
			want = append(want, r)
		}
		for i, seq := range c.from {
			r := newReq(100+i, seq)
			from.Insert(&r.place)
			want = insert(want, r)
		}
		into.Merge(&from)
		check(t, &into, want)
		check(t, &from, nil)
	}
}

// A request may be taken out while its list is walked.
func TestRemoveWhileWalking(t *testing.T) {
	var l List[req]
	var odd []*req
	for i := range 20 {
		r := newReq(i, uint64(i))
		l.PushBack(&r.place)
		if i%2 == 1 {
			odd = append(odd, r)
		}
	}
	for e := l.Front(); e != nil; {
		next := e.Next()
		if e.Owner().id%2 == 0 {
			l.Remove(e)
		}
		e = next
	}
	check(t, &l, odd)
}

func TestNoAllocations(t *testing.T) {
	reqs, l, m := ring(64), List[req]{}, List[req]{}
	n := testing.AllocsPerRun(100, func() {
		for _, r := range reqs {
			l.Insert(&r.place)
		}
		m.Merge(&l)
		for m.PopFront() != nil {
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func ring(n int) []*req {
	var rs []*req
	for i := range n {
		rs = append(rs, newReq(i, uint64(i)))
	}
	return rs
}

// plain is the list as it would be written for one type, to compare with.
type plain struct {
	head, tail *plainReq
	n          int
}

type plainReq struct {
	prev, next *plainReq
	seq        uint64
	_          [80]byte
}

func (l *plain) pushBack(r *plainReq) {
	r.prev, r.next = l.tail, nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.next = r
	}
	l.tail = r
	l.n++
}

func (l *plain) remove(r *plainReq) {
	prev, next := r.prev, r.next
	if prev == nil {
		l.head = next
	} else {
		prev.next = next
	}
	if next == nil {
		l.tail = prev
	} else {
		next.prev = prev
	}
	r.prev, r.next = nil, nil
	l.n--
}

// A request's way through a connection: in at the back, out from anywhere.
func BenchmarkGeneric(b *testing.B) {
	reqs, l := ring(64), List[req]{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := reqs[i%64]
		if i >= 64 {
			l.Remove(&r.place)
		}
		r.place.Seq = uint64(i)
		l.PushBack(&r.place)
	}
}

func BenchmarkWrittenForOneType(b *testing.B) {
	var reqs []*plainReq
	for range 64 {
		reqs = append(reqs, &plainReq{})
	}
	l := plain{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := reqs[i%64]
		if i >= 64 {
			l.remove(r)
		}
		r.seq = uint64(i)
		l.pushBack(r)
	}
}

// A connection is lost: what it held goes back among what waits.
func BenchmarkMerge1024(b *testing.B) {
	reqs := ring(2048)
	var waiting, held List[req]
	for i, r := range reqs {
		if i < 1024 {
			held.PushBack(&r.place)
		} else {
			waiting.PushBack(&r.place)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		waiting.Merge(&held)
		for range 1024 {
			held.PushBack(&waiting.PopFront().place)
		}
	}
}
