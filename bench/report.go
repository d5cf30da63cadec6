package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// report is what is printed.
type report struct {
	Machine    []string
	Command    string
	Conditions string
	Rows       []row
	Sandbox    []string // wasm against builtin, a line a load
	Idle       []string
	Upgrades   []upgradeRow `json:",omitempty"`
}

// row is one line of the table. Failed says why it has no figures.
type row struct {
	Case, Load, Server string
	Ours               bool
	Failed             string `json:",omitempty"`
	Missing            bool   `json:",omitempty"` // the server is not installed

	IOPS     spread
	P50, P99 spread // µs
	CPU      spread // µs of the server a request
	TotalCPU spread // with that of the server behind a proxy

	// Against the best peer of the same load; 0 where there is none.
	IOPSRatio float64 // to the most IOPS
	CPURatio  float64 // to the least CPU
}

// spread sums the rounds up.
type spread struct{ Median, Min, Max float64 }

// spreadOf values; there is at least one.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + middle) / 2
	}
	return spread{middle, v[0], v[len(v)-1]}
}

func newReport(results []*result) *report {
	rep := &report{}
	for _, res := range results {
		rep.Rows = append(rep.Rows, newRow(res))
	}
	for i := range rep.Rows {
		rep.Rows[i].compare(rep.Rows)
	}
	rep.Sandbox = sandbox(results)
	return rep
}

func newRow(res *result) row {
	w := row{Case: res.group.name, Load: res.load.String(), Server: res.server, Ours: servers[res.server].ours}
	if res.err != nil {
		w.Failed, w.Missing = res.err.Error(), errors.Is(res.err, errMissing)
		return w
	}
	of := func(f func(sample) float64) spread {
		var values []float64
		for _, s := range res.samples {
			values = append(values, f(s))
		}
		return spreadOf(values)
	}
	w.IOPS = of(func(s sample) float64 { return s.iops })
	w.P50 = of(func(s sample) float64 { return s.p50 })
	w.P99 = of(func(s sample) float64 { return s.p99 })
	w.CPU = of(func(s sample) float64 { return s.cpu })
	w.TotalCPU = of(func(s sample) float64 { return s.total })
	return w
}

// compare sets the ratios to the best peer among all rows.
func (w *row) compare(all []row) {
	if w.Failed != "" {
		return
	}
	most, least := 0.0, math.Inf(1)
	for i := range all {
		p := &all[i]
		if p.Ours || p.Failed != "" || p.Case != w.Case || p.Load != w.Load {
			continue
		}
		most, least = max(most, p.IOPS.Median), min(least, p.CPU.Median)
	}
	if most > 0 {
		w.IOPSRatio = w.IOPS.Median / most
	}
	if least > 0 && !math.IsInf(least, 1) {
		w.CPURatio = w.CPU.Median / least
	}
}

// sandbox compares the plugin in wasm with the same one builtin, round by
// round, since the machine changes less within a round than between two.
func sandbox(results []*result) []string {
	var lines []string
	for _, a := range results {
		for _, b := range results {
			if a.server != "engine, nbd in wasm" || b.server != "engine, nbd builtin" || a.load != b.load {
				continue
			}
			var ratios []float64
			for i := range min(len(a.samples), len(b.samples)) {
				if b.samples[i].cpu > 0 {
					ratios = append(ratios, a.samples[i].cpu/b.samples[i].cpu)
				}
			}
			if len(ratios) > 0 {
				lines = append(lines, fmt.Sprintf("%s: %s", a.load, spreadOf(ratios).text("%.2f")))
			}
		}
	}
	return lines
}

// failed is the error of a run some of whose figures are missing for another
// reason than that a peer is not installed.
func (rep *report) failed() error {
	n := 0
	for _, w := range rep.Rows {
		if w.Failed != "" && !w.Missing {
			n++
		}
	}
	for _, line := range rep.Idle {
		if strings.Contains(line, ": failed: ") {
			n++
		}
	}
	for _, w := range rep.Upgrades {
		if w.Failed != "" && !w.Missing {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d measurements failed, see the table", n, len(rep.Rows)+len(rep.Idle)+len(rep.Upgrades))
}
