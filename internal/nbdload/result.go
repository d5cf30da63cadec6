package nbdload

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Result is what a load has seen.
type Result struct {
	Elapsed                time.Duration
	Reads, Writes, Flushes uint64 // answered, with or without an error
	Failed                 uint64 // answered with an error
	Errnos                 map[syscall.Errno]uint64
	Mismatched             uint64   // reads that gave what cannot be there
	Mismatches             []string // the first ones
	Lost                   uint64   // outstanding when their connection ended

	recorders []*recorder // by connection
}

// newResult sums up the connections of a load that has ended.
func newResult(l *Load) *Result {
	r := &Result{Elapsed: l.Now(), Errnos: map[syscall.Errno]uint64{}}
	for _, c := range l.conns {
		r.Reads += c.counts.reads
		r.Writes += c.counts.writes
		r.Flushes += c.counts.flushes
		r.Failed += c.counts.failed
		r.Mismatched += c.counts.mismatched
		r.Mismatches = append(r.Mismatches, c.counts.examples...)
		r.Lost += uint64(c.lost)
		for errno, n := range c.counts.errnos {
			r.Errnos[errno] += n
		}
		if c.err != nil {
			c.rec.close(int64(r.Elapsed)) // what it waited for never came
		}
		r.recorders = append(r.recorders, c.rec)
	}
	return r
}

// Completed is the number of requests that were answered.
func (r *Result) Completed() uint64 { return r.Reads + r.Writes + r.Flushes }

// Bad is nil if every request was answered without an error and every read gave
// what was there.
func (r *Result) Bad() error {
	var errs []error
	if r.Failed > 0 {
		var by []string
		for errno, n := range r.Errnos {
			by = append(by, fmt.Sprintf("%d with %v", n, errno))
		}
		slices.Sort(by)
		errs = append(errs, fmt.Errorf("nbdload: %d of %d requests failed: %s", r.Failed, r.Completed(), strings.Join(by, ", ")))
	}
	if r.Mismatched > 0 {
		errs = append(errs, fmt.Errorf("nbdload: %d of %d reads gave what cannot be there:\n%s", r.Mismatched, r.Reads, strings.Join(r.Mismatches, "\n")))
	}
	if r.Lost > 0 {
		errs = append(errs, fmt.Errorf("nbdload: %d requests were never answered", r.Lost))
	}
	return errors.Join(errs...)
}

// Gap is the longest time from one completion to the next on the same
// connection, of those that touch the window [from, to). It counts in full, also
// what of it lies outside. The window's ends are taken to the millisecond.
func (r *Result) Gap(from, to time.Duration) time.Duration {
	longest := int64(0)
	for _, rec := range r.recorders {
		longest = max(longest, rec.longestGap(int64(from), int64(to)))
	}
	return time.Duration(longest)
}

// Completions in a window, whose ends are taken to the millisecond.
func (r *Result) Completions(from, to time.Duration) uint64 {
	var n uint64
	for _, rec := range r.recorders {
		for _, b := range span(rec.buckets, from, to, bucketTime) {
			n += uint64(b.done)
		}
	}
	return n
}

// Latency sums up times from making a request to its completion. They are known
// to 3 %, the maximum exactly.
type Latency struct {
	Count               uint64
	P50, P99, P999, Max time.Duration
}

// Latency of the requests that were completed in a window. Its ends are taken to
// 100 ms: such a piece counts if most of it lies in the window.
func (r *Result) Latency(from, to time.Duration) Latency {
	var sum histogram64
	var l Latency
	for _, rec := range r.recorders {
		from, to := (from + sliceTime/2).Truncate(sliceTime), (to + sliceTime/2).Truncate(sliceTime)
		for i := range span(rec.slices, from, to, sliceTime) {
			sum.add(&rec.slices[int(max(from, 0)/sliceTime)+i])
		}
		for _, b := range span(rec.buckets, from, to, bucketTime) {
			l.Max = max(l.Max, time.Duration(b.latency))
		}
	}
	for _, n := range sum {
		l.Count += n
	}
	// The upper end of a step can lie above all that is in it.
	of := func(part float64) time.Duration { return min(sum.quantile(part, l.Count), l.Max) }
	l.P50, l.P99, l.P999 = of(0.5), of(0.99), of(0.999)
	return l
}

// Whole is Latency of the whole run.
func (r *Result) Whole() Latency { return r.Latency(0, r.Elapsed+2*sliceTime) }

// span gives the pieces of a window that were recorded. What came later than
// was foreseen is in the last piece.
func span[T any](all []T, from, to, each time.Duration) []T {
	i, j := int(max(from, 0)/each), int(max(to, 0)/each)
	if j >= len(all) {
		j = len(all)
	}
	return all[min(i, j):j]
}

// histogram64 sums histograms.
type histogram64 [histSize]uint64

func (h *histogram64) add(o *histogram) {
	for i, n := range o {
		h[i] += uint64(n)
	}
}

// quantile of count values: the upper end of the step that holds it.
func (h *histogram64) quantile(part float64, count uint64) time.Duration {
	rank, seen := uint64(part*float64(count)), uint64(0)
	for i, n := range h {
		if seen += n; seen > rank {
			return time.Duration(histValue(i))
		}
	}
	return 0
}
