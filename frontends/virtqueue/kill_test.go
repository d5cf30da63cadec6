package virtqueue

import (
	"fmt"
	"math"
	"testing"
)

// killed is the panic by which a process of a test dies.
type killed struct{ step Step }

// run calls f in a process that dies at the given store, counted from 0, and
// tells whether it did, and where.
func run(at int, f func()) (step Step, died bool) {
	defer func() {
		Failpoint = nil
		switch r := recover().(type) {
		case nil:
		case killed:
			step, died = r.step, true
		default:
			panic(r)
		}
	}()
	n := 0
	Failpoint = func(s Step) {
		if n++; n > at {
			panic(killed{s})
		}
	}
	f()
	return 0, false
}

// beforeLife leaves a region as an earlier process would, with one request in
// flight whose counter is about to wrap.
func (d *driver) beforeLife() {
	d.add(1)
	var head uint16
	for head = range d.live {
	}
	d.setState(head, 1, 0, math.MaxUint64-3)
	d.setRegion(inflightVersion, d.size, 0, d.taken)
}

// life is a process: it makes its queue, and serves three rounds of batches, of
// which it leaves some unfinished until later.
func (d *driver) life(batch int) {
	v := &device{d: d, q: d.queueOf(d.tracked())}
	for range 3 {
		d.add(batch)
		v.fetch(batch)
		v.finish(len(v.held) - len(v.held)/4)
		v.q.Publish()
		d.reap()
	}
}

// afterLife is the next process: it must do first what is not completed, in the
// order in which it was offered, then what is new. Recovery itself dies as often
// as it has stores.
func (d *driver) afterLife() {
	d.reap()
	d.add(2)
	var v *device
	for at := 0; ; at++ {
		if _, died := run(at, func() { v = &device{d: d, q: d.queueOf(d.tracked())} }); !died {
			break
		}
	}
	due := d.due()
	if !v.q.Publish() {
		d.t.Fatal("a notification is owed")
	}
	if again := v.q.Resubmitted(); v.q.Avail() != d.usedIdx()+uint16(again) {
		d.t.Fatalf("next is %d, with %d in flight and used index %d", v.q.Avail(), again, d.usedIdx())
	}
	for v.fetch(3) > 0 {
	}
	if !same(v.seqs, due) {
		d.t.Fatalf("served %v, want %v", v.seqs, due)
	}
	v.finish(len(v.held))
	v.q.Publish()
	d.reap()
	if len(d.live) > 0 || d.done != d.seq || d.usedIdx() != d.idx {
		d.t.Fatalf("%d of %d done, left %v", d.done, d.seq, d.due())
	}
	for h := range d.size {
		if d.mark(h) != 0 {
			d.t.Fatalf("descriptor %d is marked", h)
		}
	}
}

// TestKilledAtEveryStore kills a process after each of its stores in turn, for
// batches of 1 to 32, with indices and counters that wrap.
func TestKilledAtEveryStore(t *testing.T) {
	var seen [Steps]int
	for batch := 1; batch <= 32; batch++ {
		if testing.Short() && batch > 4 && batch%9 != 0 {
			continue
		}
		for at := 0; ; at++ {
			d := newDriver(t, uint64(batch), 64, uint16(-batch*3/2), batch%2 == 0)
			if batch%3 != 0 {
				d.beforeLife()
			}
			step, died := run(at, func() { d.life(batch) })
			if !died && at == 0 {
				t.Fatal("nobody died")
			}
			if died {
				seen[step]++
			}
			d.afterLife()
			if !died {
				break
			}
		}
	}
	for s, n := range seen {
		if n == 0 {
			t.Errorf("nobody died at step %v", Step(s))
		}
	}
}

// TestKilledTwice kills at a random store, lets the next process serve for a
// while and kills it too, and so on.
func TestKilledTwice(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for seed := range uint64(rounds) {
		d := newDriver(t, seed, 32, uint16(seed*7919), seed%2 == 0)
		for range 12 {
			batch := 1 + d.rng.IntN(12)
			run(d.rng.IntN(40*batch), func() { d.life(batch) })
			d.reap()
		}
		d.afterLife()
	}
}

// TestStoresInOrder watches a batch of two go by: what the region and the ring
// show after each store.
func TestStoresInOrder(t *testing.T) {
	r := newRig(t, 4, true, 0)
	q := r.queueOf(r.tracked())
	for i := range uint16(4) {
		r.set(i, desc{r.buffer(i), 1, 0, 0})
	}
	r.offer(2, 1)
	var got []string
	Failpoint = func(s Step) {
		p := r.part()
		got = append(got, fmt.Sprintf("%v marks %d%d counters %d%d next %d%d head %d used %d/%d", s, r.mark(2), r.mark(1),
			r.states()[2*16+8], r.states()[16+8], r.states()[2*16+6], r.states()[16+6], p[offBatchHead], p[offUsedIdx], r.usedIdx()))
	}
	defer func() { Failpoint = nil }()
	for _, c := range pop(t, q, 2) {
		q.Push(c.Head, 0)
	}
	q.Publish()
	want := []string{
		"fetched marks 00 counters 00 next 00 head 0 used 0/0",
		"counter marks 00 counters 00 next 00 head 0 used 0/0",
		"marked marks 10 counters 00 next 00 head 0 used 0/0",
		"counter marks 10 counters 01 next 00 head 0 used 0/0",
		"marked marks 11 counters 01 next 00 head 0 used 0/0",
		"element marks 11 counters 01 next 00 head 0 used 0/0",
		"element marks 11 counters 01 next 00 head 0 used 0/0",
		"linked marks 11 counters 01 next 00 head 0 used 0/0",
		"linked marks 11 counters 01 next 02 head 0 used 0/0",
		"batch-head marks 11 counters 01 next 02 head 1 used 0/0",
		"published marks 11 counters 01 next 02 head 1 used 0/2",
		"cleared marks 01 counters 01 next 02 head 1 used 0/2",
		"cleared marks 00 counters 01 next 02 head 1 used 0/2",
		"settled marks 00 counters 01 next 02 head 1 used 2/2",
	}
	if !same(got, want) {
		for i := range max(len(got), len(want)) {
			t.Logf("got  %v\nwant %v", got[min(i, len(got)-1)], want[min(i, len(want)-1)])
		}
		t.Error("another order")
	}
}
