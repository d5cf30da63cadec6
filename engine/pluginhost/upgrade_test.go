package pluginhost

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"blockengine/engine/session"
	"blockengine/engine/volume"
)

// in runs a test in a bubble with a clock of its own: nothing here waits.
func in(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestUpgrade(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.want("1.0", "", "", "1.0 1.0 1.0")
		w.mustUpgrade("/v2.wasm")
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
		w.mustUpgrade("/v3.wasm")
		w.want("1.2", "1.1", "", "1.2 1.2 1.2")
		s := w.status()
		if s.Current.Generation != 3 || s.Upgrades != 2 || s.Failed != 0 || s.LastMethods["handover"] != 6 || s.LastPause != fakePause || s.Phase != "" {
			t.Errorf("status %+v", s)
		}
		if r := s.History; len(r) != 3 || r[0].Ended != "replaced by "+describe(w.made[1]) || r[1].Until != r[2].Since || len(r[2].Volumes) > 0 {
			t.Errorf("history %+v", r)
		}
		takeover := w.said(PhaseTakeover)
		for _, line := range []string{"a handover: drained", "b handover: runs generation 2 (1.1, sha256", "c handover: runs generation 3"} {
			if !strings.Contains(takeover, line) {
				t.Errorf("%q is not said in:\n%s", line, takeover)
			}
		}
		if strings.Index(takeover, "a handover: runs") > strings.Index(takeover, "b handover: runs") {
			t.Errorf("not in the configuration's order:\n%s", takeover)
		}
		if d := w.disks["d"].Plugin(); d.Generation != 1 || d.Version != "1.0" {
			t.Errorf("a volume of another plugin runs %+v", d)
		}
	})
}

// TestEventsInOrder: the phases come in order and the last event says the end.
func TestEventsInOrder(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		err := w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Watch: -1, Save: true, Method: "serial", Drain: time.Second}, w.note)
		if err != nil {
			t.Fatal(err)
		}
		var phases []string
		for _, e := range w.events {
			if e.Time.IsZero() || e.Plugin != "nbd" {
				t.Errorf("event %+v", e)
			}
			if n := len(phases); n == 0 || phases[n-1] != string(e.Phase) {
				phases = append(phases, string(e.Phase))
			}
		}
		if got := strings.Join(phases, " "); got != "load verify takeover watch save done" {
			t.Error(got)
		}
		if took := w.sessions["a"].took[0]; took.Drain != time.Second || len(took.Methods) != 1 || took.Methods[0] != session.Serial {
			t.Errorf("%+v", took)
		}
	})
}

func TestUpgradeToBuiltin(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("")
		w.want("built in", "1.0", "", "built in built in built in")
		wantError(t, w.upgrade(""), "generation 2 (built in, builtin) is what these volumes run already")
		w.mustUpgrade("/v1.wasm") // from a builtin plugin, whose section has no memory cap
		w.want("1.0", "built in", "", "1.0 1.0 1.0")
		err := w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "other"}, nil)
		wantError(t, err, `no plugin "other" is linked into this engine`)
	})
}

