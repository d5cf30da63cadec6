package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSpreadOf(t *testing.T) {
	for _, x := range []struct {
		in   []float64
		want spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 4}, spread{4, 1, 9}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9}},
	} {
		if got := spreadOf(x.in); got != x.want {
			t.Errorf("spreadOf(%v) = %v, want %v", x.in, got, x.want)
		}
	}
}

// samplesOf makes samples of IOPS and CPU times that stand in pairs.
func samplesOf(values ...float64) []sample {
	var samples []sample
	for i := 0; i < len(values); i += 2 {
		samples = append(samples, sample{outcome{100, values[i], 10, 20}, values[i+1], values[i+1] + 1})
	}
	return samples
}

func exampleResults() []*result {
	proxy, null := groups[2], groups[1]
	return []*result{
		{group: proxy, load: read64, server: "engine, nbd in wasm", samples: samplesOf(300, 2, 200, 3, 250, 4)},
		{group: proxy, load: read64, server: "engine, nbd builtin", samples: samplesOf(300, 2, 300, 2, 300, 2)},
		{group: proxy, load: read64, server: "nbdkit, nbd", samples: samplesOf(100, 10, 100, 10, 100, 10)},
		{group: proxy, load: read64, server: "qemu-storage-daemon, nbd", samples: samplesOf(125, 20, 125, 20, 125, 20)},
		{group: proxy, load: read1, server: "engine, nbd builtin", samples: samplesOf(50, 2)},
		{group: null, load: read64, server: "qemu-storage-daemon, null-co", err: fmt.Errorf("qemu-storage-daemon: %w", errMissing)},
		{group: null, load: read64, server: "nbdkit, null", err: errors.New("a|b\nc")},
	}
}

func TestReport(t *testing.T) {
	rep := newReport(exampleResults())
	w := rep.Rows[0]
	if w.IOPS != (spread{250, 200, 300}) || w.CPU != (spread{3, 2, 4}) || w.TotalCPU != (spread{4, 3, 5}) || w.P50.Median != 10 || w.P99.Median != 20 {
		t.Errorf("row %+v", w)
	}
	// The most IOPS and the least CPU are of different peers.
	if w.IOPSRatio != 2 || w.CPURatio != 0.3 {
		t.Errorf("ratios %v and %v, want 2 and 0.3", w.IOPSRatio, w.CPURatio)
	}
	if alone := rep.Rows[4]; alone.IOPSRatio != 0 || alone.CPURatio != 0 {
		t.Errorf("ratios %v and %v where there is no peer", alone.IOPSRatio, alone.CPURatio)
	}
	if want := "random read 4 KiB, depth 64: 1.50 (1.00–2.00)"; len(rep.Sandbox) != 1 || rep.Sandbox[0] != want {
		t.Errorf("sandbox %q, want %q", rep.Sandbox, want)
	}
}

func TestFailed(t *testing.T) {
	rep := newReport(exampleResults())
	if err := rep.failed(); err == nil || !strings.Contains(err.Error(), "1 of 7") {
		t.Errorf("error %v, want one that counts the failed and not the missing", err)
	}
	rep.Rows = rep.Rows[:6]
	if err := rep.failed(); err != nil {
		t.Errorf("a missing peer is an error: %v", err)
	}
	rep.Idle = []string{"memory: failed: no"}
	if rep.failed() == nil {
		t.Error("a failed look at the idle engine is no error")
	}
}

func TestMarkdown(t *testing.T) {
	rep := newReport(exampleResults())
	rep.Machine, rep.Command, rep.Idle = []string{"machine: M"}, "bench -x", []string{"CPU: 0s"}
	text := rep.markdown()
	for _, want := range []string{
		"- machine: M\n- command: `bench -x`\n",
		"| proxy, random read 4 KiB, depth 64 | **engine, nbd in wasm** | 250 (200–300) | 10 | 20 | 3.00 (2.00–4.00) | 4.00 (3.00–5.00) | 2.00 | 0.30 |\n",
		"| proxy, random read 4 KiB, depth 64 | nbdkit, nbd | 100 | 10 | 20 | 10.00 | 11.00 | 0.80 | 1.00 |\n",
		"| null, random read 4 KiB, depth 64 | qemu-storage-daemon, null-co | missing: qemu-storage-daemon: not installed |",
		`| nbdkit, null | failed: a\|b c |`,
		"\nAt rest:\n\n- CPU: 0s\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	bars := -1
	for line := range strings.Lines(strings.ReplaceAll(text, `\|`, "")) {
		n := strings.Count(line, "|")
		if n > 0 && bars >= 0 && n != bars {
			t.Errorf("%d bars instead of %d in %s", n, bars, line)
		}
		if n > 0 {
			bars = n
		}
	}
}
