package nbdload

import (
	"math/bits"
	"time"
)

// Grain of what is recorded.
const (
	bucketTime = time.Millisecond
	sliceTime  = 100 * time.Millisecond
)

// bucket is a millisecond of a connection.
type bucket struct {
	done    uint32 // completions
	gap     int64  // ns, the longest that ended here
	latency int64  // ns, the highest
}

// A histogram counts latencies log-linearly: 32 steps for each doubling, so a
// value is known to 3 %. It covers 1 µs to 17 s; what is beyond counts as the
// nearest.
const (
	histLow   = 10 // log2 of the least ns that are told apart
	histSteps = 32
	histSize  = 24*histSteps + 1
)

type histogram [histSize]uint32

func histIndex(ns int64) int {
	if ns < 1<<histLow {
		return 0
	}
	log := bits.Len64(uint64(ns)) - 1
	step := int(ns>>(log-5)) & (histSteps - 1)
	return min((log-histLow)*histSteps+step+1, histSize-1)
}

// histValue is the upper end, in ns, of what index counts.
func histValue(index int) int64 {
	if index == 0 {
		return 1 << histLow
	}
	log, step := (index-1)/histSteps+histLow, (index-1)%histSteps
	return int64(histSteps+step+1) << (log - 5)
}

// recorder is what one connection has seen, on the load's clock. Only its
// goroutine writes; it is read when that has ended.
type recorder struct {
	buckets []bucket
	slices  []histogram
	last    int64 // ns; of the last completion, 0 is the start
}

// newRecorder takes the memory for a run, and for what is still outstanding at
// its end.
func newRecorder(run time.Duration) *recorder {
	run += time.Second
	return &recorder{buckets: make([]bucket, run/bucketTime+1), slices: make([]histogram, run/sliceTime+1)}
}

// at gives the bucket of a time; what is later than was foreseen counts in the
// last.
func (r *recorder) at(ns int64) *bucket {
	return &r.buckets[min(int(ns/int64(bucketTime)), len(r.buckets)-1)]
}

// complete notes a completion.
func (r *recorder) complete(now, latency int64) {
	b := r.at(now)
	b.done++
	b.latency = max(b.latency, latency)
	r.gapEnds(b, now)
	r.slices[min(int(now/int64(sliceTime)), len(r.slices)-1)][histIndex(latency)]++
}

func (r *recorder) gapEnds(b *bucket, now int64) {
	b.gap = max(b.gap, now-r.last)
	r.last = now
}

// close ends the gap that nothing will end any more: the connection is gone.
func (r *recorder) close(now int64) { r.gapEnds(r.at(now), now) }

// longestGap of those that touch [from, to).
func (r *recorder) longestGap(from, to int64) int64 {
	longest := int64(0)
	i := max(int(from/int64(bucketTime)), 0)
	for ; i < len(r.buckets); i++ {
		b, start := &r.buckets[i], int64(i)*int64(bucketTime)
		if start < to {
			longest = max(longest, b.gap)
			continue
		}
		if b.done == 0 && b.gap == 0 {
			continue
		}
		// The first to end after the window. If it is longer than what lies
		// between, it began in the window.
		if b.gap > start-to {
			longest = max(longest, b.gap)
		}
		break
	}
	return longest
}
