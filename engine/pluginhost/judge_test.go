package pluginhost

import (
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/engine/session"
)

// load makes a Load of requests that took each on average.
func load(requests, errors uint64, each time.Duration) session.Load {
	return session.Load{Requests: requests, Errors: errors, NS: requests * uint64(each)}
}

// steady gives samples of a generation whose reads take each, so many between
// two looks.
func steady(n int, perLook uint64, each time.Duration) (list []sample) {
	for k := range n {
		list = append(list, sample{at: time.Duration(k+1) * lookEvery, online: 1,
			health: session.Health{Reads: load(perLook*uint64(k+1), 0, each)}})
	}
	return list
}

// onto gives the samples that come after a list, which go on with its sums.
func onto(before, list []sample) []sample {
	last := before[len(before)-1]
	out := slices.Clone(before)
	for _, s := range list {
		s.at += last.at
		r := &s.health.Reads
		r.Requests, r.Errors, r.NS = r.Requests+last.health.Reads.Requests, r.Errors+last.health.Reads.Errors, r.NS+last.health.Reads.NS
		out = append(out, s)
	}
	return out
}

func one(h session.Health, online int) []sample {
	return []sample{{at: lookEvery, health: h, online: online}}
}

func TestJudge(t *testing.T) {
	const us = time.Microsecond
	base := session.Health{Reads: load(1000, 0, 100*us), Writes: load(1000, 10, 2000*us)}
	for name, c := range map[string]struct {
		base    session.Health
		samples []sample
		reason  string // "": stays
		words   string
	}{
		"as before":             {base, steady(100, 10, 100*us), "", ""},
		"a trap":                {base, one(session.Health{Traps: 1}, 2), reasonTraps, "trapped"},
		"a breach":              {base, one(session.Health{Violations: 1}, 2), reasonContract, "contract"},
		"refused, none left":    {base, one(session.Health{Refused: 3}, 0), reasonConnections, "3 could not be had"},
		"refused, others there": {base, one(session.Health{Refused: 30}, 1), "", ""},
		"no answer":             {base, one(session.Health{Oldest: 3 * time.Second}, 1), reasonStalled, "not answered"},
		"a late answer":         {base, one(session.Health{Oldest: 2900 * time.Millisecond}, 1), "", ""},
		"refused twice":         {base, one(session.Health{Refused: 2}, 0), "", ""},
		"lost is the server's":  {base, one(session.Health{Lost: 9}, 0), "", ""},

		"few errors":                   {base, one(session.Health{Reads: load(4, 4, us)}, 1), "", ""},
		"errors":                       {base, one(session.Health{Reads: load(100, 5, us)}, 1), reasonErrors, "fails 5 of 100 reads, the one before failed 0 of 1000"},
		"errors within the slack":      {base, one(session.Health{Reads: load(1000, 10, us)}, 1), "", ""},
		"errors of writes as before":   {base, one(session.Health{Writes: load(1000, 30, us)}, 1), "", ""},
		"errors of writes, thrice":     {base, one(session.Health{Writes: load(1000, 31, us)}, 1), reasonErrors, "writes and flushes"},
		"errors without a baseline":    {session.Health{}, one(session.Health{Writes: load(6, 5, us)}, 1), reasonErrors, "0 of 0"},
		"errors after many good":       {base, onto(steady(390, 1000, 100*us), one(session.Health{Reads: load(20, 10, us)}, 1)), reasonErrors, "fails 10 of"},
		"slow":                         {base, steady(100, 10, 1000*us), reasonLatency, "takes 1ms for reads, the one before took 100µs"},
		"four times is not enough":     {base, steady(100, 10, 400*us), "", ""},
		"slow, but by little":          {session.Health{Reads: load(1000, 0, 20*us)}, steady(100, 10, 260*us), "", ""},
		"slow without a baseline":      {session.Health{Reads: load(19, 0, us)}, steady(100, 10, time.Second), "", ""},
		"slow and few":                 {base, steady(1000, 1, 90*time.Millisecond), reasonLatency, "90ms"},
		"too few to judge":             {base, steady(50, 0, 0), "", ""},
		"slow for two windows":         {base, onto(steady(26, 10, 1000*us), steady(100, 10, 100*us)), "", ""},
		"slow, a good window, slow":    {base, onto(onto(steady(26, 10, 1000*us), steady(13, 10, 100*us)), steady(26, 10, 1000*us)), "", ""},
		"slow after a long good while": {base, onto(steady(400, 10, 100*us), steady(60, 10, 2000*us)), reasonLatency, "2ms"},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJudge(c.base)
			var got *verdict
			for _, s := range c.samples {
				if got = j.see(s); got != nil {
					break
				}
			}
			switch {
			case got == nil && c.reason != "":
				t.Errorf("stays, want %q", c.reason)
			case got != nil && (got.reason != c.reason || !strings.Contains(got.text, c.words)):
				t.Errorf("goes because of %q (%s), want %q (%s)", got.reason, got.text, c.reason, c.words)
			}
		})
	}
}

// TestJudgeNeedsThreeWindows: the verdict comes with the third slow window, not
// before.
func TestJudgeNeedsThreeWindows(t *testing.T) {
	j := newJudge(session.Health{Reads: load(100, 0, 100*time.Microsecond)})
	for _, s := range steady(100, 10, time.Millisecond) {
		if j.see(s) != nil {
			if s.at < slowWindows*judgeWindow {
				t.Errorf("judged after %v", s.at)
			}
			return
		}
	}
	t.Error("never judged")
}

func TestUnjudged(t *testing.T) {
	j := newJudge(session.Health{Reads: load(enoughRequests, 0, 1), Writes: load(enoughRequests-1, 0, 1)})
	if got := j.unjudged(); !slices.Equal(got, []string{"writes and flushes"}) {
		t.Errorf("%q", got)
	}
}
