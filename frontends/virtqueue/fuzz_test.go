package virtqueue

import (
	"encoding/binary"
	"testing"
)

// flood fills memory with what a stranger wrote, over and over.
func flood(mem, data []byte) {
	if n := copy(mem, data); n > 0 {
		for ; n < len(mem); n *= 2 {
			copy(mem[n:], mem[:n])
		}
	}
}

// within fails if a piece is not in the rig's memory.
func (r *rig) within(p []byte) {
	if len(p) == 0 || uintptr(ptr(&p[0])) < uintptr(ptr(&r.ram[0])) ||
		uintptr(ptr(&p[len(p)-1])) > uintptr(ptr(&r.ram[len(r.ram)-1])) {
		r.t.Fatalf("a piece of %d bytes is not in guest memory", len(p))
	}
}

// judge holds a chain against what is promised of any.
func (r *rig) judge(c *Chain, maxChain, regions int) {
	var sum [2]uint64
	for k, pieces := range [][][]byte{c.Read, c.Write} {
		for _, p := range pieces {
			r.within(p)
			sum[k] += uint64(len(p))
		}
	}
	if sum != [2]uint64{c.ReadLen, c.WriteLen} || len(c.Read)+len(c.Write) > maxChain+regions || c.Head >= r.size {
		r.t.Fatalf("chain %d: %d and %d bytes in %d and %d pieces, said to be %d and %d",
			c.Head, sum[0], sum[1], len(c.Read), len(c.Write), c.ReadLen, c.WriteLen)
	}
}

// FuzzRing: whatever a guest writes into its ring, and changes while the device
// looks, a queue gives pieces of its memory or an error, and no chain twice.
func FuzzRing(f *testing.F) {
	for _, size := range []uint16{1, 4, 8} {
		for seed := range uint64(4) {
			d := newDriver(f, seed, size, uint16(-seed), seed%2 == 0)
			d.add(int(size))
			f.Add(byte(size), seed%2 == 0, d.desc, d.avail, d.used, d.at(d.buffer(0), 512))
		}
	}
	f.Add(byte(4), true, []byte{0xff}, []byte{0, 0, 4, 0}, []byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, size byte, eventIdx bool, table, avail, used, buffers []byte) {
		r := newRig(t, 1<<(size%5), eventIdx, int(size>>4)&2)
		flood(r.at(r.buffer(0), len(r.ram)-int(r.buffer(0)-ramBase)), buffers)
		copy(r.desc, table)
		copy(r.avail, avail)
		copy(r.used, used)
		cut := len(r.ram)/2 | 1
		m, err := NewMemory([]Region{{ramBase, r.ram[:cut]}, {ramBase + uint64(cut), r.ram[cut:]}})
		if err != nil {
			t.Fatal(err)
		}
		c := r.tracked()
		c.Memory, c.MaxChain = m, 32
		r.abuse(c)
	})
}

// abuse serves a queue for some turns, while its guest changes what it likes.
func (r *rig) abuse(c Config) {
	q, err := New(c)
	if err != nil {
		r.t.Fatal(err) // the region is new and the rest is sound
	}
	chains := make([]Chain, 5)
	out := map[uint16]bool{}
	for turn := range 8 {
		n, err := q.Pop(chains)
		for i := range chains[:n] {
			r.judge(&chains[i], c.MaxChain, 2)
			if out[chains[i].Head] {
				r.t.Fatalf("head %d came twice", chains[i].Head)
			}
			out[chains[i].Head] = true
		}
		if n2, err2 := q.Pop(chains[:0]); err != nil && (n2 != 0 || err2 != err) {
			r.t.Fatalf("the queue went on after %v: %v", err, err2)
		}
		if len(out) != q.Outstanding() || len(out) > int(r.size) {
			r.t.Fatalf("outstanding %d, out %d", q.Outstanding(), len(out))
		}
		for h := range out {
			if turn%3 != 0 {
				q.Push(h, uint32(h))
				delete(out, h)
			}
		}
		q.Publish()
		q.Suppress()
		q.Arm()
		copy(r.desc[turn:], r.avail) // the guest writes
		r.setIdx(r.usedIdx() + uint16(turn))
	}
}

// FuzzInflight: whatever a front-end writes into the region, recovery gives
// distinct heads of the ring or an error, a second one gives the same, and the
// queue can serve.
func FuzzInflight(f *testing.F) {
	for batch := 1; batch < 20; batch += 3 {
		for at := batch; at < batch*12; at += batch*2 + 1 {
			d := newDriver(f, uint64(at), 16, 0xfff8, false)
			run(at, func() { d.life(min(batch, 16)) })
			f.Add(d.usedIdx(), d.idx, d.part())
		}
	}
	f.Fuzz(func(t *testing.T, used, avail uint16, region []byte) {
		const size = 16
		r := newRig(t, size, false, 0)
		copy(r.part(), region)
		r.setUsedIdx(used)
		for i := range uint16(size) {
			binary.LittleEndian.PutUint16(r.avail[ringHeader+2*i:], i)
			r.set(i, desc{r.buffer(i), 1, 0, 0})
		}
		r.setIdx(avail)
		in, err := OpenInflight(r.region, 1, size)
		if err != nil {
			t.Fatal(err)
		}
		heads, err := in.Recover(used)
		if err != nil {
			return
		}
		seen := map[uint16]bool{}
		for _, h := range heads {
			if h >= size || seen[h] {
				t.Fatalf("heads %v", heads)
			}
			seen[h] = true
		}
		q := r.queueOf(r.tracked())
		if q.Resubmitted() != len(heads) || q.Avail() != used+uint16(len(heads)) {
			t.Fatalf("first %v, then %d from %d", heads, q.Resubmitted(), q.Avail())
		}
		chains := make([]Chain, size+1)
		n, _ := q.Pop(chains)
		if n < len(heads) || n > size {
			t.Fatalf("%d chains, %d in flight", n, len(heads))
		}
		for i := range chains[:n] {
			if i < len(heads) && chains[i].Head != heads[i] {
				t.Fatalf("chain %d is %d, in flight were %v", i, chains[i].Head, heads)
			}
			q.Push(chains[i].Head, 0)
		}
		q.Publish()
		if r.usedIdx() != used+uint16(n) {
			t.Fatalf("used index %d after %d of %d", used, n, r.usedIdx())
		}
		for h := range uint16(size) {
			if r.mark(h) != 0 {
				t.Fatalf("descriptor %d is still marked", h)
			}
		}
	})
}
