package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// badVersion is a version that passes every check beforehand and goes wrong when
// it serves.
type badVersion struct {
	fault  string
	reason string   // why the engine goes back by itself, as status and metrics call it
	fails  bool     // it answers requests with errors, which are passed on
	single bool     // the server admits one client
	args   []string // of the upgrade; --watch 5s unless it says otherwise
	lose   bool     // the server drops its connections once the version serves
	rest   time.Duration
}

var badVersions = map[string]badVersion{
	"traps at the first request":      {fault: "trap-first", reason: "traps"},
	"traps at the thousandth":         {fault: "trap-thousandth", reason: "traps"},
	"traps on a server for one":       {fault: "trap-first", reason: "traps", single: true},
	"traps after a second session":    {fault: "trap-first", reason: "traps", args: []string{"--method", "second-session"}},
	"traps after a serial takeover":   {fault: "trap-first", reason: "traps", single: true, args: []string{"--method", "serial"}},
	"completes what it does not hold": {fault: "complete-foreign", reason: "contract"},
	"completes what it has not read":  {fault: "complete-unfilled", reason: "contract", fails: true},
	"fails every read":                {fault: "eio", reason: "errors", fails: true},
	"does not answer":                 {fault: "swallow", reason: "stalled", args: []string{"--watch", "15s"}},
	"is ten times slower":             {fault: "slow", reason: "latency", rest: 2 * time.Second, args: []string{"--watch", "10s"}},
	"does not come back":              {fault: "fail-again", reason: "connections", lose: true, args: []string{"--watch", "15s"}},
	"does not come back, one client":  {fault: "fail-again", reason: "connections", lose: true, single: true, args: []string{"--watch", "15s"}},
	"leaks memory":                    {fault: "leak", reason: "traps", args: []string{"--watch", "15s"}},
}

func init() {
	if long { // three logins, each with its time
		badVersions["hangs in its next login"] = badVersion{fault: "hang-again", reason: "connections", lose: true, args: []string{"--watch", "1m"}}
	}
}

// TestBadVersions: the engine goes back by itself, tells why, and no request has
// failed but those that the bad version itself has answered with an error.
//
// The cache is trusted: a version that traps loses its connection, and what it
// has written since the last flush with it.
func TestBadVersions(t *testing.T) {
	for name, b := range badVersions {
		if raced && b.reason == "latency" {
			continue // the race detector is slower than the version
		}
		t.Run(name, func(t *testing.T) {
			if b.reason != "latency" { // which is compared with that of a machine at rest
				t.Parallel()
			}
			b.test(t)
		})
	}
}

func (b *badVersion) test(t *testing.T) {
	flags, neg := nbdtest.DefaultFlags, nbdtest.Negotiation{}
	if b.single {
		flags, neg = single, oneClient
	}
	s, e := onServer(t, b.fault, flags, neg, trusting("60s", "1s"))
	m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
	time.Sleep(b.rest) // so that there is something to compare with
	m.goesOn(200)
	args := append([]string{"upgrade", "nbd", built.bad}, b.args...)
	if !strings.Contains(strings.Join(args, " "), "--watch") {
		args = append(args, "--watch", "5s")
	}
	o := e.order(args...)
	if b.lose && o.waitPhase("watch") {
		s.KillAll(nbdtest.RST)
	}
	err := o.wait()
	t.Logf("the command says: %v", err)
	if err == nil || o.status() != 1 {
		t.Fatalf("the bad version was kept:\n%s\n%s", o.out.String(), e.log.String())
	}
	e.runs("disk", version1)
	m.goesOn(200)
	m.end()
	if n := m.failures.Load(); (n != 0) != b.fails {
		t.Errorf("%d requests failed", n)
	}
	b.wantTold(t, e, o)
}

// wantTold looks for the rollback and its reason wherever an operator may look.
func (b *badVersion) wantTold(t *testing.T, e *engine, o *order) {
	t.Helper()
	last := step{}
	for _, s := range o.steps() {
		if s.Phase == "rollback" {
			last = s
		}
	}
	if last.Text == "" {
		t.Errorf("the command prints no reason: %+v", o.steps())
	}
	if !strings.Contains(e.log.String(), "rollback") && !strings.Contains(e.log.String(), "rolled back") {
		t.Error("the log does not tell of the rollback")
	}
	if n := e.metric(`plugin_rollbacks_total{plugin="nbd",reason="` + b.reason + `"}`); n != "1" {
		t.Errorf("the metrics show %q rollbacks for %s:\n%s", n, b.reason, grep(e.metrics(), "rollback"))
	}
	p := e.plugin("nbd")
	if p.Upgrades == nil || p.Upgrades.Rollbacks[b.reason] != 1 || p.Upgrades.LastRollback == "" || p.Phase != "" || p.Differs != "" {
		t.Errorf("status: %+v, %+v", p, p.Upgrades)
	}
	ended := ""
	for _, g := range wantHistory(t, e) {
		if g.Version == versionBad {
			ended = g.Ended
		}
	}
	if ended == "" {
		t.Errorf("the history does not say why the bad version ended:\n%s", tell(p.History))
	}
	t.Logf("status: %s; history: %s", p.Upgrades.LastRollback, ended)
}

