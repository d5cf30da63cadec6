package builtin

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// counter is a store.Completer that only counts, for benchmarks.
type counter struct {
	left   atomic.Int64
	failed atomic.Int64
	mu     sync.Mutex
	cond   sync.Cond
}

func newCounter() *counter {
	c := &counter{}
	c.cond.L = &c.mu
	return c
}

func (c *counter) Complete(r *block.Request) {
	if r.Status != block.OK {
		c.failed.Add(1)
	}
	c.count(1)
}

func (c *counter) Post(batch []*block.Request) {
	for _, r := range batch {
		if r.Status != block.OK {
			c.failed.Add(1)
		}
	}
	c.count(len(batch))
}

func (c *counter) count(n int) {
	if c.left.Add(-int64(n)) == 0 {
		c.mu.Lock()
		c.cond.Signal()
		c.mu.Unlock()
	}
}

func (c *counter) do(ch store.Channel, batch []*block.Request) {
	c.left.Store(int64(len(batch)))
	ch.Submit(batch)
	c.mu.Lock()
	for c.left.Load() != 0 {
		c.cond.Wait()
	}
	c.mu.Unlock()
}

// BenchmarkRequests does random requests in batches of 32, one request an
// iteration. All cases show 0 allocations a request.
func BenchmarkRequests(b *testing.B) {
	const size, depth = 64 << 20, 32
	file := func(change func(o *store.Options)) func(b *testing.B) *disk {
		return func(b *testing.B) *disk {
			o := fileOptions(filepath.Join(b.TempDir(), "disk"), size)
			change(&o)
			return openDisk(b, File(), o)
		}
	}
	for _, k := range []struct {
		name string
		open func(b *testing.B) *disk
	}{
		{"null", func(b *testing.B) *disk { return openDisk(b, Null(), sizeOptions(size)) }},
		{"memory", func(b *testing.B) *disk { return openDisk(b, Memory(), sizeOptions(size)) }},
		{"file", file(func(*store.Options) {})},
		{"file/direct", file(func(o *store.Options) { o.Bools["direct"] = true })},
	} {
		for _, op := range []block.Op{block.OpRead, block.OpWrite, block.OpWriteZeroes, block.OpBlockStatus, block.OpFlush} {
			b.Run(k.name+"/"+op.String(), func(b *testing.B) {
				d := k.open(b)
				fill(b, d)
				benchmark(b, d, load{op: op, depth: depth, length: 4096})
			})
		}
	}
}

// BenchmarkCachedRead compares reads of cached pages on the reactor with the
// way through a worker; maxCachedRead rests on it.
func BenchmarkCachedRead(b *testing.B) {
	for _, l := range []load{{depth: 1, length: 4096}, {depth: 32, length: 4096}, {depth: 1, length: 128 << 10}, {depth: 8, length: 128 << 10}, {depth: 8, length: 512 << 10}} {
		l.op = block.OpRead
		for _, l.viaWorker = range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/depth=%d/worker=%v", l.length>>10, l.depth, l.viaWorker), func(b *testing.B) {
				_, d := tempFile(b, 64<<20)
				fill(b, d)
				benchmark(b, d, l)
			})
		}
	}
}

// BenchmarkWorkers shows what the number of workers does, with pages that
// are not cached (with and without the reactor's attempt, which begins the
// read), with direct I/O, and with writes into the page cache.
func BenchmarkWorkers(b *testing.B) {
	const dontNeed, random = 4, 1 // POSIX_FADV_*
	for _, mode := range []string{"cold", "cold past the reactor", "direct", "write"} {
		for _, n := range []uint64{1, 2, 4, 8, 16} {
			b.Run(fmt.Sprintf("%s/workers=%d", mode, n), func(b *testing.B) {
				o := fileOptions(filepath.Join(b.TempDir(), "disk"), 128<<20)
				o.Sizes["workers"] = n
				o.Bools["direct"] = mode == "direct"
				d := openDisk(b, File(), o)
				fill(b, d)
				d.must(&block.Request{Op: block.OpFlush})
				l := load{op: block.OpRead, depth: 64, length: 4096, viaWorker: mode == "cold past the reactor"}
				if mode == "write" {
					l.op = block.OpWrite
				} else {
					fadvise(d.dev.(*fileDevice).fd, 0, 0, dontNeed)
					fadvise(d.dev.(*fileDevice).fd, 0, 0, random)
				}
				benchmark(b, d, l)
			})
		}
	}
}

