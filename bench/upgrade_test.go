package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdload"
	"blockengine/internal/nbdtest"
)

func TestUpgradeCases(t *testing.T) {
	names := map[string]bool{}
	for _, c := range upgradeCases {
		if upgradeServers[c.server] == nil {
			t.Errorf("%s: there is no such server", c.name())
		}
		if names[c.name()] {
			t.Errorf("%s: twice", c.name())
		}
		names[c.name()] = true
	}
	r := &run{settings: &settings{only: regexp.MustCompile("^memory")}}
	if rows := r.upgrades(t.Context()); len(rows) != 0 {
		t.Errorf("%d cases ran that were not wanted", len(rows))
	}
}

const goodEvents = `{"time":"2026-01-02T03:04:05Z","phase":"load","plugin":"nbd"}
{"time":"2026-01-02T03:04:06Z","phase":"verify","plugin":"nbd"}
{"time":"2026-01-02T03:04:07Z","phase":"takeover","plugin":"nbd","volume":"a","method":"handover","pause_seconds":0.002}
{"time":"2026-01-02T03:04:07Z","phase":"takeover","plugin":"nbd","volume":"b","method":"handover","pause_seconds":0.001}
{"time":"2026-01-02T03:04:08Z","phase":"done","plugin":"nbd"}
`

func TestParseUpgrade(t *testing.T) {
	news, err := parseUpgrade([]byte(goodEvents), "handover")
	if err != nil {
		t.Fatal(err)
	}
	if news.method != "handover" || news.pause != 2*time.Millisecond || news.loaded.Second() != 6 {
		t.Errorf("%+v", news)
	}
	for words, text := range map[string]string{
		"does not say":  strings.Replace(goodEvents, `"done"`, `"watch"`, 1),
		"by \"serial\"": strings.ReplaceAll(goodEvents, "handover", "serial"),
		"events":        "nonsense\n",
		"no luck":       `{"phase":"failed","error":"no luck"}`,
	} {
		if _, err := parseUpgrade([]byte(text), "handover"); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}

// TestUpgraderRuns the command, and says what it complains about.
func TestUpgraderRuns(t *testing.T) {
	dir := t.TempDir()
	engine := dir + "/engine"
	script := "#!/bin/sh\n[ \"$*\" = 'plugin upgrade nbdwasm new.wasm --method handover --watch 0s --json -c c.toml' ] || { echo \"no: $*\" >&2; exit 1; }\ncat <<'E'\n" + goodEvents + "E\n"
	if err := os.WriteFile(engine, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	in := &upgradeInstance{config: "c.toml"}
	if news, err := in.upgrader(engine, "handover")(t.Context(), "new.wasm"); err != nil || news.pause == 0 {
		t.Errorf("%+v, %v", news, err)
	}
	if _, err := in.upgrader(engine, "serial")(t.Context(), "new.wasm"); err == nil || !strings.Contains(err.Error(), "no: plugin upgrade") {
		t.Errorf("error %v", err)
	}
}

// TestMeasure has a server that stalls at each upgrade for a while: that shows
// in the windows of upgrades, and the quiet ones are found beside them.
func TestMeasure(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Negotiation: nbdtest.Negotiation{AnyName: true}})
	const stall = 60 * time.Millisecond
	var files []string
	u := &upgradeRun{upgrade: func(_ context.Context, file string) (upgradeNews, error) {
		files = append(files, file)
		release := s.StallReplies()
		loaded := time.Now()
		time.Sleep(stall)
		release()
		return upgradeNews{method: "handover", pause: stall, loaded: loaded}, nil
	}}
	row := upgradeRow{Method: compiling}
	if err := u.measure(t.Context(), s.Addr(), []string{"a", "b"}, 200*time.Millisecond, &row); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(files, []string{"a", "b"}) || row.Upgrades != 2 || row.Requests == 0 || row.FailedRequests+row.Mismatched != 0 {
		t.Errorf("upgrades to %v: %+v", files, row)
	}
	// A completion that was under way may come in the stall's first moments.
	if least := inMS(stall) * 0.8; row.Gap.P50 < least || row.Takeover.P50 < least {
		t.Errorf("gaps %+v and %+v ms, of stalls of %v", row.Gap, row.Takeover, stall)
	}
	if row.Pause.P50 != inMS(stall) || row.Throughput.Max <= 0 {
		t.Errorf("%+v", row)
	}
	for _, w := range u.windows {
		if w.before >= w.from || w.from >= w.ended || w.ended+upgradeAfter > w.quiet || w.quiet+w.ended-w.from > w.to {
			t.Errorf("the windows overlap: %+v", w)
		}
	}
}

