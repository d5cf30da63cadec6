package volume_test

import (
	"testing"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// instant is a device that answers at once.
type instant struct{}

func (instant) Home() *reactor.Reactor { return nil }

func (instant) OpenChannel(_ *reactor.Reactor, done volume.Completer) (volume.Channel, error) {
	return instantChannel{done}, nil
}

func (instant) Close() error { return nil }

type instantChannel struct{ done volume.Completer }

func (instantChannel) Close() {}

// Submit completes each request within.
func (c instantChannel) Submit(batch []*volume.IO) {
	for _, io := range batch {
		if io.Op == block.OpRead {
			io.Filled = io.Length
		}
		c.done.Complete(io)
	}
}

// loop is a guest that submits its batch again as soon as it is back.
type loop struct {
	q     *volume.Queue
	flags block.Flags // the volume takes off what it has emulated
	batch []*volume.IO
	back  int
	left  int
	bad   int
	done  chan struct{}
}

func (l *loop) Completed(batch []*volume.IO) {
	for _, io := range batch {
		if io.Status != block.OK {
			l.bad++
		}
		io.Flags = l.flags
	}
	if l.back += len(batch); l.back < len(l.batch) {
		return
	}
	l.back = 0
	if l.left -= len(l.batch); l.left <= 0 {
		l.done <- struct{}{}
		return
	}
	l.q.Submit(l.batch)
}

// newLoop opens a volume that answers at once, with a batch of 32 requests.
func newLoop(t testing.TB, info block.Info, op block.Op, flags block.Flags, length uint64) (*reactor.Reactor, *loop) {
	t.Helper()
	rs := newReactors(t, 1)
	v := volume.New(volume.Options{Name: "bench", Reactors: rs, Log: quiet})
	if err := v.Attach(instant{}, info); err != nil {
		t.Fatal(err)
	}
	l := &loop{flags: flags, done: make(chan struct{}, 1)}
	for i := range 32 {
		l.batch = append(l.batch, request(op, flags, uint64(i)*length, length))
	}
	rs[0].Do(func() { l.q, _ = v.Open(rs[0], l, volume.QueueOptions{}) })
	return rs[0], l
}

func (l *loop) run(r *reactor.Reactor, n int) {
	r.Post(reactor.MailFunc(func() {
		l.left = n
		l.q.Submit(l.batch)
	}))
	<-l.done
}

var loads = []struct {
	name   string
	info   block.Info
	op     block.Op
	flags  block.Flags
	length uint64
}{
	{"read", block.Info{Size: 1 << 40, BlockSize: 512, Caps: allCaps}, block.OpRead, 0, 4096},
	{"write", block.Info{Size: 1 << 40, BlockSize: 512, Caps: allCaps}, block.OpWrite, 0, 4096},
	{"fua by flush", block.Info{Size: 1 << 40, BlockSize: 512, Caps: block.CapFlush | block.CapFlushCoversAll}, block.OpWrite, block.FUA, 4096},
	{"read in 16 parts", block.Info{Size: 1 << 40, BlockSize: 512, MaxTransfer: 4096}, block.OpRead, 0, 65536},
	{"zeroes as 4 writes", block.Info{Size: 1 << 40, BlockSize: 512}, block.OpWriteZeroes, 0, 1 << 20},
}

// The data path allocates nothing once its pools are filled, for whole
// requests, for those in parts and for emulated ones.
func TestNoAllocations(t *testing.T) {
	for _, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			r, lo := newLoop(t, l.info, l.op, l.flags, l.length)
			lo.run(r, 640)
			// One mail, with a closure, starts each run of many requests.
			if n := testing.AllocsPerRun(5, func() { lo.run(r, 3200) }); n > 20 {
				t.Errorf("%v allocations for 3200 requests", n)
			}
			if lo.bad > 0 {
				t.Errorf("%d requests failed", lo.bad)
			}
		})
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, l := range loads {
		b.Run(l.name, func(b *testing.B) {
			r, lo := newLoop(b, l.info, l.op, l.flags, l.length)
			lo.run(r, 640)
			b.ReportAllocs()
			b.ResetTimer()
			lo.run(r, b.N)
		})
	}
}
