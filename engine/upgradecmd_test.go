package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"blockengine/engine/admin"
)

// fakeEngine answers orders as a test says.
type fakeEngine struct {
	status  admin.Status
	upgrade func(plugin string, r admin.UpgradeRequest, report func(admin.Event)) error
	back    func(plugin string, r admin.RollbackRequest, report func(admin.Event)) error
}

func (f *fakeEngine) Status(context.Context) admin.Status { return f.status }

func (f *fakeEngine) Upgrade(plugin string, r admin.UpgradeRequest, report func(admin.Event)) error {
	return f.upgrade(plugin, r, report)
}

func (f *fakeEngine) Rollback(plugin string, r admin.RollbackRequest, report func(admin.Event)) error {
	return f.back(plugin, r, report)
}

// fake serves a fakeEngine where the site's configuration has its admin socket.
func fake(t *testing.T, f *fakeEngine) *site {
	t.Helper()
	s := newSite(t, "[engine]\nadmin = \"unix:a.sock\"\n")
	l, err := admin.Listen(s.path("a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := admin.Serve(l, f, slog.New(slog.DiscardHandler))
	t.Cleanup(srv.Close)
	return s
}

// news are events a second apart.
func news(list ...admin.Event) []admin.Event {
	for i := range list {
		list[i].Time, list[i].Plugin = time.Unix(int64(i), 0).UTC(), "nbd"
	}
	return list
}

var goodNews = news(
	admin.Event{Phase: "load"},
	admin.Event{Phase: "load", Text: "generation 2 (1.1.0) is loaded"},
	admin.Event{Phase: "verify", Volume: "vm1", Text: "logged in"},
	admin.Event{Phase: "takeover", Volume: "vm1", Method: "handover", Pause: 0.0008, Text: "runs generation 2"},
	admin.Event{Phase: "takeover", Volume: "vm2", Method: "serial", Pause: 0.25, Text: "runs generation 2"},
	admin.Event{Phase: "watch", Text: "for 10s"},
	admin.Event{Phase: "save"},
	admin.Event{Phase: "done", Text: "generation 2 (1.1.0) runs"})

const goodText = `load      the new version
load      generation 2 (1.1.0) is loaded
verify    vm1: logged in
takeover  vm1: handover: runs generation 2, a request waited 0.8 ms at most
takeover  vm2: serial: runs generation 2, a request waited 250.0 ms at most
watch     for 10s; Ctrl-C leaves it to the engine
save      for the next start
done      nbd: generation 2 (1.1.0) runs, after 7.0 s; no request waited longer than 250.0 ms for it
`

func TestUpgradeCommand(t *testing.T) {
	asked := make(chan admin.UpgradeRequest, 1)
	s := fake(t, &fakeEngine{upgrade: func(plugin string, r admin.UpgradeRequest, report func(admin.Event)) error {
		if asked <- r; plugin != "nbd" {
			return admin.Refuse(http.StatusNotFound, "no plugin %q", plugin)
		}
		for _, e := range goodNews {
			report(e)
		}
		return nil
	}})
	zero, minute := 0.0, 60.0
	hash := strings.Repeat("ab", 32)
	for _, tc := range []struct {
		args string
		want admin.UpgradeRequest
	}{
		{"nbd new.wasm", admin.UpgradeRequest{Path: s.path("new.wasm"), Drain: 5}},
		{"nbd /x/../new.wasm --save", admin.UpgradeRequest{Path: "/new.wasm", Drain: 5, Save: true}},
		{"nbd --builtin --watch 0s", admin.UpgradeRequest{Builtin: true, Drain: 5, Watch: &zero}},
		{"nbd a.wasm --volume v --volume w,x --method serial --drain 1500ms --watch 1m --sha256 " + hash,
			admin.UpgradeRequest{Path: s.path("a.wasm"), Volumes: []string{"v", "w,x"}, Method: "serial", Drain: 1.5, Watch: &minute, SHA256: hash}},
	} {
		out := s.do(append([]string{"plugin", "upgrade"}, strings.Fields(tc.args)...)...)
		if out.status != exitDone || out.stdout != goodText || out.stderr != "" {
			t.Errorf("%s: %+v, want\n%s", tc.args, out, goodText)
		}
		if got := <-asked; !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: asked for %+v, want %+v", tc.args, got, tc.want)
		}
	}
	if out := s.do("plugin", "upgrade", "ndb", "x"); out != (outcome{exitFailed, "", "engine: no plugin \"ndb\"\n"}) {
		t.Errorf("refused: %+v", out)
	}
}

// For machines it is the events themselves, each in a line, at once.
func TestUpgradeCommandJSON(t *testing.T) {
	step := make(chan struct{})
	s := fake(t, &fakeEngine{upgrade: func(_ string, _ admin.UpgradeRequest, report func(admin.Event)) error {
		for _, e := range goodNews {
			report(e)
			if e.Phase == "watch" {
				<-step
			}
		}
		return nil
	}})
	f := s.follow("upgrade", "nbd", "x", "--json")
	f.waitFor(`"phase":"watch"`) // before the end has come
	close(step)
	if status := f.end(); status != exitDone {
		t.Errorf("status %d, %s", status, f.stderr)
	}
	var got []admin.Event
	for line := range strings.Lines(f.out.String()) {
		var e admin.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, e)
	}
	if !reflect.DeepEqual(got, goodNews) {
		t.Errorf("got  %+v\nwant %+v", got, goodNews)
	}
}

