package vhosttest

import (
	"math/bits"
	"time"
)

// histogram counts times in ns in steps of 3 %: 32 for each power of two.
type histogram [histSteps * 32]uint64

const (
	histSub   = 5 // bits
	histSteps = 40
)

// bucketOf a time; what is longer than the last step is in the last one.
func bucketOf(ns int64) int {
	v := uint64(max(ns, 0))
	if v < 1<<histSub {
		return int(v)
	}
	shift := bits.Len64(v) - histSub - 1
	return min((shift+1)<<histSub+int(v>>shift)-1<<histSub, len(histogram{})-1)
}

// topOf a bucket: the longest time that falls into it.
func topOf(i int) int64 {
	if i < 1<<histSub {
		return int64(i)
	}
	shift := i>>histSub - 1
	return (int64(i&(1<<histSub-1))+1<<histSub+1)<<shift - 1
}

func (h *histogram) add(o *histogram) {
	for i, n := range o {
		h[i] += n
	}
}

// Latency sums up times from making a request to finding it finished, known to
// 3 %; the maximum is exact.
type Latency struct {
	Count               uint64
	P50, P99, P999, Max time.Duration
}

func (h *histogram) latency(longest int64) Latency {
	l := Latency{Max: time.Duration(longest)}
	for _, n := range h {
		l.Count += n
	}
	of := func(part float64) time.Duration {
		rank, seen := uint64(part*float64(l.Count)), uint64(0)
		for i, n := range h {
			if seen += n; seen > rank {
				return min(time.Duration(topOf(i)), l.Max)
			}
		}
		return 0
	}
	l.P50, l.P99, l.P999 = of(0.5), of(0.99), of(0.999)
	return l
}
