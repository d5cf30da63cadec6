package vhosttest

import (
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkClient shows what the client can do, for whoever changes the data
// path: against a device that does next to nothing, on a thread beside it.
func BenchmarkClient(b *testing.B) {
	d := newDevice(b)
	d.listen()
	for name, o := range map[string]LoadOptions{
		"64": {Depth: 64, Poll: true}, "64by16": {Depth: 64, Poll: true, Batch: 16},
		"64indirect": {Depth: 64, Poll: true, Layout: Layout{Indirect: true}}, "1": {Depth: 1, Poll: true},
	} {
		b.Run(name, func(b *testing.B) {
			f := open(b, Options{Socket: d.socket, QueueSize: 256})
			must(b, f.Stop())
			f.Reset()
			var over atomic.Bool
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				nullDevice(f, &over)
			}()
			measure(b, f, o)
			over.Store(true)
			<-ended
		})
	}
}

// BenchmarkQemuStorageDaemon is the same against its null-co.
func BenchmarkQemuStorageDaemon(b *testing.B) {
	q := startQSD(b, "driver=null-co,read-zeroes=off,size=1073741824", "")
	for name, o := range map[string]LoadOptions{
		"64": {Depth: 64, Poll: true}, "1": {Depth: 1, Poll: true}, "64asleep": {Depth: 64}, "1asleep": {Depth: 1},
	} {
		b.Run(name, func(b *testing.B) { measure(b, open(b, Options{Socket: q.socket, QueueSize: 256}), o) })
	}
}

// measure runs a load of reads for a moment each time.
func measure(b *testing.B, f *Frontend, o LoadOptions) {
	o.Frontend, o.ReadPercent, o.Run = f, 100, 300*time.Millisecond
	for range b.N {
		r, err := Run(testContext(b), o)
		must(b, err)
		must(b, r.Bad())
		b.ReportMetric(r.IOPS(), "IOPS")
		b.ReportMetric(float64(r.Latency.P50), "p50-ns")
		b.ReportMetric(float64(r.Latency.P99), "p99-ns")
	}
	f.Hangup()
}

// nullDevice reads each chain's descriptors, writes its status, and gives it back.
func nullDevice(f *Frontend, over *atomic.Bool) {
	r, next := f.rings[0], uint16(0)
	host := func(addr uint64, n uint32) []byte {
		b, err := f.mem.At(addr, uint64(n))
		if err != nil {
			panic(err)
		}
		return b
	}
	for !over.Load() {
		idx := r.AvailIdx()
		if idx == next {
			continue
		}
		for ; next != idx; next++ {
			head := r.avail[next&(r.size-1)]
			at, total := r.desc[head], uint32(0)
			if at.Flags&DescIndirect != 0 {
				b := host(at.Addr, at.Len)
				at = Desc{Addr: le.Uint64(b[at.Len-16:]), Len: le.Uint32(b[at.Len-8:])}
				total = le.Uint32(b[24:])
			}
			for at.Flags&DescNext != 0 {
				if at.Flags&DescWrite != 0 {
					total += at.Len
				}
				at = r.desc[at.Next]
			}
			host(at.Addr, at.Len)[0] = StatusOK
			r.used[next&(r.size-1)] = usedElem{uint32(head), total + at.Len}
		}
		atomic.StoreUint32(r.usedWord, uint32(next)<<16|usedNoNotify)
	}
}
