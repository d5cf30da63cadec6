package virtqueue

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// layouts are what drivers send for 4 KiB: header, data, status; a flush has no
// data. Each gives the descriptors per chain in the ring's table.
var layouts = []struct {
	name  string
	descs uint16
	fill  func(r *rig, head uint16)
}{
	{"direct2", 2, func(r *rig, h uint16) {
		b := r.buffer(h)
		r.set(h, desc{b, 16, descNext, h + 1}, desc{b + 16, 1, descWrite, 0})
	}},
	{"direct3", 3, func(r *rig, h uint16) {
		b := r.buffer(h)
		r.set(h, desc{b, 16, descNext, h + 1}, desc{b + 64, 512, descNext | descWrite, h + 2}, desc{b + 16, 1, descWrite, 0})
	}},
	{"indirect3", 1, func(r *rig, h uint16) {
		b := r.buffer(h)
		r.set(h, r.indirect(b+1024, desc{b, 16, descNext, 1}, desc{b + 64, 512, descNext | descWrite, 2}, desc{b + 16, 1, descWrite, 0}))
	}},
}

// BenchmarkTurn is a device that does nothing: pop a batch, push it, publish it.
// The driver costs a store a batch. One operation is one chain; cpu-ns/op is what
// it takes when others leave the core alone.
func BenchmarkTurn(b *testing.B) {
	for _, l := range layouts {
		for _, batch := range []int{1, 8, 32} {
			for _, tracked := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/batch%d/tracked=%v", l.name, batch, tracked), func(b *testing.B) {
					benchTurn(b, l.descs, l.fill, batch, tracked)
				})
			}
		}
	}
}

func benchTurn(b *testing.B, descs uint16, fill func(*rig, uint16), batch int, tracked bool) {
	const depth = 64
	r := newRig(b, 256, true, 0)
	for i := range r.size { // the entries stay as they are, only the index moves
		h := i % depth * descs
		fill(r, h)
		r.offer(h)
	}
	r.setIdx(0)
	c := r.config()
	if tracked {
		c = r.tracked()
	}
	q := r.queueOf(c)
	chains := make([]Chain, batch)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	began := threadTime(b)
	for done := 0; done < b.N; done += batch {
		r.idx += uint16(batch)
		r.setIdx(r.idx)
		n, err := q.Pop(chains)
		if err != nil || n != batch {
			b.Fatal(n, err)
		}
		for i := range chains {
			q.Push(chains[i].Head, uint32(chains[i].WriteLen))
		}
		q.Publish()
	}
	b.StopTimer()
	b.ReportMetric(float64(threadTime(b)-began)/float64(b.N), "cpu-ns/op")
	if q.Outstanding() != 0 || r.usedIdx() != r.idx {
		b.Fatal("chains are missing")
	}
}

// BenchmarkAcross has the driver on another core: it polls, keeps 64 chains out
// and writes each header anew; the device reads the headers and writes the
// status bytes. It measures the traffic of cache lines, and wants two idle cores.
func BenchmarkAcross(b *testing.B) {
	for _, l := range layouts {
		for _, tracked := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/tracked=%v", l.name, tracked), func(b *testing.B) {
				benchAcross(b, l.descs, l.fill, tracked)
			})
		}
	}
}

func benchAcross(b *testing.B, descs uint16, fill func(*rig, uint16), tracked bool) {
	const depth = 64
	r := newRig(b, 256, true, 0)
	for i := range uint16(depth) {
		fill(r, i*descs)
	}
	c := r.config()
	if tracked {
		c = r.tracked()
	}
	q := r.queueOf(c)
	q.Suppress()
	done := make(chan bool)
	go pollingDriver(r, uint64(b.N), depth, descs, done)
	chains := make([]Chain, 32)
	b.ReportAllocs()
	b.ResetTimer()
	for served := 0; served < b.N; {
		n, err := q.Pop(chains)
		if err != nil {
			b.Fatal(err)
		}
		for i := range chains[:n] {
			g := &chains[i]
			g.Write[len(g.Write)-1][0] = g.Read[0][0]
			q.Push(g.Head, uint32(g.WriteLen))
		}
		q.Publish()
		served += n
	}
	<-done
}

func pollingDriver(r *rig, n uint64, depth int, descs uint16, done chan bool) {
	var offered, back uint64
	var free []uint16
	for i := range uint16(depth) {
		free = append(free, i*descs)
	}
	for back < n {
		for now := r.usedIdx(); uint16(back) != now; back++ {
			id, _ := r.element(uint16(back))
			free = append(free, uint16(id))
		}
		k := min(len(free), int(n-offered))
		for _, h := range free[:k] {
			binary.LittleEndian.PutUint64(r.at(r.buffer(h), 8), offered)
		}
		if k > 0 {
			r.offer(free[:k]...)
			offered += uint64(k)
			free = append(free[:0], free[k:]...)
		}
	}
	close(done)
}

// threadTime is the processor time that this thread has used.
func threadTime(b *testing.B) time.Duration {
	const thisThread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOrder is what the ordering of two stores costs.
func BenchmarkOrder(b *testing.B) {
	for range b.N {
		order()
	}
}