// wantHistory gives the history of plugin nbd, which must make sense: in order,
// with an end for all but the one that runs, which is version 1 or 2.
func wantHistory(t *testing.T, e *engine) []admin.Generation {
	t.Helper()
	out, err := exec.Command(built.engine, "plugin", "list", "--json", "-c", e.file).Output()
	must(t, err)
	var plugins []admin.Plugin
	must(t, json.Unmarshal(out, &plugins))
	i := slices.IndexFunc(plugins, func(p admin.Plugin) bool { return p.Name == "nbd" })
	if i < 0 || len(plugins[i].History) == 0 {
		t.Fatalf("the list shows no history:\n%s", out)
	}
	h := plugins[i].History
	for i, g := range h {
		last := i == len(h)-1
		switch {
		case i > 0 && g.Since.Before(h[i-1].Since):
			t.Errorf("entry %d of the history comes before the one before it:\n%s", i, tell(h))
		case g.Until.IsZero() != last, (g.Ended == "") != last, g.Hash == "", g.Since.IsZero():
			t.Errorf("entry %d of the history makes no sense:\n%s", i, tell(h))
		}
	}
	if v := e.volume("disk"); h[len(h)-1].Version != v.Version || h[len(h)-1].Generation != v.Generation {
		t.Errorf("the volume runs generation %d (%s), the history ends otherwise:\n%s", v.Generation, v.Version, tell(h))
	}
	return h
}

// tell gives a history a line an entry.
func tell(h []admin.Generation) string {
	var b strings.Builder
	for _, g := range h {
		fmt.Fprintf(&b, "generation %d %s %v since %s: %s\n", g.Generation, g.Version, g.Volumes, g.Since.Format(time.StampMilli), g.Ended)
	}
	return b.String()
}

// metric gives a metric's value, "" if it is not there.
func (e *engine) metric(name string) string {
	e.t.Helper()
	for line := range strings.Lines(e.metrics()) {
		if _, value, ok := strings.Cut(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// metrics fetches what Prometheus would.
func (e *engine) metrics() string {
	e.t.Helper()
	_, rest, ok := strings.Cut(e.log.String(), "url=http://")
	if !ok {
		e.t.Fatal("the engine does not say where its metrics are")
	}
	addr, _, _ := strings.Cut(rest, "/")
	client := http.Client{Timeout: 10 * time.Second}
	r, err := client.Get("http://" + addr + "/metrics")
	must(e.t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	must(e.t, err)
	return string(b)
}

// grep gives the lines that hold a word.
func grep(text, word string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// plugin gives the status of one.
func (e *engine) plugin(name string) admin.Plugin {
	e.t.Helper()
	for _, p := range e.status().Plugins {
		if p.Name == name {
			return p
		}
	}
	e.t.Fatalf("status shows no plugin %q", name)
	return admin.Plugin{}
}

// TestGoodVersionStays: a watch over a version that is well comes to its end,
// however it has taken over. It does not run beside other tests, which would make
// it slow.
func TestGoodVersionStays(t *testing.T) {
	_, e := onServer(t, "disk", nbdtest.DefaultFlags, nbdtest.Negotiation{}, durable)
	m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
	time.Sleep(500 * time.Millisecond) // so that there is something to compare with
	for i, method := range []string{"handover", "second-session", "serial"} {
		file := []string{built.nbd2, built.nbd}[i%2]
		wantMethod(t, e.upgradeAtRest(file, "--method", method, "--watch", "2s"), method)
		e.runs("disk", []string{version2, version1}[i%2])
	}
	m.end()
	e.unhurt("disk")
}

// upgradeAtRest is upgrade with a watch, on a machine that others may make slow at
// that very time: then it is tried again, twice.
func (e *engine) upgradeAtRest(file string, args ...string) []step {
	e.t.Helper()
	for range 2 {
		steps, err := e.tryUpgrade(file, args...)
		if err == nil {
			return steps
		}
		if n := e.plugin("nbd").Upgrades; n == nil || n.Rollbacks["latency"] == 0 {
			e.t.Errorf("upgrade to %s: %v", file, err)
			return steps
		}
		e.t.Logf("the machine is slow just now: %v", err)
	}
	return e.upgrade(file, args...)
}

// TestBadVersionLosesCache: what it had written and nobody has flushed when it
// trapped may be lost with its connection. Every client is told so, once, though
// another version runs since; the read that it could not do is answered by that.
func TestBadVersionLosesCache(t *testing.T) {
	t.Parallel()
	s, e := onServer(t, "trap-read", single, oneClient, durable)
	a, b := e.dial("disk", nbdtest.Options{}), e.dial("disk", nbdtest.Options{})
	o := e.order("upgrade", "nbd", built.bad, "--watch", "1m")
	if !o.waitPhase("watch") {
		t.Fatalf("no watch: %s", o.out.String())
	}
	must(t, a.Write(0, random(4096, 1), 0))
	mustRead(t, a, 0, random(4096, 1))
	if err := o.wait(); err == nil {
		t.Errorf("the bad version was kept:\n%s", o.out.String())
	}
	e.runs("disk", version1)
	for _, c := range []*nbdtest.Client{b, a} {
		wantErrno(t, c.Flush(), nbdtest.EIO)
		must(t, c.Flush())
	}
	wantStable(t, s.Disk("trap-read"), 0, random(4096, 1))
	if n := e.volume("disk").Session.LostCaches; n != 1 {
		t.Errorf("%d lost caches are counted, want 1", n)
	}
}
