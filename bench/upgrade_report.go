package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"blockengine/internal/nbdload"
)

// upgradeRow is what came out of a case of upgrades.
type upgradeRow struct {
	Server, Method string
	Failed         string `json:",omitempty"`
	Missing        bool   `json:",omitempty"` // a program is not installed

	Upgrades         int
	Requests         uint64
	FailedRequests   uint64 // answered with an error, or never
	Mismatched       uint64 // reads that gave what cannot be there
	Gap              percentiles
	Takeover         percentiles // of the gaps in that part of the window that begins when the module is loaded
	Baseline, Beyond percentiles // the same without an upgrade; the one minus the other, pair by pair
	Pause            percentiles // that the engine reports
	Throughput       spread      // of the second of an upgrade ÷ the mean of the seconds beside it

	Compile *compileFigures `json:",omitempty"`
}

// percentiles of times, in ms.
type percentiles struct{ P50, P90, P99, Max float64 }

// percentilesOf values: the least that is not exceeded by so many of them.
func percentilesOf(values []float64) percentiles {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return percentiles{}
	}
	at := func(part float64) float64 { return v[max(int(math.Ceil(part*float64(len(v))))-1, 0)] }
	return percentiles{at(0.5), at(0.9), at(0.99), v[len(v)-1]}
}

// compileFigures are of the time in which a module is compiled and loaded.
type compileFigures struct {
	Seconds     spread // how long that takes
	P99, Beside spread // µs of a request, meanwhile and in windows of that length before and after
	Ratio       spread
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// fill computes the figures of what a load has seen.
func (w *upgradeRow) fill(r *nbdload.Result, windows []upgradeWindow) {
	w.Upgrades, w.Requests = len(windows), r.Completed()
	w.FailedRequests, w.Mismatched = r.Failed+r.Lost, r.Mismatched
	if len(windows) == 0 {
		return
	}
	var gap, takeover, base, beyond, pause, ratio []float64
	for _, x := range windows {
		length := x.ended + upgradeAfter - x.from
		g, b := inMS(r.Gap(x.from, x.from+length)), inMS(r.Gap(x.quiet, x.quiet+length))
		gap, base, beyond = append(gap, g), append(base, b), append(beyond, g-b)
		takeover = append(takeover, inMS(r.Gap(x.from+x.compiledAfter, x.from+length)))
		pause = append(pause, inMS(x.news.pause))
		ratio = append(ratio, x.throughput(r))
	}
	w.Gap, w.Baseline, w.Beyond = percentilesOf(gap), percentilesOf(base), percentilesOf(beyond)
	w.Takeover = percentilesOf(takeover)
	w.Pause, w.Throughput = percentilesOf(pause), spreadOf(ratio)
	if w.Method == compiling {
		w.Compile = compileFiguresOf(r, windows)
	}
}

// throughput of an upgrade's second against those beside it.
func (x *upgradeWindow) throughput(r *nbdload.Result) float64 {
	end := max(x.from+upgradeSecond, x.ended+upgradeAfter)
	beside := r.Completions(x.before, x.before+upgradeSecond) + r.Completions(x.quiet, x.quiet+upgradeSecond)
	if beside == 0 {
		return 0
	}
	return 2 * float64(r.Completions(end-upgradeSecond, end)) / float64(beside)
}

func compileFiguresOf(r *nbdload.Result, windows []upgradeWindow) *compileFigures {
	var seconds, p99, beside, ratio []float64
	for _, x := range windows {
		d := x.compiledAfter
		micro := func(from, to time.Duration) float64 {
			return float64(r.Latency(from, to).P99) / float64(time.Microsecond)
		}
		during := micro(x.from, x.from+d)
		// The quiet time before may be shorter.
		around := (micro(max(x.before, x.from-d), x.from) + micro(x.quiet, x.quiet+d)) / 2
		if around == 0 {
			continue // nothing was completed: the gaps tell
		}
		seconds, p99, beside = append(seconds, d.Seconds()), append(p99, during), append(beside, around)
		ratio = append(ratio, during/around)
	}
	if len(ratio) == 0 {
		return nil
	}
	return &compileFigures{spreadOf(seconds), spreadOf(p99), spreadOf(beside), spreadOf(ratio)}
}

var upgradeColumns = []string{"server behind", "method", "upgrades", "longest gap ms: p50 · p90 · p99 · max",
	"without upgrade", "beyond that", "once the module is loaded", "pause the engine tells", "requests", "failed", "mismatched",
	"throughput of its second ÷ beside"}

var compileColumns = []string{"server behind", "modules", "compile and load s", "p99 µs meanwhile", "p99 µs beside", "ratio"}

// upgradeMarkdown writes both tables.
func upgradeMarkdown(b *strings.Builder, rows []upgradeRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\nUpgrades of the nbd plugin in wasm under load: %d connections, depth %d each, 4 KiB, %d %% reads, every read checked. "+
		"The gap is the longest between two completions of a connection, from the start of the command to %v after its end.\n\n",
		upgradeConnections, upgradeDepth, upgradeReads, upgradeAfter)
	table(b, upgradeColumns)
	for i := range rows {
		cells(b, upgradeColumns, rows[i].cells())
	}
	first := true
	for i := range rows {
		w := &rows[i]
		if w.Compile == nil {
			continue
		}
		if first {
			b.WriteString("\nWhile a module is compiled that is not in the cache:\n\n")
			table(b, compileColumns)
			first = false
		}
		c := w.Compile
		cells(b, compileColumns, []string{w.Server, fmt.Sprint(w.Upgrades), c.Seconds.text("%.1f"), c.P99.text("%.0f"),
			c.Beside.text("%.0f"), c.Ratio.text("%.2f")})
	}
}

func (w *upgradeRow) cells() []string {
	row := []string{w.Server, w.Method, fmt.Sprint(w.Upgrades)}
	if w.Upgrades > 0 {
		row = append(row, w.Gap.text(), w.Baseline.text(), w.Beyond.text(), w.Takeover.text(), w.Pause.text(),
			fmt.Sprint(w.Requests), fmt.Sprint(w.FailedRequests), fmt.Sprint(w.Mismatched), w.Throughput.text("%.2f"))
	}
	if w.Failed != "" {
		row = append(row[:min(len(row), len(upgradeColumns)-1)], failedCell(w.Failed, w.Missing))
	}
	return row
}

func (p percentiles) text() string {
	return fmt.Sprintf("%.1f · %.1f · %.1f · %.1f", p.P50, p.P90, p.P99, p.Max)
}
