package virtqueue

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// driver is the reference: it makes requests of random layout, knows of each
// what the device must see and do, and takes each completion once.
type driver struct {
	*rig
	rng   *rand.Rand
	seq   uint64 // of the next request
	free  []uint16
	live  map[uint16]*request // by head
	taken uint16              // used index up to which completions were taken
	done  uint64
}

// request is a chain that the driver has offered.
type request struct {
	seq   uint64
	descs []uint16 // of the ring's table
	read  []byte   // what the device must see
	write [][2]uint64
}

func (q *request) writeLen() (n uint64) {
	for _, w := range q.write {
		n += w[1]
	}
	return n
}

// newDriver makes a driver whose ring stands at index start.
func newDriver(t testing.TB, seed uint64, size, start uint16, eventIdx bool) *driver {
	rng := rand.New(rand.NewPCG(seed, 7))
	return newRig(t, size, eventIdx, rng.IntN(2)*2).driver(rng, start)
}

// driver makes a driver of a rig.
func (r *rig) driver(rng *rand.Rand, start uint16) *driver {
	d := &driver{rig: r, rng: rng, live: map[uint16]*request{}, taken: start}
	for i := range r.size {
		d.free = append(d.free, i)
	}
	r.setIdx(start)
	r.setUsedIdx(start)
	return d
}

