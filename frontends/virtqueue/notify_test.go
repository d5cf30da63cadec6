package virtqueue

import (
	"math/rand/v2"
	"testing"
)

// complete passes n chains through q and gives what Publish says.
func complete(t *testing.T, r *rig, q *Queue, n int) bool {
	for i := range n {
		h := uint16(i)
		r.set(h, desc{r.buffer(h), 1, 0, 0})
		r.offer(h)
	}
	for _, c := range pop(t, q, n) {
		q.Push(c.Head, 0)
	}
	return q.Publish()
}

// TestNotificationOwed: the first Publish says yes, even of nothing and against
// the driver's wish.
func TestNotificationOwed(t *testing.T) {
	for _, n := range []int{0, 1} {
		r := newRig(t, 8, false, 0)
		r.avail[0] = availNoInterrupt
		q := r.queue()
		if !complete(t, r, q, n) {
			t.Error("nothing is owed, with", n)
		}
		if complete(t, r, q, 0) || complete(t, r, q, 1) {
			t.Error("it is owed twice, with", n)
		}
	}
}

func TestNotifyByFlag(t *testing.T) {
	for _, shift := range []int{0, 2} {
		r := newRig(t, 8, false, shift)
		q := r.queue()
		q.Publish()
		if !complete(t, r, q, 1) {
			t.Error("the driver wants it")
		}
		r.avail[0] = availNoInterrupt
		if complete(t, r, q, 1) {
			t.Error("the driver does not want it")
		}
	}
}

// TestNotifyByEvent holds the decision against its definition: yes if the batch
// has the element that the driver named (virtio 1.2, 2.7.7.2).
func TestNotifyByEvent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		size := uint16(1) << rng.IntN(6)
		r := newRig(t, size, true, int(size)&2)
		start := uint16(rng.IntN(1 << 16))
		r.setIdx(start)
		r.setUsedIdx(start)
		c := r.config()
		c.LastAvail = start
		q := r.queueOf(c)
		q.Publish()
		n := 1 + rng.IntN(int(size))
		event := start + uint16(rng.IntN(80)) - 40
		r.setUsedEvent(event)
		r.avail[0] = availNoInterrupt // means nothing here
		want := false
		for i := range n {
			want = want || start+uint16(i) == event
		}
		if got := complete(t, r, q, n); got != want {
			t.Fatalf("from %d, %d chains, event %d: %v", start, n, event, got)
		}
	}
}

func TestKicksByFlag(t *testing.T) {
	r := newRig(t, 8, false, 0)
	r.setUsedIdx(7)
	r.setIdx(7)
	c := r.config()
	c.LastAvail = 7
	q := r.queueOf(c)
	q.Suppress()
	if r.usedFlags() != usedNoNotify || r.usedIdx() != 7 {
		t.Error("kicks are still wanted")
	}
	if complete(t, r, q, 1); r.usedFlags() != usedNoNotify {
		t.Error("Publish wants kicks")
	}
	if q.Arm() || r.usedFlags() != 0 || r.usedIdx() != 8 {
		t.Error("flags", r.usedFlags())
	}
	q.Suppress()
	r.set(0, desc{r.buffer(0), 1, 0, 0})
	r.offer(0)
	if !q.Arm() {
		t.Error("the chain that came before is not seen")
	}
}

func TestKicksByEvent(t *testing.T) {
	// kicks is what a driver does after it has moved its index to now.
	kicks := func(r *rig, was, now uint16) bool { return now-r.availEvent()-1 < now-was }
	for _, start := range []uint16{0, 5, 0xffff} {
		r := newRig(t, 8, true, 0)
		r.setIdx(start)
		r.setUsedIdx(start)
		c := r.config()
		c.LastAvail = start
		q := r.queueOf(c)
		if q.Arm() || !kicks(r, start, start+1) {
			t.Errorf("at %d: no kick", start)
		}
		q.Suppress()
		if kicks(r, start, start+8) || r.usedFlags() != 0 {
			t.Errorf("at %d: a kick, flags %d", start, r.usedFlags())
		}
		complete(t, r, q, 3)
		if kicks(r, start, start+3) {
			t.Errorf("at %d: a kick while suppressed", start)
		}
		if q.Arm() || kicks(r, start, start+3) || !kicks(r, start+3, start+4) {
			t.Errorf("at %d: event %d after three", start, r.availEvent())
		}
		r.set(0, desc{r.buffer(0), 1, 0, 0})
		r.offer(0)
		if !q.Arm() {
			t.Errorf("at %d: the chain that came before is not seen", start)
		}
	}
}