// TestRefusals: nothing has changed but the counter.
func TestRefusals(t *testing.T) {
	good := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		r     UpgradeRequest
		words []string
	}{
		"unknown plugin":     {UpgradeRequest{Plugin: "ndb", Path: "/v2.wasm"}, []string{`did you mean "nbd"`}},
		"nothing like it":    {UpgradeRequest{Plugin: "xyzzy", Path: "/v2.wasm"}, []string{"memory, nbd, other"}},
		"store":              {UpgradeRequest{Plugin: "memory", Path: "/v2.wasm"}, []string{"store plugin", "restart"}},
		"no such file":       {UpgradeRequest{Path: "/none.wasm"}, []string{"/none.wasm", "not exist"}},
		"relative path":      {UpgradeRequest{Path: "v2.wasm"}, []string{"no absolute path"}},
		"no hash":            {UpgradeRequest{Path: "/v2.wasm", SHA256: "abc"}, []string{`"abc" is no SHA-256 hash`}},
		"hash of builtin":    {UpgradeRequest{SHA256: good}, []string{"no file and no hash"}},
		"wrong hash":         {UpgradeRequest{Path: "/v2.wasm", SHA256: good}, []string{"wrong hash"}},
		"method":             {UpgradeRequest{Path: "/v2.wasm", Method: "gently"}, []string{`"gently" is no method`, "handover, second-session or serial"}},
		"drain":              {UpgradeRequest{Path: "/v2.wasm", Drain: -1}, []string{"-1ns"}},
		"volume":             {UpgradeRequest{Path: "/v2.wasm", Volumes: []string{"A", "nothing"}}, []string{`did you mean "a"`, `no volume "nothing"; those on plugin "nbd": a, b, c`}},
		"volume of another":  {UpgradeRequest{Path: "/v2.wasm", Volumes: []string{"a", "d"}}, []string{`volume "d" stands on plugin "other" and not on "nbd"`}},
		"volume on a store":  {UpgradeRequest{Path: "/v2.wasm", Volumes: []string{"m"}}, []string{`stands on plugin "memory"`}},
		"another plugin":     {UpgradeRequest{Path: "/wrong.wasm"}, []string{`/wrong.wasm is plugin "iscsi" and what runs is "nbd"`}},
		"the same":           {UpgradeRequest{Path: "/v1.wasm"}, []string{"generation 1 (1.0, sha256", "run already"}},
		"unknown options":    {UpgradeRequest{Path: "/empty.wasm"}, []string{`volume "a": export is no option`, `volume "b": export`, `volume "c": export`}},
		"type and required":  {UpgradeRequest{Path: "/strict.wasm", Volumes: []string{"b"}}, []string{`volume "b": export`, "has no option realm"}},
		"save for some only": {UpgradeRequest{Path: "/v2.wasm", Volumes: []string{"b"}, Save: true}, []string{`volume "a" would stay with generation 1`}},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				if c.r.Plugin == "" {
					c.r.Plugin = "nbd"
				}
				wantError(t, w.u.Upgrade(context.Background(), c.r, w.note), c.words...)
				w.want("1.0", "", "", "1.0 1.0 1.0")
				for _, f := range w.sessions {
					if len(f.took)+len(f.cuts) > 0 {
						t.Error("a session was asked to do something")
					}
				}
				if s := w.status(); c.r.Plugin == "nbd" && (s.Failed != 1 || s.Upgrades != 0 || s.Phase != "") {
					t.Errorf("status %+v", s)
				}
				w.mustUpgrade("/v2.wasm") // and nothing stands in the way of a good one
				if g := w.status().Current.Generation; g != 2 {
					t.Errorf("its number is %d", g)
				}
			})
		})
	}
}

func TestVerify(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.sessions["b"].verify = func(*session.Generation) error { return errors.New("the server shows another disk") }
		wantError(t, w.upgrade("/v2.wasm"), `volume "b"`, "another disk")
		w.want("1.0", "", "", "1.0 1.0 1.0")
		w.sessions["b"].verify = func(*session.Generation) error { return session.ErrNotVerified }
		w.disks["c"].Volume.SetState(volume.Away, "no route")
		w.mustUpgrade("/v2.wasm")
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
		said := w.said(PhaseVerify)
		for _, line := range []string{"a : the new version logged in", "b : cannot be tried beforehand", "c : cannot be tried beforehand: the volume is away (no route)"} {
			if !strings.Contains(said, line) {
				t.Errorf("%q is not said in:\n%s", line, said)
			}
		}
	})
}

func TestStoppedAndUnopened(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.disks["b"].Volume.SetState(volume.Stopped, "another disk")
		wantError(t, w.upgrade("/v2.wasm", "b"), `volume "b" has stopped (another disk)`)
		w.mustUpgrade("/v2.wasm")
		if s := w.status(); s.Current.Version != "1.1" || s.Canary != nil || s.Previous == nil || w.disks["b"].Plugin().Version != "1.0" {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(w.said(PhaseLoad), "b : is left out, it has stopped: another disk") {
			t.Error(w.said(PhaseLoad))
		}
		delete(w.sessions, "c")
		wantError(t, w.upgrade("/v3.wasm"), `volume "c" is not open yet`)
	})
}

// TestUndo: the third volume cannot be taken over, so the first two go back,
// and one of them only by a cut.
func TestUndo(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.sessions["c"].fails(2, errors.New("drain"))
		w.sessions["a"].fails(1, errors.New("stuck"))
		err := w.upgrade("/v2.wasm")
		wantError(t, err, `volume "c" was not taken over: drain; gone back: a, b`)
		if errors.Is(err, ErrRolledBack) {
			t.Error("an upgrade that was given up counts as a rollback")
		}
		w.want("1.0", "", "", "1.0 1.0 1.0")
		if a, b := w.sessions["a"], w.sessions["b"]; len(a.cuts) != 1 || len(b.cuts) != 0 || len(b.took) != 2 {
			t.Errorf("a was cut %d times, b %d times, and taken over %d times", len(a.cuts), len(b.cuts), len(b.took))
		}
		if r := w.status().History; len(r) != 2 || r[1].Generation != 2 || strings.Join(r[1].Volumes, " ") != "a b" || !strings.HasPrefix(r[1].Ended, "given up: ") {
			t.Errorf("%+v", r)
		}
		w.sessions["c"].fails(99, nil)
		w.mustUpgrade("/v2.wasm")
		if g := w.status().Current.Generation; g != 3 {
			t.Errorf("a number was given twice: %d", g)
		}
	})
}

