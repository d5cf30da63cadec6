package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/internal/nbdtest"
)

func TestParse(t *testing.T) {
	s, err := parse([]string{"-rounds", "5", "-seconds", "1.5", "-run", "null|idle", "-json"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds != 5 || s.measure != 1500*time.Millisecond || !s.json || !s.only.MatchString("null read") || s.only.MatchString("proxy") {
		t.Errorf("settings %+v", s)
	}
	if s.upgrades != 50 || s.compiles != 5 {
		t.Errorf("settings %+v", s)
	}
	if q, err := parse([]string{"-quick"}, io.Discard); err != nil || q.rounds != 1 || q.measure != time.Second || q.upgrades != 3 || q.compiles != 1 {
		t.Errorf("-quick: %+v, %v", q, err)
	}
	for _, bad := range [][]string{{"x"}, {"-rounds", "0"}, {"-rounds", "101"}, {"-seconds", "0.1"}, {"-seconds", "NaN"},
		{"-upgrades", "0"}, {"-upgrades", "301"}, {"-compiles", "0"}, {"-compiles", "21"}, {"-run", "("}, {"-nonsense"}} {
		if _, err := parse(bad, io.Discard); err == nil || errors.Is(err, flag.ErrHelp) {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"build/bench", "-run", "null|it's", "", "-quick"})
	if want := `build/bench -run 'null|it'\''s' '' -quick`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestGroups checks that every server that a group names exists, and that each
// load has a peer and one of ours.
func TestGroups(t *testing.T) {
	for _, g := range groups {
		ours, peers := 0, 0
		for _, name := range g.servers {
			s, ok := servers[name]
			if !ok {
				t.Errorf("%s: there is no server %q", g.name, name)
			}
			if s.ours && !s.depth1Only {
				ours++
			} else if !s.ours {
				peers++
			}
		}
		if ours == 0 || peers == 0 {
			t.Errorf("%s: %d of ours and %d peers", g.name, ours, peers)
		}
	}
}

func TestCases(t *testing.T) {
	r := &run{settings: &settings{only: regexp.MustCompile("^memory randread")}}
	var got []string
	for _, c := range r.cases() {
		for _, res := range c {
			got = append(got, caseName(res.group, res.load)+": "+res.server)
		}
	}
	want := []string{
		"memory randread 4k depth 64: engine, memory",
		"memory randread 4k depth 64: nbdkit, memory",
		"memory randread 4k depth 64: qemu-storage-daemon, tmpfs",
		"memory randread 4k depth 1: engine, memory",
		"memory randread 4k depth 1: engine, memory, poll 0",
		"memory randread 4k depth 1: nbdkit, memory",
		"memory randread 4k depth 1: qemu-storage-daemon, tmpfs",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestConfigIsValid has the engine's own reader read every configuration.
func TestConfigIsValid(t *testing.T) {
	at := place{settings: &settings{wasm: "/x/nbd.wasm"}, dir: t.TempDir(), backing: "/x/back"}
	many := engineConfig{volumes: manyVolumes()}
	each := engineConfig{poll: "0", volumes: []volumeConfig{{name: "a", plugin: "memory"}, {name: "b", plugin: "null"}, {name: "c", plugin: "nbd"}, {name: "d", plugin: "nbdwasm"}, {name: "e", plugin: "nbdwasm"},
		{name: "f", plugin: "file", direct: true, io: "threads"}, {name: "g", plugin: "file"}}}
	for _, c := range []engineConfig{many, each} {
		text := c.toml(at)
		cfg, err := config.Parse(filepath.Join(at.dir, "engine.toml"), []byte(text))
		if err != nil {
			t.Fatalf("%v in\n%.2000s", err, text)
		}
		if len(cfg.Volumes) != len(c.volumes) || len(cfg.Exports) != len(c.volumes) {
			t.Errorf("%d volumes and %d exports of %d", len(cfg.Volumes), len(cfg.Exports), len(c.volumes))
		}
		if c.poll == "0" && cfg.Engine.Poll != 0 {
			t.Errorf("poll %v", cfg.Engine.Poll)
		}
	}
}

// TestSample measures two real peers, one before the other, for a moment.
func TestSample(t *testing.T) {
	nbdtest.Require(t, "nbdkit", "nbdkit")
	nbdtest.Require(t, "fio", "fio")
	r, err := newRun(&settings{only: regexp.MustCompile("proxy randread 4k depth 64"), rounds: 2,
		measure: 300 * time.Millisecond, warmup: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	res := &result{group: groups[2], load: read64, server: "nbdkit, nbd"}
	r.measure(t.Context(), res)
	r.measure(t.Context(), res)
	if res.err != nil || len(res.samples) != 2 {
		t.Fatalf("%d samples, error %v", len(res.samples), res.err)
	}
	for _, s := range res.samples {
		if s.requests <= 0 || s.iops <= 0 || s.p50 <= 0 || s.p99 < s.p50 || s.cpu < 0 || s.total < s.cpu {
			t.Errorf("sample %+v", s)
		}
	}
	if len(r.order) != 2 {
		t.Errorf("%d servers started, want the proxy and the one behind it", len(r.order))
	}
	pids := []int{r.order[0].pid(), r.order[1].pid()}
	dir := r.dir
	r.close()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("server %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

// TestBrokenServer has one that ends at once, and one that does not exist.
func TestBrokenServer(t *testing.T) {
	at := place{dir: t.TempDir()}
	_, err := serve(t.Context(), at, "/bin/sh", "-c", "echo no luck; exit 3")
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("error %v, want one with what the server said", err)
	}
	if _, err := serve(t.Context(), at, "no-such-program-anywhere"); !errors.Is(err, errMissing) {
		t.Errorf("error %v, want %v", err, errMissing)
	}
}

func TestStopKillsWhoDoesNotEnd(t *testing.T) {
	p, err := start("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.await(context.Background(), "line", func() bool { return p.out.hasLine("up") }); err != nil {
		t.Error(err)
	}
	p.stop()
	if err := syscall.Kill(p.pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

func TestOutputKeepsTheEnd(t *testing.T) {
	var o output
	for range 3 {
		if _, err := o.Write(make([]byte, maxOutput/2)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Write([]byte("\nready\n")); err != nil || !o.hasLine("ready") || len(o.String()) != maxOutput {
		t.Errorf("%d bytes kept, the last line among them: %v, error %v", len(o.String()), o.hasLine("ready"), err)
	}
}

func TestInterrupted(t *testing.T) {
	r, err := newRun(&settings{only: regexp.MustCompile("."), rounds: 1, measure: time.Second, engine: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.all(ctx); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error %v", err)
	}
}

func TestNothingMatches(t *testing.T) {
	r, err := newRun(&settings{only: regexp.MustCompile("nonsense"), rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if _, err := r.all(t.Context()); err == nil || !strings.Contains(err.Error(), "memory randread 4k depth 64") {
		t.Errorf("error %v, want one that names a case", err)
	}
}
