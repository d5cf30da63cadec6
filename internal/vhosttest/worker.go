package vhosttest

import (
	"fmt"
	"sync/atomic"
	"time"

	"blockengine/engine/sys"
)

// slot is one of the requests that a queue can have outstanding. Its memory and
// descriptors are its own, so its chains are made once, for each operation, and
// copied into the ring for each request as a driver writes them.
type slot struct {
	area  area
	read  []Desc // chains, linked
	write []Desc
	flush []Desc
	first uint16 // its descriptors in the ring
	table []byte // for an indirect table; nil: none
	entry Desc   // that points at it

	live  bool
	op    uint32
	block uint32
	at    int64 // when it was made
	lo    uint32
	hi    uint32
	note  HistoryOp
}

// worker loads one queue. It belongs to one goroutine, but for the atomics.
type worker struct {
	l       *Load
	queue   int
	ring    *Ring
	size    int    // of a block
	first   uint64 // number of the first block on the disk
	slots   []slot
	byHead  []uint16 // slot of a head
	free    []uint16 // slots
	blocks  blocks
	pattern *pattern
	waiter  *waiter
	done    [64]Completion
	filling uint32 // blocks that have still to be filled
	runs    int64  // when no more requests are made
	writes  int    // since the last flush

	lastDone int64
	counts   counts
	progress struct{ completed, failed, mismatched atomic.Uint64 } // for others to see
	err      error
}

// counts are what a worker has seen.
type counts struct {
	reads, writes, flushes, failed, mismatched, calls, sleeps uint64
	hung, missed                                              uint64
	examples                                                  []string
	hist                                                      histogram
	longest                                                   int64 // latency
	gaps                                                      []Gap
}

// maxExamples of mismatches are described, maxGaps noted.
const (
	maxExamples = 8
	maxGaps     = 1 << 12
	leastGap    = int64(time.Millisecond)
)

func newWorker(l *Load, queue int, first, n uint64) (*worker, error) {
	o := &l.o
	w := &worker{l: l, queue: queue, ring: l.f.Ring(queue), size: o.BlockSize, first: first,
		pattern: newPattern(o.Seed), slots: make([]slot, o.Depth)}
	w.blocks.n = uint32(n)
	w.blocks.rnd.Seed(o.Seed, uint64(queue))
	if o.Verify {
		w.blocks.of = make([]block, n)
	}
	w.byHead = make([]uint16, w.ring.Size())
	w.counts.gaps = make([]Gap, 0, maxGaps)
	next := 0
	for i := range w.slots {
		used, err := w.makeSlot(&w.slots[i], next)
		if err != nil {
			return nil, err
		}
		w.byHead[next] = uint16(i)
		next += used
		w.free = append(w.free, uint16(i))
	}
	var err error
	if !o.Poll {
		w.waiter, err = newWaiter(w.ring.call)
	}
	return w, err
}

func (w *worker) close() {
	if w.waiter != nil {
		w.waiter.close()
	}
}

// makeSlot gives a slot its memory and the ring's descriptors from first on, and
// says how many of them it takes.
func (w *worker) makeSlot(s *slot, first int) (used int, err error) {
	o := &w.l.o
	region := 2*w.queue + 1
	if o.Layout.Readable == nil && o.Layout.Writable == nil && o.Layout.Piece == 0 {
		s.area, err = newCompactArea(w.l.f.mem, region, w.size)
	} else {
		s.area, err = newArea(w.l.f.mem, region, w.size)
	}
	if err != nil {
		return 0, err
	}
	w.pattern.fill(s.area.payload(w.size))
	for _, c := range []struct {
		chain *[]Desc
		op    uint32
		n     int
	}{{&s.read, OpIn, w.size}, {&s.write, OpOut, w.size}, {&s.flush, OpFlush, 0}} {
		if *c.chain, err = o.Layout.chain(nil, &s.area, c.op, c.n); err != nil {
			return 0, err
		}
		used = max(used, len(*c.chain))
	}
	s.first = uint16(first)
	at := s.first
	if o.Layout.Indirect && w.l.f.features&FIndirect != 0 {
		b, err := w.l.f.mem.Alloc(region, used*descSize, 64)
		if err != nil {
			return 0, err
		}
		s.table, s.entry, at, used = b.B, Desc{Addr: b.Addr, Flags: DescIndirect}, 0, 1
	}
	for _, c := range [][]Desc{s.read, s.write, s.flush} {
		link(c, at)
	}
	if first+used > w.ring.Size() {
		return 0, fmt.Errorf("vhosttest: depth %d with %d descriptors each does not fit into a queue of %d", o.Depth, used, w.ring.Size())
	}
	return used, nil
}