// TestAutomaticRollback: each reason, and what is done about it.
func TestAutomaticRollback(t *testing.T) {
	for reason, c := range map[string]struct {
		spoil func(h *session.Health)
		cut   bool
	}{
		reasonTraps:       {func(h *session.Health) { h.Traps++ }, true},
		reasonContract:    {func(h *session.Health) { h.Violations++ }, true},
		reasonConnections: {func(h *session.Health) { h.Refused += refusedLimit }, true},
		reasonErrors:      {func(h *session.Health) { h.Reads.Requests += 100; h.Reads.Errors += 50 }, false},
		reasonLatency:     {func(h *session.Health) { h.Reads.Requests += 50; h.Reads.NS += 50 * uint64(time.Second) }, false},
	} {
		t.Run(reason, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				stop := make(chan struct{})
				defer close(stop)
				go w.load100(stop, "b", c.spoil)
				err := w.upgrade("/v2.wasm")
				wantError(t, err, "rolled back: "+reason+": ", `volume "b": generation 2`)
				if !errors.Is(err, ErrRolledBack) {
					t.Error("it is no ErrRolledBack")
				}
				w.want("1.0", "", "", "1.0 1.0 1.0")
				s := w.status()
				if s.Rollbacks[reason] != 1 || s.Failed != 0 || s.Upgrades != 0 || !strings.HasPrefix(s.LastReason, reason+": ") {
					t.Errorf("%+v", s.UpgradeCounters)
				}
				if r := s.History; len(r) != 3 || r[2].Generation != 1 || !strings.HasPrefix(r[1].Ended, "rolled back: "+reason) {
					t.Errorf("%+v", r)
				}
				if cut := len(w.sessions["b"].cuts) == 1; cut != c.cut {
					t.Errorf("b was cut: %v", cut)
				}
				if said := w.said(PhaseRollback); c.cut && strings.Index(said, "b : ") > strings.Index(said, "a handover") {
					t.Errorf("what was bad had to wait for the others:\n%s", said)
				}
				if len(w.sessions["a"].cuts) > 0 || len(w.sessions["c"].cuts) > 0 {
					t.Error("a volume that was well has been cut")
				}
			})
		})
	}
}

// load100 has volume serve 100 quick reads in 10 ms, until a later generation
// runs, which is spoilt instead.
func (w *world) load100(stop chan struct{}, name string, spoil func(h *session.Health)) {
	f := w.sessions[name]
	for {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if f.Generation().Number() == 1 {
			f.serve(func(h *session.Health) { h.Reads.Requests += 100; h.Reads.NS += 100 * 1000 })
			continue
		}
		f.mu.Lock()
		f.online = 0
		f.mu.Unlock()
		f.serve(spoil)
	}
}

// TestCutWhereItDoesNotGo: a version that fails requests and cannot be drained
// is cut.
func TestCutWhereItDoesNotGo(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		stop := make(chan struct{})
		defer close(stop)
		go w.load100(stop, "b", func(h *session.Health) { h.Reads.Requests += 10; h.Reads.Errors += 10 })
		w.sessions["b"].fails(1, errors.New("it does not drain"))
		wantError(t, w.upgrade("/v2.wasm"), "rolled back: errors")
		w.want("1.0", "", "", "1.0 1.0 1.0")
		if len(w.sessions["b"].cuts) != 1 || !strings.Contains(w.said(PhaseRollback), "b : does not go in order: it does not drain") {
			t.Errorf("cuts %q, said\n%s", w.sessions["b"].cuts, w.said(PhaseRollback))
		}
	})
}

// TestGoodVersionStays under the same load, and without a load it is said what
// could not be compared.
func TestGoodVersionStays(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		stop := make(chan struct{})
		defer close(stop)
		go w.load100(stop, "b", func(h *session.Health) { h.Reads.Requests += 100; h.Reads.NS += 100 * 1000 })
		began := time.Now()
		w.mustUpgrade("/v2.wasm")
		if took := time.Since(began); took < baselineTime+time.Second {
			t.Errorf("base line and watch took %v", took)
		}
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
		said := w.said(PhaseWatch)
		if !strings.Contains(said, "a : latency of reads and of writes and flushes is not compared") || !strings.Contains(said, "b : latency of writes and flushes is not compared") {
			t.Error(said)
		}
	})
}