// What has failed is told once, on stderr.
func TestFailedOrders(t *testing.T) {
	s := fake(t, &fakeEngine{
		upgrade: func(_ string, _ admin.UpgradeRequest, report func(admin.Event)) error {
			for _, e := range goodNews[:2] {
				report(e)
			}
			return errors.New("rolled back: traps")
		},
		back: func(string, admin.RollbackRequest, func(admin.Event)) error {
			return errors.New("nothing to go back to")
		}})
	want := outcome{exitFailed, strings.Join(strings.SplitAfter(goodText, "\n")[:2], ""), "engine: rolled back: traps\n"}
	if got := s.do("plugin", "upgrade", "nbd", "x"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got := s.do("plugin", "upgrade", "nbd", "x", "--json")
	if got.status != exitFailed || got.stderr != want.stderr || !strings.Contains(got.stdout, `"phase":"failed","plugin":"nbd","error":"rolled back: traps"`) {
		t.Errorf("got %+v", got)
	}
	if got := s.do("plugin", "rollback", "nbd"); got != (outcome{exitFailed, "", "engine: nothing to go back to\n"}) {
		t.Errorf("got %+v", got)
	}
}

func TestRollbackCommand(t *testing.T) {
	var got admin.RollbackRequest
	s := fake(t, &fakeEngine{back: func(_ string, r admin.RollbackRequest, report func(admin.Event)) error {
		got = r
		for _, e := range news(admin.Event{Phase: "rollback"}, admin.Event{Phase: "done", Text: "generation 1 runs"}) {
			report(e)
		}
		return nil
	}})
	out := s.do("plugin", "rollback", "nbd", "--volume", "v", "--method", "handover", "--drain", "2s", "--save", "--admin", "unix:a.sock")
	if out != (outcome{exitDone, "rollback  to the version before\ndone      nbd: generation 1 runs, after 1.0 s\n", ""}) {
		t.Errorf("got %+v", out)
	}
	if want := (admin.RollbackRequest{Volumes: []string{"v"}, Method: "handover", Drain: 2, Save: true}); !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
}

func TestListAndStatusOfVersions(t *testing.T) {
	since := time.Date(2026, 11, 22, 13, 0, 0, 0, time.Local)
	p := admin.Plugin{Name: "nbd", Kind: "protocol", Loaded: admin.Loaded{Runtime: "wasm", Version: "1.0.0", Generation: 2,
		Hash: strings.Repeat("ab", 32), Path: "/old.wasm", Volumes: []string{"v", "w"}},
		Canary:   &admin.Loaded{Runtime: "wasm", Version: "1.1.0", Generation: 3, Hash: strings.Repeat("cd", 32), Path: "/new.wasm", Volumes: []string{"x"}},
		Previous: &admin.Loaded{Runtime: "builtin", Version: "0.9", Generation: 1, Hash: "builtin"},
		Phase:    "watch", WatchUntil: since.Add(time.Minute), Differs: "runs this; the configuration names that",
		Upgrades: &admin.Upgrades{LastRollback: "latency: too slow"},
		History: []admin.Generation{
			{Generation: 1, Version: "0.9", Hash: "builtin", Since: since.Add(-time.Hour), Until: since, Ended: "replaced by generation 2"},
			{Generation: 2, Version: "1.0.0", Hash: strings.Repeat("ab", 32), Path: "/old.wasm", Since: since},
			{Generation: 3, Version: "1.1.0", Hash: strings.Repeat("cd", 32), Path: "/new.wasm", Since: since.Add(time.Second), Volumes: []string{"x"}}}}
	s := fake(t, &fakeEngine{status: admin.Status{Plugins: []admin.Plugin{p}}})
	const list = `PLUGIN          KIND      RUNTIME  VERSION  GEN  HASH          SINCE                VOLUMES  FILE
nbd             protocol  wasm     1.0.0    2    abababababab  2026-11-22 13:00:00  v,w      /old.wasm
nbd (canary)    protocol  wasm     1.1.0    3    cdcdcdcdcdcd  2026-11-22 13:00:01  x        /new.wasm
nbd (previous)  protocol  builtin  0.9      1    builtin       -                    -        -
`
	const history = `
PLUGIN  GEN  VERSION  HASH          SINCE                UNTIL                ENDED                     VOLUMES  FILE
nbd     1    0.9      builtin       2026-11-22 12:00:00  2026-11-22 13:00:00  replaced by generation 2  all      -
nbd     2    1.0.0    abababababab  2026-11-22 13:00:00  -                    -                         all      /old.wasm
nbd     3    1.1.0    cdcdcdcdcdcd  2026-11-22 13:00:01  -                    -                         x        /new.wasm
`
	if got := s.do("plugin", "list"); got != (outcome{exitDone, list, ""}) {
		t.Errorf("got %+v, want\n%s", got, list)
	}
	if got := s.do("plugin", "list", "--history"); got != (outcome{exitDone, list + history, ""}) {
		t.Errorf("got %+v, want\n%s", got, list+history)
	}
	want := `
plugin nbd: the new version is watched until 2026-11-22 13:01:00
plugin nbd: a canary, generation 3, runs on x; the others run generation 2
plugin nbd: runs this; the configuration names that
plugin nbd: the engine went back by itself: latency: too slow
`
	if got := s.do("status"); got.status != exitDone || !strings.HasSuffix(got.stdout, want) {
		t.Errorf("got %+v, want at its end\n%s", got, want)
	}
	var back []admin.Plugin
	got := s.do("plugin", "list", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &back); err != nil || len(back) != 1 || len(back[0].History) != 3 {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestWrongUsageOfOrders(t *testing.T) {
	s := newSite(t, "HEAD")
	for _, tc := range []struct{ args, want string }{
		{"upgrade", "engine plugin upgrade takes two arguments, NAME and FILE (or NAME and --builtin), and got 0"},
		{"upgrade nbd", "engine plugin upgrade takes two arguments, NAME and FILE (or NAME and --builtin), and got 1"},
		{"upgrade nbd x --builtin", "engine plugin upgrade --builtin takes one argument, NAME, and got 2"},
		{"upgrade nbd x --method magic", `--method: there is no method "magic": write handover, second-session or serial`},
		{"upgrade nbd x --drain -1s", "--drain: -1s is out of range: choose from 1ms to 10m0s"},
		{"rollback nbd --drain 0s", "--drain: 0s is out of range: choose from 1ms to 10m0s"},
		{"upgrade nbd x --watch 2h", "--watch: 2h0m0s is out of range: choose from 0s to 1h0m0s"},
		{"upgrade nbd x --sha256 ab", `--sha256: "ab" is no SHA-256 hash: write 64 hex digits, as sha256sum prints them`},
		{"upgrade nbd --builtin --sha256 ab", "--sha256 is for a FILE, not for --builtin"},
		{"rollback", "engine plugin rollback takes one argument, NAME, and got 0"},
		{"rollback nbd --method magic", `--method: there is no method "magic": write handover, second-session or serial`},
	} {
		got := s.do(append([]string{"plugin"}, strings.Fields(tc.args)...)...)
		verb, _, _ := strings.Cut(tc.args, " ")
		want := "engine: " + tc.want + ": see engine plugin " + verb + " --help\n"
		if got != (outcome{exitWrong, "", want}) {
			t.Errorf("%s: %+v, want %s", tc.args, got, want)
		}
	}
	for _, args := range []string{"upgrade nbd x", "rollback nbd"} {
		got := s.do(append([]string{"plugin"}, strings.Fields(args)...)...)
		if got.status != exitFailed || !strings.Contains(got.stderr, "no engine is running at "+filepath.Join(s.dir, "run/admin.sock")) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func (f *fakeEngine) Recover(context.Context, string) error { return nil }
func (f *fakeEngine) Rescan(context.Context, string) (admin.Rescanned, error) {
	return admin.Rescanned{}, nil
}
