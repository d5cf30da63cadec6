package builtin

import (
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
	c.left.Add(-1)
}

func (c *counter) Post(batch []*block.Request) {
	for _, r := range batch {
		if r.Status != block.OK {
			c.failed.Add(1)
		}
	}
	if c.left.Add(-int64(len(batch))) == 0 {
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
				benchmark(b, d, op, depth)
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

func benchmark(b *testing.B, d *disk, op block.Op, depth int) {
	c := newCounter()
	ch, err := d.dev.Channel(c)
	if err != nil {
		b.Fatal(err)
	}
	defer ch.Close()
	rng := rand.New(rand.NewPCG(3, 4))
	batch := make([]*block.Request, depth)
	for i := range batch {
		batch[i] = &block.Request{Op: op, Extents: make([]block.Extent, 0, 4)}
		if op.HasPayload() {
			batch[i].Data = [][]byte{make([]byte, 4096)}
		}
	}
	round := func(n int) {
		for _, r := range batch[:n] {
			if op != block.OpFlush {
				r.Offset, r.Length = rng.Uint64N(d.info.Size/4096)*4096, 4096
			}
			r.Extents = r.Extents[:0]
		}
		c.do(ch, batch[:n])
	}
	round(depth) // workers, rings and buffers come into being
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= depth {
		round(min(left, depth))
	}
	b.StopTimer()
	if n := c.failed.Load(); n > 0 {
		b.Fatalf("%d requests failed", n)
	}
}