// TestOldSinsDoNotCount: what the new version did while it was tried, and the old
// one before the upgrade began, is not what is compared.
func TestOldSinsDoNotCount(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		b := w.sessions["b"]
		b.verify = func(g *session.Generation) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.healthOf(g).Traps++
			return nil
		}
		w.mustUpgrade("/v2.wasm")
		b.verify = nil
		b.serve(func(h *session.Health) { h.Reads = session.Load{Requests: 1000, Errors: 900} })
		go func() {
			for b.Generation().Number() != 3 {
				time.Sleep(time.Millisecond)
			}
			b.serve(func(h *session.Health) { h.Reads = session.Load{Requests: 100, Errors: 50} })
		}()
		wantError(t, w.upgrade("/v3.wasm"), "fails 50 of 100 reads, the one before failed 0 of 0")
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
	})
}

// TestTogether: two upgrades of a plugin at once, one is refused; other plugins
// are not concerned.
func TestTogether(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		results := make([]error, 3)
		var all sync.WaitGroup
		for i, r := range []UpgradeRequest{{Plugin: "nbd", Path: "/v2.wasm"}, {Plugin: "nbd", Path: "/v3.wasm"}, {Plugin: "other", Path: "/o2.wasm"}} {
			all.Go(func() { results[i] = w.u.Upgrade(context.Background(), r, nil) })
		}
		synctest.Wait()
		if p := w.status().Phase; p != PhaseLoad {
			t.Errorf("phase %q", p)
		}
		all.Wait()
		bad, good := results[0], results[1]
		if bad == nil {
			bad, good = good, bad
		}
		wantError(t, bad, `another upgrade of plugin "nbd" is under way (phase load, since `, "wait for its end, or roll it back")
		if good != nil || results[2] != nil || w.disks["d"].Plugin().Version != "2.0" {
			t.Errorf("%v, %v", good, results[2])
		}
		if s := w.status(); s.Upgrades != 1 || s.Failed != 1 {
			t.Errorf("%+v", s.UpgradeCounters)
		}
	})
}

// TestSave: what runs and what a restart loads.
func TestSave(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		file := t.TempDir() + "/new.wasm"
		writeFile(t, file, "module")
		m := w.file(file, "nbd", "2.0")
		m.hash = "2b2eae37" + strings.Repeat("0", 56) // not the file's: somebody replaces it under our hands
		r := UpgradeRequest{Plugin: "nbd", Path: file, Save: true}
		err := w.u.Upgrade(context.Background(), r, w.note)
		wantError(t, err, "not kept over a restart", "holds another version now")
		if !errors.Is(err, ErrNotKept) || len(w.saved) > 0 {
			t.Errorf("saved %q", w.saved)
		}
		w.want("2.0", "1.0", "", "2.0 2.0 2.0")
		if d := w.status().Differs; !strings.Contains(d, "runs generation 2 (2.0, sha256 2b2eae370000) from "+file+"; the configuration names /v1.wasm (1.0") {
			t.Error(d)
		}
		wantError(t, w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Path: file}, nil), "run already")
	})
}

func TestSaveKeeps(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("") // has no file that could be gone
		if w.status().Differs == "" {
			t.Error("no difference is seen")
		}
		w.saveErr = errors.New("disk full")
		err := w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Save: true}, w.note)
		if wantError(t, err, "disk full"); !errors.Is(err, ErrNotKept) {
			t.Error("it is no ErrNotKept")
		}
		w.saveErr = nil
		if err := w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Save: true}, w.note); err != nil {
			t.Error(err)
		}
		if s := w.status(); s.Differs != "" || len(w.saved) != 1 || s.Upgrades != 3 {
			t.Errorf("saved %q, %q, %+v", w.saved, s.Differs, s.UpgradeCounters)
		}
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		if d := w.status().Differs; !strings.Contains(d, "from /v1.wasm; the configuration names the builtin plugin (built in, builtin)") {
			t.Error(d)
		}
	})
}

func TestDiffers(t *testing.T) {
	old := &Plugin{Generation: 1, Runtime: "wasm", Path: "/p", Hash: strings.Repeat("a", 64), Version: "1"}
	next := &Plugin{Generation: 2, Runtime: "wasm", Path: "/p", Hash: strings.Repeat("b", 64), Version: "2"}
	s := source{hash: old.Hash, version: "1"}
	s.Runtime, s.Path = "wasm", "/p"
	if d := s.differs(old); d != "" {
		t.Error(d)
	}
	s.loaded(next) // the file was replaced in its place
	if d := s.differs(next); d != "" {
		t.Error(d)
	}
	if d := s.differs(old); !strings.Contains(d, "names /p (2, sha256 bbbbbbbbbbbb)") {
		t.Error(d)
	}
	s.kept(old)
	s.loaded(next)
	if d := s.differs(next); !strings.Contains(d, "pins another hash of that file, sha256 aaaaaaaaaaaa: a restart refuses it") {
		t.Error(d)
	}
	if err := stillThere(&Plugin{Runtime: "wasm", Path: "/nothing"}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
