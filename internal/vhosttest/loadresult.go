package vhosttest

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// LoadResult is what a load has seen.
type LoadResult struct {
	Elapsed                time.Duration
	Reads, Writes, Flushes uint64 // finished, with or without an error
	Failed                 uint64 // of those, with an error
	Mismatched             uint64 // gave what cannot be, or were finished as no device may
	Mismatches             []string
	Hung                   uint64 // never finished
	Kicks                  uint64 // notifications to the device, firmware's included
	Calls                  uint64 // sleeps that a completion ended
	Sleeps                 uint64
	MissedCalls            uint64 // a completion was there, and no call for it within a second
	Latency                Latency
	Gaps                   []Gap // of 1 ms and longer; of very many the longest
	Outages                []Outage
}

// Gap is a time in which a queue with requests outstanding had no completion.
type Gap struct {
	Queue    int
	From, To time.Duration
}

// Length of the gap.
func (g Gap) Length() time.Duration { return g.To - g.From }

// Outage is a time without a back-end: from noticing that it is gone to rings
// that run again.
type Outage struct{ From, To time.Duration }

func newLoadResult(l *Load) *LoadResult {
	r := &LoadResult{Elapsed: l.Now(), Outages: l.outages}
	var sum histogram
	longest, end := int64(0), l.epoch
	for _, w := range l.workers {
		c := &w.counts
		r.Reads, r.Writes, r.Flushes = r.Reads+c.reads, r.Writes+c.writes, r.Flushes+c.flushes
		r.Failed, r.Mismatched, r.Hung = r.Failed+c.failed, r.Mismatched+c.mismatched, r.Hung+c.hung
		r.Calls, r.Sleeps, r.Kicks = r.Calls+c.calls, r.Sleeps+c.sleeps, r.Kicks+w.ring.Kicks()
		r.MissedCalls += c.missed
		r.Mismatches = append(r.Mismatches, c.examples...)
		r.Gaps = append(r.Gaps, c.gaps...)
		sum.add(&c.hist)
		longest, end = max(longest, c.longest), max(end, w.lastDone)
	}
	if end > l.epoch && r.Hung == 0 {
		r.Elapsed = time.Duration(end - l.epoch) // Stop may have been called long after
	}
	r.Latency = sum.latency(longest)
	return r
}

// Completed is the number of requests that were finished.
func (r *LoadResult) Completed() uint64 { return r.Reads + r.Writes + r.Flushes }

// IOPS is the mean rate.
func (r *LoadResult) IOPS() float64 { return float64(r.Completed()) / r.Elapsed.Seconds() }

// LongestGap of those that touch the window [from, to), in full.
func (r *LoadResult) LongestGap(from, to time.Duration) Gap {
	var longest Gap
	for _, g := range r.Gaps {
		if g.From < to && g.To > from && g.Length() > longest.Length() {
			longest = g
		}
	}
	return longest
}

// Bad is nil if every request was finished once, without an error, and every
// read gave what was there.
func (r *LoadResult) Bad() error {
	var errs []error
	if r.Failed > 0 {
		errs = append(errs, fmt.Errorf("vhosttest: %d of %d requests failed", r.Failed, r.Completed()))
	}
	if r.Mismatched > 0 {
		errs = append(errs, fmt.Errorf("vhosttest: %d requests gave what cannot be:\n%s", r.Mismatched, strings.Join(r.Mismatches, "\n")))
	}
	if r.Hung > 0 {
		errs = append(errs, fmt.Errorf("vhosttest: %d requests were never finished", r.Hung))
	}
	if r.MissedCalls > 0 {
		errs = append(errs, fmt.Errorf("vhosttest: %d completions came without the call that was wanted", r.MissedCalls))
	}
	return errors.Join(errs...)
}
