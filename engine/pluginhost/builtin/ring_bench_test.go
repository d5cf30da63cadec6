package builtin

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// player keeps so many requests of one kind outstanding on a volume, on its
// reactor.
type player struct {
	l       load
	size    uint64
	next    uint64 // of sequential loads
	rng     *rand.Rand
	q       *volume.Queue
	left    int // to be begun
	out     int
	failed  int
	batch   []*volume.IO
	over    chan struct{}
	ordered bool
}

func (p *player) begin(io *volume.IO) {
	io.Offset = p.rng.Uint64N(p.size/p.l.length) * p.l.length
	if p.ordered {
		io.Offset, p.next = p.next, (p.next+p.l.length)%p.size
	}
	io.Length = p.l.length
	p.left--
	p.out++
	p.batch = append(p.batch, io)
}

func (p *player) Completed(batch []*volume.IO) {
	for _, io := range batch {
		p.out--
		if io.Status != block.OK {
			p.failed++
		}
		if p.left > 0 {
			p.begin(io)
		}
	}
	p.push()
}

func (p *player) push() {
	b := p.batch
	p.batch = p.batch[:0]
	if len(b) > 0 {
		p.q.Submit(b)
	} else if p.out == 0 {
		p.over <- struct{}{}
	}
}

// playFile opens a volume on a file and gives a player on a reactor.
func playFile(b testing.TB, o store.Options, l load, ordered bool) (*reactor.Reactor, *player) {
	dev, err := File().Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	r, err := reactor.New(reactor.Options{Spin: 50 * time.Microsecond})
	if err != nil {
		b.Fatal(err)
	}
	r.Start()
	v := volume.New(volume.Options{Name: "v", Reactors: []*reactor.Reactor{r}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := v.Attach(volume.Store(dev), dev.Info()); err != nil {
		b.Fatal(err)
	}
	p := &player{l: l, size: dev.Info().Size, rng: rand.New(rand.NewPCG(1, 2)), over: make(chan struct{}, 1), ordered: ordered}
	if !r.Do(func() { p.q, err = v.Open(r, p, volume.QueueOptions{}) }) || err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		r.Do(p.q.Close)
		if err := v.Close(context.Background()); err != nil {
			b.Error(err)
		}
		r.Stop()
	})
	return r, p
}

// play does n requests.
func (p *player) play(r *reactor.Reactor, n int) {
	p.left = n
	r.Post(reactor.MailFunc(func() {
		for range min(p.l.depth, n) {
			x := &volume.IO{Request: block.Request{Op: p.l.op}}
			mem, err := syscall.Mmap(-1, 0, int(p.l.length), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
			if err != nil {
				panic(err)
			}
			if p.l.op.HasPayload() {
				x.Data = [][]byte{mem}
			}
			p.begin(x)
		}
		p.push()
	}))
	<-p.over
}

func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// way is a case of BenchmarkWays.
type way struct {
	kind, io string
	load
	ordered bool
}

func wayCases() (all []way) {
	loads := []load{{op: block.OpRead, depth: 1, length: 4096}, {op: block.OpRead, depth: 64, length: 4096}, {op: block.OpRead, depth: 8, length: 256 << 10},
		{op: block.OpWrite, depth: 1, length: 4096}, {op: block.OpWrite, depth: 2, length: 4096}, {op: block.OpWrite, depth: 4, length: 4096}, {op: block.OpWrite, depth: 8, length: 4096}, {op: block.OpWrite, depth: 16, length: 4096}, {op: block.OpWrite, depth: 64, length: 4096}, {op: block.OpWrite, depth: 8, length: 256 << 10}}
	for _, kind := range []string{"direct", "cached", "cold"} {
		for _, l := range loads {
			for _, io := range []string{ioThreads, ioAuto, ioRing} {
				if kind == "cold" && l.op == block.OpWrite {
					continue
				}
				all = append(all, way{kind, io, l, l.length > 4096})
				if l.op == block.OpWrite && l.depth == 64 {
					all = append(all, way{kind, io, l, true})
				}
			}
		}
	}
	// Last, as what discards leave is quicker to read.
	for _, op := range []block.Op{block.OpDiscard, block.OpWriteZeroes, block.OpFlush} {
		for _, depth := range []int{1, 8, 64} {
			for _, io := range []string{ioThreads, ioRing} {
				all = append(all, way{"cached", io, load{op: op, depth: depth, length: 4096}, false})
			}
		}
	}
	return all
}

func (w way) String() string {
	order := "random"
	if w.ordered {
		order = "sequential"
	}
	return fmt.Sprintf("%s/%v/%s/%dKiB/depth=%d/%s", w.kind, w.op, order, w.length>>10, w.depth, w.io)
}

// prepare puts the file's pages into the page cache, or takes them out.
func (w way) prepare(b *testing.B, path string) {
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if w.kind == "cached" {
		if _, err := io.Copy(io.Discard, f); err != nil {
			b.Fatal(err)
		}
		return
	}
	fadvise(int(f.Fd()), 0, 0, dontNeed)
}

// BenchmarkWays compares the values of the option io, through a volume on a
// reactor: time and CPU time of the whole process, its threads in the kernel
// included, for a request.
func BenchmarkWays(b *testing.B) {
	const size = 256 << 20
	path := filepath.Join(b.TempDir(), "disk")
	d := openDisk(b, File(), fileOptions(path, size))
	fill(b, d)
	d.must(&block.Request{Op: block.OpFlush})
	d.close()
	for _, w := range wayCases() {
		b.Run(w.String(), func(b *testing.B) {
			o := fileOptions(path, 0)
			o.Bools["direct"] = w.kind == "direct"
			o.Strings["io"] = w.io
			r, p := playFile(b, o, w.load, w.ordered)
			w.prepare(b, path)
			b.ResetTimer()
			before := cpu()
			p.play(r, b.N)
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			if p.failed > 0 {
				b.Fatalf("%d failed", p.failed)
			}
		})
	}
}
