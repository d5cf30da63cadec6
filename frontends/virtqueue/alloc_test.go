package virtqueue

import "testing"

// TestTurnAllocatesNothing: once chains of their length have been seen.
func TestTurnAllocatesNothing(t *testing.T) {
	r := newRig(t, 16, true, 0)
	b := r.buffer(0)
	long := make([]desc, 12)
	for i := range long {
		long[i] = desc{b, 8, descNext, uint16(i + 1)}
	}
	long[11].flags = descWrite
	r.set(0, r.indirect(r.extra, long...), r.indirect(r.extra+4097, long...), desc{b, 8, 0, 0})
	// (the table of chain 1 is crooked, and copied)
	q := r.queueOf(r.tracked())
	chains := make([]Chain, 4)
	turn := func() {
		r.offer(0, 1, 2)
		n, err := q.Pop(chains)
		if n != 3 || err != nil || len(chains[0].Read) != 11 || len(chains[1].Write) != 1 {
			t.Fatal(n, err)
		}
		for i := range chains[:n] {
			q.Push(chains[i].Head, 1)
		}
		q.Publish()
		q.Suppress()
		q.Arm()
	}
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations a turn", n)
	}
}