// fill writes the whole disk once.
func fill(b *testing.B, d *disk) {
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = 1
	}
	for off := uint64(0); off < d.info.Size; off += 1 << 20 {
		if st := d.write(off, buf, 0); st != block.OK {
			b.Fatal(st)
		}
	}
}

// load is what a benchmark does: requests of one kind, so many at a time.
type load struct {
	op        block.Op
	depth     int
	length    uint64 // bytes
	viaWorker bool   // file: do not try the page cache on the reactor
}

func benchmark(b *testing.B, d *disk, l load) {
	c := newCounter()
	ch, err := d.dev.Channel(c)
	if err != nil {
		b.Fatal(err)
	}
	defer ch.Close()
	if f, ok := ch.(*fileChannel); ok && l.viaWorker {
		f.cached = false
	}
	rng := rand.New(rand.NewPCG(3, 4))
	batch := make([]*block.Request, l.depth)
	for i := range batch {
		batch[i] = &block.Request{Op: l.op, Extents: make([]block.Extent, 0, 4)}
		if l.op.HasPayload() {
			batch[i].Data = [][]byte{make([]byte, l.length)}
		}
	}
	round := func(n int) {
		for _, r := range batch[:n] {
			if l.op != block.OpFlush {
				r.Offset, r.Length = rng.Uint64N(d.info.Size/l.length)*l.length, l.length
			}
			r.Extents = r.Extents[:0]
		}
		c.do(ch, batch[:n])
	}
	round(l.depth) // workers, rings and buffers come into being
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= l.depth {
		round(min(left, l.depth))
	}
	b.StopTimer()
	if n := c.failed.Load(); n > 0 {
		b.Fatalf("%d requests failed", n)
	}
}

// TestNoAllocations: a batch in steady state allocates nothing.
func TestNoAllocations(t *testing.T) {
	all := append(kinds(), kind{"null", func(t testing.TB, size uint64) *disk { return openDisk(t, Null(), sizeOptions(size)) }})
	for _, k := range all {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, 1<<20)
			c := newCounter()
			ch, err := d.dev.Channel(c)
			if err != nil {
				t.Fatal(err)
			}
			defer ch.Close()
			var batch []*block.Request
			for i := range uint64(24) {
				r := &block.Request{Op: block.Op(1 + i%6), Offset: i * 8192, Length: 8192}
				switch r.Op {
				case block.OpRead, block.OpWrite:
					r.Data = [][]byte{payload(8192)}
				case block.OpFlush:
					r.Offset, r.Length = 0, 0
				case block.OpBlockStatus:
					r.Extents = make([]block.Extent, 0, 4)
				}
				if r.Op.Modifies() && i%4 == 0 {
					r.Flags = block.FUA
				}
				if (&model{info: d.info}).promised(r) {
					batch = append(batch, r)
				}
			}
			round := func() {
				for _, r := range batch {
					r.Extents = r.Extents[:0]
				}
				c.do(ch, batch)
			}
			for range 20 {
				round() // workers, rings and buffers come into being
			}
			// Rare growth of a ring is no allocation a request.
			if n := testing.AllocsPerRun(50, round); n >= 1 {
				t.Errorf("%v allocations a batch of %d", n, len(batch))
			}
			if n := c.failed.Load(); n > 0 {
				t.Errorf("%d requests failed", n)
			}
		})
	}
}
