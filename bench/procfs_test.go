package main

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat("42 (a) b (c) S 1 42 42 0 -1 4194560 101 0 0 0 123 45 6 7 20 0 1 0 100 200 300\n")
	if want := 1680 * time.Millisecond; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "42 (a) S 1 2", "42 a S 1 42 42 0 -1 4194560 101 0 0 0 123 45",
		"42 (a) S 1 42 42 0 -1 4194560 101 0 0 0 x 45 6"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestCPUTimeCounts spends CPU time until the kernel shows some.
func TestCPUTimeCounts(t *testing.T) {
	began, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for stop := time.Now().Add(10 * time.Second); time.Now().Before(stop); {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > began {
			return
		}
	}
	t.Errorf("still %v after 10 s of work", began)
}

func TestParseStatus(t *testing.T) {
	rss, threads, err := parseStatus("Name:\tengine\nVmPeak:\t 9 kB\nVmRSS:\t    2048 kB\nThreads:\t7\n")
	if err != nil || rss != 2<<20 || threads != 7 {
		t.Errorf("got %d, %d, %v", rss, threads, err)
	}
	if _, _, err := parseStatus("Name:\tengine\nThreads:\t7\n"); err == nil {
		t.Error("a status without memory is taken")
	}
}

func TestModelIn(t *testing.T) {
	if got := modelIn("processor\t: 0\nmodel name\t: Some CPU: fast\nflags\t: a b\n"); got != "Some CPU: fast" {
		t.Errorf("got %q", got)
	}
}
