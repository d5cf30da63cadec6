package volume

import (
	"math/bits"

	"blockengine/sdk/block"
)

// LatencyBuckets is the number of buckets of a latency histogram. Bucket i
// counts requests that took less than BucketBound(i); the last one the rest.
const LatencyBuckets = 24

// BucketBound gives the upper bound of bucket i in ns: 1 µs doubled i times.
func BucketBound(i int) int64 { return 1024 << i }

// Stats counts requests. It belongs to one reactor, which alone reads and
// writes it; whoever else wants it asks that reactor for a copy.
type Stats struct {
	InFlight int64 // requests that have begun and not ended
	Ops      [block.MaxOp + 1]OpStats
	Errors   [8]ErrorCount // by status; the last one takes what finds no place
}

// OpStats counts the requests of one kind.
type OpStats struct {
	Requests uint64
	Bytes    uint64
	Errors   uint64
	NS       uint64 // sum of latencies
	Latency  [LatencyBuckets]uint64
}

// ErrorCount counts one errno.
type ErrorCount struct {
	Status block.Status
	Count  uint64
}

func (s *Stats) count(r *block.Request, ns int64) {
	op := r.Op
	if op > block.MaxOp {
		op = 0
	}
	o := &s.Ops[op]
	o.Requests++
	o.Bytes += r.Length
	o.NS += uint64(ns)
	o.Latency[min(bits.Len64(uint64(ns)>>10), LatencyBuckets-1)]++
	if r.Status != block.OK {
		o.Errors++
		s.addErrors(ErrorCount{r.Status, 1})
	}
}

// Add adds o to s.
func (s *Stats) Add(o *Stats) {
	s.InFlight += o.InFlight
	for i := range s.Ops {
		a, b := &s.Ops[i], &o.Ops[i]
		a.Requests += b.Requests
		a.Bytes += b.Bytes
		a.Errors += b.Errors
		a.NS += b.NS
		for j := range a.Latency {
			a.Latency[j] += b.Latency[j]
		}
	}
	for _, e := range o.Errors {
		if e.Count > 0 {
			s.addErrors(e)
		}
	}
}

func (s *Stats) addErrors(o ErrorCount) {
	for i := range s.Errors {
		e := &s.Errors[i]
		if e.Count == 0 || e.Status == o.Status || i == len(s.Errors)-1 {
			if e.Count == 0 {
				e.Status = o.Status
			}
			e.Count += o.Count
			return
		}
	}
}