// fill writes every block once.
func (w *worker) fill() {
	w.filling = w.blocks.n
	w.runs = sys.Nanotime() + int64(w.l.o.Timeout)
	w.err = w.loop()
	if w.err == nil && w.filling > 0 {
		w.err = fmt.Errorf("%d of %d blocks were not written within %v", w.filling, w.blocks.n, w.l.o.Timeout)
	}
	if w.err == nil && w.counts.failed > 0 {
		w.err = fmt.Errorf("%d of the first writes failed", w.counts.failed)
	}
	w.filling, w.writes = 0, 0
	w.counts = counts{gaps: w.counts.gaps[:0]}
	w.publish()
}

func (w *worker) run() {
	w.lastDone = w.l.epoch
	w.runs = w.l.epoch + int64(w.l.o.Run)
	w.err = w.loop()
	w.abandon()
}

// loop makes requests and takes completions until it is time to stop and none
// is outstanding.
func (w *worker) loop() error {
	w.ring.Quiet()
	for now := sys.Nanotime(); ; {
		w.issue(now)
		if len(w.free) == len(w.slots) {
			return nil
		}
		n, err := w.ring.Reap(w.done[:])
		if n == 0 && err == nil {
			if err = w.await(); err != nil {
				return err
			}
			n, err = w.ring.Reap(w.done[:])
		}
		now = sys.Nanotime()
		if n > 0 {
			w.take(w.done[:n], now)
		}
		if err != nil {
			return err
		}
	}
}

// issue makes a request for every free slot, if there are enough of them.
func (w *worker) issue(now int64) {
	if len(w.free) < w.l.o.Batch || w.l.stop.Load() || now >= w.runs {
		return
	}
	filling := w.filling > 0
	for len(w.free) > 0 {
		i := w.free[len(w.free)-1]
		w.free = w.free[:len(w.free)-1]
		s := &w.slots[i]
		s.live, s.at = true, now
		w.choose(s)
		w.place(s)
		if filling && w.filling == 0 {
			w.runs = 0 // no more of them
			break
		}
	}
	w.ring.Publish()
}

// choose says what a slot does next.
func (w *worker) choose(s *slot) {
	o := &w.l.o
	switch {
	case w.filling > 0:
		s.op, s.block = OpOut, w.blocks.n-w.filling
		w.filling--
	case o.FlushEvery > 0 && w.writes >= o.FlushEvery:
		w.writes = 0
		s.op = OpFlush
		s.area.encode(OpFlush, 0, 0)
		return
	case o.ReadPercent == 100 || o.ReadPercent > 0 && w.blocks.rnd.Uint64()%100 < uint64(o.ReadPercent):
		s.op, s.block = OpIn, w.blocks.pick(false, o.Sequential)
	default:
		s.op, s.block = OpOut, w.blocks.pick(true, o.Sequential)
		w.writes++
	}
	sector := w.sector(s.block)
	w.begin(s, sector)
	s.area.encode(s.op, sector, w.size)
}

func (w *worker) sector(block uint32) uint64 {
	return (w.first + uint64(block)) * uint64(w.size/SectorSize)
}

// begin notes a request in the model of what the disk holds.
func (w *worker) begin(s *slot, sector uint64) {
	if h := w.l.o.History; h != nil {
		client := w.queue*len(w.slots) + int(w.byHead[s.first])
		if s.op == OpIn {
			clearStamps(s.area.payload(w.size))
			s.note = h.BeginRead(client, w.first+uint64(s.block))
		} else {
			s.note = h.BeginWrite(client, w.first+uint64(s.block), s.area.payload(w.size))
		}
		return
	}
	if w.blocks.of == nil {
		return
	}
	b := &w.blocks.of[s.block]
	if s.op == OpIn {
		b.readers++
		s.lo, s.hi = b.lo, b.hi
		clearStamps(s.area.payload(w.size))
		return
	}
	b.writing = true
	b.hi++
	w.pattern.stamp(s.area.payload(w.size), sector, b.hi)
}

// clearStamps spoils what a sector says of itself, here or in a Recorder: what a
// read does not fill must not look like what is expected.
func clearStamps(b []byte) {
	for at := 0; at < len(b); at += SectorSize {
		le.PutUint64(b[at:], 0)
		le.PutUint64(b[at+tailAt:], 0)
	}
}

// place writes the request's chain where the device looks for it.
func (w *worker) place(s *slot) {
	chain := s.write
	switch s.op {
	case OpIn:
		chain = s.read
	case OpFlush:
		chain = s.flush
	}
	if s.table != nil {
		for i, d := range chain {
			putDesc(s.table[i*descSize:], d)
		}
		s.entry.Len = uint32(len(chain) * descSize)
		w.ring.SetDesc(s.first, s.entry)
	} else {
		copy(w.ring.desc[s.first:], chain)
	}
	w.ring.Offer(s.first)
}