// cutMemory is guest memory in three regions, so that buffers go over the edges.
func (d *driver) cutMemory() *Memory {
	n := len(d.ram)
	a, b := n/3|1, n/3*2|1
	m, err := NewMemory([]Region{{ramBase + uint64(b), d.ram[b:]}, {ramBase, d.ram[:a]}, {ramBase + uint64(a), d.ram[a:b]}})
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

func (d *driver) tracked() Config {
	c := d.rig.tracked()
	c.Memory = d.cutMemory()
	return c
}

// take takes n random free descriptors.
func (d *driver) take(n int) []uint16 {
	d.rng.Shuffle(len(d.free), func(i, j int) { d.free[i], d.free[j] = d.free[j], d.free[i] })
	at := len(d.free) - n
	got := slices.Clone(d.free[at:])
	d.free = d.free[:at]
	return got
}

// add offers up to n requests and gives how many there was room for. They become
// visible in one step.
func (d *driver) add(n int) int {
	var heads []uint16
	for len(heads) < n && len(d.free) > 0 {
		heads = append(heads, d.make())
	}
	d.offer(heads...)
	return len(heads)
}

// make writes a chain of 1 to 5 buffers, direct, indirect or mixed.
func (d *driver) make() uint16 {
	buffers := 1 + d.rng.IntN(min(5, int(d.size)))
	direct := buffers
	indirect := d.rng.IntN(2) == 0
	if indirect {
		direct = d.rng.IntN(2)
	} else if direct > len(d.free) {
		direct, buffers = 1, 1
	}
	descs := direct
	if indirect {
		descs++
		if descs > len(d.free) {
			direct, descs = 0, 1
		}
	}
	q := &request{seq: d.seq, descs: d.take(descs)}
	d.seq++
	head := q.descs[0]
	d.live[head] = q
	ds := d.buffers(q, head, buffers)
	for i := range direct {
		if i+1 < len(q.descs) {
			ds[i].flags |= descNext
			ds[i].next = q.descs[i+1]
		}
		d.set(q.descs[i], ds[i])
	}
	if indirect {
		d.table(q.descs[direct], head, ds[direct:])
	}
	return head
}

// buffers makes the chain's buffers: at least one to read, with the number in
// front; some of no length.
func (d *driver) buffers(q *request, head uint16, n int) []desc {
	at := d.buffer(head)
	var ds []desc
	readers := 1 + d.rng.IntN(n)
	for i := range n {
		if i >= readers {
			w := desc{at, uint32(d.rng.IntN(200)), descWrite, 0}
			q.write = append(q.write, [2]uint64{at, uint64(w.n)})
			clear(d.at(at, int(w.n)))
			at += uint64(w.n)
			ds = append(ds, w)
			continue
		}
		b := make([]byte, d.rng.IntN(100))
		if i == 0 {
			b = make([]byte, 8+d.rng.IntN(16))
		}
		for k := range b {
			b[k] = byte(d.rng.Uint32())
		}
		if i == 0 {
			binary.LittleEndian.PutUint64(b, q.seq)
		}
		copy(d.at(at, len(b)), b)
		q.read = append(q.read, b...)
		ds = append(ds, desc{at, uint32(len(b)), 0, 0})
		at += uint64(len(b))
	}
	return ds
}

// table writes an indirect table, its entries out of order and now and then at
// an odd address, and the descriptor that names it.
func (d *driver) table(i, head uint16, ds []desc) {
	if len(ds) == 0 {
		ds = []desc{{d.buffer(head), 0, descWrite, 0}}
	}
	at := d.buffer(head) + 2048 + uint64(d.rng.IntN(4)/3*d.rng.IntN(9))
	place := d.rng.Perm(len(ds) - 1) // entry 0 is the first
	placed := make([]desc, len(ds))
	for k := range ds {
		e := ds[k]
		if k+1 < len(ds) {
			e.flags |= descNext
			e.next = uint16(1 + place[k])
		}
		if k == 0 {
			placed[0] = e
		} else {
			placed[1+place[k-1]] = e
		}
	}
	dd := d.indirect(at, placed...)
	d.set(i, dd)
}

// check holds a chain against its request, does what it asks, and gives its
// number.
func (d *driver) check(c *Chain) uint64 {
	d.t.Helper()
	q := d.live[c.Head]
	if q == nil {
		d.t.Fatalf("chain %d was not offered", c.Head)
	}
	var read []byte
	for _, p := range c.Read {
		read = append(read, p...)
	}
	if !bytes.Equal(read, q.read) || c.ReadLen != uint64(len(read)) {
		d.t.Fatalf("request %d: read %d bytes (%d) %x, want %x", q.seq, len(read), c.ReadLen, read, q.read)
	}
	n := fill(c, q.seq)
	if uint64(n) != q.writeLen() || c.WriteLen != q.writeLen() {
		d.t.Fatalf("request %d: room for %d bytes (%d), want %d", q.seq, n, c.WriteLen, q.writeLen())
	}
	return q.seq
}

// fill does what request seq asks, and gives how many bytes that are.
func fill(c *Chain, seq uint64) (n int) {
	for _, p := range c.Write {
		n += len(p)
		for i := range p {
			p[i] = byte(seq) | 1
		}
	}
	return n
}

// reap takes the completions that the used ring shows: each of a request that is
// offered and was not completed before.
func (d *driver) reap() {
	d.t.Helper()
	for now := d.usedIdx(); d.taken != now; d.taken++ {
		id, n := d.element(d.taken)
		if id >= uint32(d.size) || d.live[uint16(id)] == nil {
			d.t.Fatalf("element %d: completion of %d, which is not offered", d.taken, id)
		}
		q := d.live[uint16(id)]
		if uint64(n) != q.writeLen() {
			d.t.Fatalf("request %d: %d bytes written, want %d", q.seq, n, q.writeLen())
		}
		for _, w := range q.write {
			for _, b := range d.at(w[0], int(w[1])) {
				if b != byte(q.seq)|1 {
					d.t.Fatalf("request %d was completed and not done", q.seq)
				}
			}
		}
		delete(d.live, uint16(id))
		d.free = append(d.free, q.descs...)
		d.done++
	}
}

// due gives the numbers of the requests that are not completed, in order.
func (d *driver) due() []uint64 {
	var s []uint64
	for _, q := range d.live {
		s = append(s, q.seq)
	}
	slices.Sort(s)
	return s
}

// device is what a process of the engine does with a queue.
type device struct {
	d    *driver
	q    *Queue
	held []completion // popped, not pushed
	seqs []uint64     // of all that were popped, in order
}

// fetch pops up to n.
func (v *device) fetch(n int) int {
	v.d.t.Helper()
	got := pop(v.d.t, v.q, n)
	for i := range got {
		v.seqs = append(v.seqs, v.d.check(&got[i]))
		v.held = append(v.held, completion{uint32(got[i].WriteLen), got[i].Head})
	}
	return len(got)
}

// finish pushes n of what is held, in any order.
func (v *device) finish(n int) {
	v.d.rng.Shuffle(len(v.held), func(i, j int) { v.held[i], v.held[j] = v.held[j], v.held[i] })
	for _, c := range v.held[:n] {
		v.q.Push(c.head, c.written)
	}
	v.held = v.held[n:]
}