// TestMeasureFails where an upgrade does, or a request; what was seen stays.
func TestMeasureFails(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Negotiation: nbdtest.Negotiation{AnyName: true}})
	no := errors.New("no")
	u := &upgradeRun{upgrade: func(context.Context, string) (upgradeNews, error) { return upgradeNews{}, no }}
	var row upgradeRow
	if err := u.measure(t.Context(), s.Addr(), []string{"a"}, time.Millisecond, &row); !errors.Is(err, no) || row.Requests == 0 {
		t.Errorf("error %v after %d requests", err, row.Requests)
	}
	u = &upgradeRun{upgrade: func(context.Context, string) (upgradeNews, error) {
		s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdRead), Times: 5, Fault: nbdtest.Fault{Errno: nbdtest.EIO}})
		return upgradeNews{loaded: time.Now()}, nil
	}}
	row = upgradeRow{}
	if err := u.measure(t.Context(), s.Addr(), []string{"a"}, time.Millisecond, &row); err == nil || row.FailedRequests != 5 {
		t.Errorf("error %v, %d failed requests", err, row.FailedRequests)
	}
	u = &upgradeRun{upgrade: func(context.Context, string) (upgradeNews, error) {
		s.KillAll(nbdtest.FIN)
		return upgradeNews{loaded: time.Now()}, nil
	}}
	row = upgradeRow{}
	if err := u.measure(t.Context(), s.Addr(), []string{"a"}, time.Millisecond, &row); err == nil ||
		!strings.Contains(err.Error(), "before its time") || row.FailedRequests == 0 {
		t.Errorf("error %v, %d failed requests", err, row.FailedRequests)
	}
}

func TestBuildPlugins(t *testing.T) {
	nbdtest.Require(t, "go", "golang")
	files, err := buildPlugins(t.Context(), t.TempDir(), 1)
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	sums := map[[sha256.Size]byte]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(b), "\x00asm") {
			t.Fatalf("%s is no module: %v", f, err)
		}
		sums[sha256.Sum256(b)] = true
	}
	if len(sums) != 3 {
		t.Errorf("%d different modules of 3", len(sums))
	}
}

func TestPercentiles(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, x := range []struct {
		in   []float64
		want percentiles
	}{
		{nil, percentiles{}},
		{[]float64{3}, percentiles{3, 3, 3, 3}},
		{[]float64{2, 1}, percentiles{1, 2, 2, 2}},
		{hundred, percentiles{50, 90, 99, 100}},
	} {
		if got := percentilesOf(x.in); got != x.want {
			t.Errorf("%v, want %v", got, x.want)
		}
	}
}

func TestUpgradeMarkdown(t *testing.T) {
	rep := &report{Upgrades: []upgradeRow{
		{Server: "S", Method: "handover", Upgrades: 2, Requests: 9, Gap: percentiles{1, 2, 3, 4}, Throughput: spread{0.9, 0.8, 1}},
		{Server: "S", Method: "serial", Upgrades: 1, Failed: "a|b"},
		{Server: "Q", Method: "serial", Failed: "qemu-nbd", Missing: true},
		{Server: "S", Method: compiling, Upgrades: 1, Compile: &compileFigures{Seconds: spread{2, 2, 2}, Ratio: spread{1.1, 1, 1.2}}},
	}}
	text := rep.markdown()
	for _, want := range []string{
		"| S | handover | 2 | 1.0 · 2.0 · 3.0 · 4.0 | 0.0 · 0.0 · 0.0 · 0.0 |",
		"| 9 | 0 | 0 | 0.90 (0.80–1.00) |\n",
		`failed: a\|b |`, "| Q | serial | 0 | missing: qemu-nbd |",
		"| S | 1 | 2.0 | 0 | 0 | 1.10 (1.00–1.20) |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	for line := range strings.Lines(strings.ReplaceAll(text, `\|`, "")) {
		n := strings.Count(line, "|") - 1
		if n > 0 && n != len(upgradeColumns) && n != len(compileColumns) {
			t.Errorf("%d columns in %s", n, line)
		}
	}
	if err := rep.failed(); err == nil || !strings.Contains(err.Error(), "1 of 4") {
		t.Errorf("error %v", err)
	}
}

// TestNothingCompleted divides by nothing.
func TestNothingCompleted(t *testing.T) {
	x := upgradeWindow{from: time.Second, ended: 2 * time.Second}
	if n := x.throughput(&nbdload.Result{}); n != 0 {
		t.Error(n)
	}
	if c := compileFiguresOf(&nbdload.Result{}, []upgradeWindow{x}); c != nil {
		t.Errorf("%+v", c)
	}
}
