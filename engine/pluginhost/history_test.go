package pluginhost

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

func version(generation int, hash string) *Plugin {
	return &Plugin{Name: "nbd", Generation: generation, Hash: hash, Version: "1"}
}

// start opens a history as an engine does that loads p, and gives p's number.
func start(t *testing.T, dir string, p *Plugin) *history {
	t.Helper()
	h := openHistory(dir, "nbd", discard)
	p.Generation = h.number(p)
	h.runs(time.Now(), []running{{plugin: p}}, "")
	return h
}

// TestNumbersGoOn: the same code keeps its number over restarts, other code
// gets the next one, and code that comes back a new one.
func TestNumbersGoOn(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		hash string
		want int
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"b", 2}, {"a", 3}} {
		p := version(0, c.hash)
		start(t, dir, p).close(time.Now())
		if p.Generation != c.want {
			t.Errorf("hash %s has number %d, want %d", c.hash, p.Generation, c.want)
		}
	}
	records := openHistory(dir, "nbd", discard).list()
	if len(records) != 5 || records[4].Ended != endedEngine || records[4].Until.IsZero() {
		t.Errorf("records %+v", records)
	}
}

// TestCanaryIsNoBase: what ran for some volumes only is not what a restart goes
// on with, and its number is not given again.
func TestCanaryIsNoBase(t *testing.T) {
	dir := t.TempDir()
	one := version(0, "a")
	h := start(t, dir, one)
	h.runs(time.Now(), []running{{plugin: one}, {version(2, "b"), []string{"v"}}}, "")
	h.close(time.Now())
	again := version(0, "a")
	start(t, dir, again).close(time.Now())
	other := version(0, "c")
	start(t, dir, other)
	if again.Generation != 1 || other.Generation != 3 {
		t.Errorf("the same has %d, another %d", again.Generation, other.Generation)
	}
}

// TestKilled: an engine that wrote no end is given one, no earlier than what it
// wrote last.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	before := time.Now().Add(-time.Second)
	start(t, dir, version(0, "a"))
	r := openHistory(dir, "nbd", discard).list()
	if len(r) != 1 || r[0].Ended != endedKilled || r[0].Until.Before(r[0].Since) || r[0].Until.Before(before) {
		t.Errorf("records %+v", r)
	}
}

func TestGarbageIsSetAside(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"torn":       `{"format": 1, "records": [{"generation"`,
		"format":     `{"format": 7}`,
		"generation": `{"format": 1, "records": [{"generation": -4}]}`,
		"large":      `{"format": 1}` + strings.Repeat(" ", maxHistoryBytes),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "history", "nbd.json")
			if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, file, text)
			p := version(0, "a")
			if h := start(t, dir, p); len(h.list()) != 1 || p.Generation != 1 {
				t.Errorf("%+v", h.list())
			}
			if b, err := os.ReadFile(file + ".bad"); err != nil || string(b) != text {
				t.Errorf("not set aside: %v", err)
			}
			if _, err := parseHistoryFile(file); err != nil {
				t.Errorf("the new file: %v", err)
			}
		})
	}
}

func parseHistoryFile(path string) ([]Record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseHistory(b)
}

func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	h := start(t, dir, version(0, "a"))
	for k := range maxRecords + 10 {
		h.runs(time.Now(), []running{{plugin: version(k+2, fmt.Sprint(k))}}, "replaced")
	}
	file, err := parseHistoryFile(h.path)
	if err != nil || len(file) != maxRecords || len(h.list()) != maxRecords {
		t.Fatalf("%d records, %d in the file, %v", len(h.list()), len(file), err)
	}
	if last := file[maxRecords-1]; last.Generation != maxRecords+11 || last.Ended != "" {
		t.Errorf("the last one is %+v", last)
	}
	if temp, err := filepath.Glob(h.path + "~"); err != nil || len(temp) > 0 {
		t.Errorf("left behind: %q", temp)
	}
}

// TestHistoryThatCannotBeWritten costs the history only.
func TestHistoryThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "history"), "a file where the directory should be")
	h := start(t, dir, version(0, "a"))
	if r := h.list(); len(r) != 1 || r[0].Ended != "" {
		t.Errorf("%+v", r)
	}
}

// TestClosedHistoryIsFinal: what an upgrade notes after the end is not kept.
func TestClosedHistoryIsFinal(t *testing.T) {
	h := start(t, t.TempDir(), version(0, "a"))
	h.close(time.Now())
	h.runs(time.Now(), []running{{plugin: version(9, "z")}}, "replaced")
	if r := h.list(); len(r) != 1 || r[0].Ended != endedEngine {
		t.Errorf("%+v", r)
	}
}
