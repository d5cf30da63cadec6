package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"blockengine/engine/session"
	"blockengine/engine/volume"
)

func TestRollback(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		wantError(t, w.rollback(), "no generation to go back to", "upgrade to the older file")
		w.mustUpgrade("/v2.wasm")
		w.mustUpgrade("/v3.wasm")
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		w.want("1.1", "", "", "1.1 1.1 1.1")
		s := w.status()
		if s.Current.Generation != 2 || s.Rollbacks[reasonOperator] != 1 || s.LastReason != "" {
			t.Errorf("%+v", s)
		}
		if r := s.History; r[2].Ended != "rolled back by the operator" || r[3].Generation != 2 {
			t.Errorf("%+v", r)
		}
		wantError(t, w.rollback(), "no generation to go back to")
		w.mustUpgrade("/v3.wasm")
		if g := w.status().Current.Generation; g != 4 {
			t.Errorf("a number was given twice: %d", g)
		}
		for _, p := range []string{"ndb", "memory"} {
			if err := w.u.Rollback(context.Background(), RollbackRequest{Plugin: p}, nil); err == nil {
				t.Errorf("%s was rolled back", p)
			}
		}
		wantError(t, w.u.Rollback(context.Background(), RollbackRequest{Plugin: "nbd", Method: "x"}, nil), "no method")
	})
}

// TestRollbackCuts what does not drain: the operator gets rid of it.
func TestRollbackCuts(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("/v2.wasm")
		w.sessions["b"].fails(0, errors.New("hangs"))
		w.disks["c"].Volume.SetState(volume.Stopped, "gone")
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		if a, b := w.sessions["a"], w.sessions["b"]; len(a.cuts) != 0 || len(b.cuts) != 1 || len(w.sessions["c"].took) != 1 {
			t.Errorf("cuts %q %q", a.cuts, b.cuts)
		}
		if s := w.status(); s.Current.Version != "1.0" || s.Previous != nil || s.Canary != nil {
			t.Errorf("%+v", s)
		}
	})
}

// TestRollbackSaves what is gone back to.
func TestRollbackSaves(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("") // from /v1.wasm, which is no file that a restart could load
		err := w.u.Rollback(context.Background(), RollbackRequest{Plugin: "nbd", Save: true}, w.note)
		if wantError(t, err, "/v1.wasm"); !errors.Is(err, ErrNotKept) {
			t.Error("it is no ErrNotKept")
		}
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

func TestCanaryThenRest(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("/v2.wasm")
		w.mustUpgrade("/v3.wasm", "b")
		w.want("1.1", "1.0", "1.2", "1.1 1.2 1.1")
		if r := w.status().History; strings.Join(r[2].Volumes, " ") != "b" {
			t.Errorf("%+v", r)
		}
		wantError(t, w.upgrade("/v3.wasm", "b"), "run already")
		wantError(t, w.upgrade("/v4.wasm"), "runs for volumes b only", "/v3.wasm without naming volumes", "roll it back")
		w.want("1.1", "1.0", "1.2", "1.1 1.2 1.1")
		w.mustUpgrade("/v3.wasm", "c", "b", "c")
		w.want("1.1", "1.0", "1.2", "1.1 1.2 1.2")
		w.mustUpgrade("/v3.wasm")
		w.want("1.2", "1.1", "", "1.2 1.2 1.2")
		s := w.status()
		if g := s.Current.Generation; g != 3 || len(w.sessions["b"].took) != 2 {
			t.Errorf("generation %d, b was taken over %d times", g, len(w.sessions["b"].took))
		}
		if r := s.History; len(r) != 3 || len(r[2].Volumes) != 0 || r[2].Ended != "" {
			t.Errorf("%+v", r)
		}
	})
}

// TestCanaryThenRollback keeps what can be gone back to.
func TestCanaryThenRollback(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("/v2.wasm")
		w.mustUpgrade("/v3.wasm", "a", "c")
		wantError(t, w.rollback("b"), `volume "b" runs generation 2`)
		if err := w.rollback("a"); err != nil {
			t.Fatal(err)
		}
		w.want("1.1", "1.0", "1.2", "1.1 1.1 1.2")
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

// TestCanaryBackByUpgrade: the older file takes the canary's volumes back too.
func TestCanaryBackByUpgrade(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("/v2.wasm", "c")
		w.mustUpgrade("/v1.wasm")
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

// TestRollbackOfSome leaves the newer one with the rest, as a canary is.
func TestRollbackOfSome(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustUpgrade("/v2.wasm")
		if err := w.rollback("a"); err != nil {
			t.Fatal(err)
		}
		w.want("1.0", "", "1.1", "1.0 1.1 1.1")
		w.mustUpgrade("/v2.wasm")
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
		if err := w.rollback("a", "b"); err != nil {
			t.Fatal(err)
		}
		if err := w.rollback(); err != nil {
			t.Fatal(err)
		}
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

// atPhase begins an upgrade to v2 and comes back when it is in a phase.
func (w *world) atPhase(ctx context.Context, p Phase) chan error {
	w.t.Helper()
	done := make(chan error, 1)
	go func() {
		done <- w.u.Upgrade(ctx, UpgradeRequest{Plugin: "nbd", Path: "/v2.wasm", Watch: -1}, w.note)
	}()
	for range 10_000 {
		if time.Sleep(time.Millisecond); w.status().Phase == p {
			return done
		}
	}
	w.t.Fatalf("phase %s never came", p)
	return nil
}

// TestOperatorEndsUpgrade at each phase.
func TestOperatorEndsUpgrade(t *testing.T) {
	for _, c := range []struct {
		phase Phase
		words string
		backs uint64
		moved bool
	}{
		{PhaseLoad, "given up before anything was changed: the operator", 0, false},
		{PhaseVerify, "given up before anything was changed: the operator", 0, false},
		{PhaseTakeover, "rolled back by the operator", 1, true},
		{PhaseWatch, "rolled back by the operator", 1, true},
	} {
		t.Run(string(c.phase), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				done := w.reach(context.Background(), c.phase)
				var heard []Event
				err := w.u.Rollback(context.Background(), RollbackRequest{Plugin: "nbd", Method: "serial"}, func(e Event) { heard = append(heard, e) })
				if err != nil {
					t.Error(err)
				}
				wantError(t, <-done, c.words)
				w.want("1.0", "", "", "1.0 1.0 1.0")
				s := w.status()
				if s.Rollbacks[reasonOperator] != c.backs || s.Failed != 1-c.backs {
					t.Errorf("%+v", s.UpgradeCounters)
				}
				if n := len(heard); n == 0 || heard[n-1].Phase != PhaseFailed {
					t.Errorf("the operator heard %+v", heard)
				}
				if took := w.sessions["a"].took; c.moved != (len(took) == 2) {
					t.Errorf("volume a was taken over %d times", len(took))
				}
				wantError(t, w.rollback(), "no generation to go back to")
			})
		})
	}
}

// reach is atPhase, and for the takeover somewhere in its middle.
func (w *world) reach(ctx context.Context, p Phase) chan error {
	w.t.Helper()
	done := w.atPhase(ctx, p)
	if p != PhaseTakeover {
		return done
	}
	for w.disks["a"].Plugin().Generation == 1 {
		time.Sleep(time.Millisecond)
	}
	if s := w.status(); s.Canary == nil || s.Canary.Version != "1.1" || s.Current.Version != "1.0" {
		w.t.Errorf("in the middle of a takeover: %+v", s)
	}
	return done
}

func TestOperatorNamesVolumesInWatch(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		done := w.reach(context.Background(), PhaseWatch)
		if s := w.status(); s.Watching.Before(time.Now()) {
			t.Errorf("watching until %v", s.Watching)
		}
		wantError(t, w.rollback("a"), "goes back as a whole")
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.want("1.1", "1.0", "", "1.1 1.1 1.1")
	})
}

// TestRollbackThatNobodyWaitsFor goes on.
func TestRollbackThatNobodyWaitsFor(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		done := w.reach(context.Background(), PhaseWatch)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		wantError(t, w.u.Rollback(ctx, RollbackRequest{Plugin: "nbd"}, nil), "goes on", "deadline")
		wantError(t, <-done, "by the operator")
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

// TestOrderComesLate: the upgrade is done when the order reaches it, so that
// generation is rolled back as such.
func TestOrderComesLate(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.u.opt.Save = func(*Plugin) error { time.Sleep(time.Second); return nil }
		done := make(chan error, 1)
		go func() {
			done <- w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "nbd", Watch: -1, Save: true}, w.note)
		}()
		for w.status().Phase != PhaseSave {
			time.Sleep(time.Millisecond)
		}
		if err := w.rollback(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.want("1.0", "", "", "1.0 1.0 1.0")
	})
}

// TestCancel: the caller gives up at each phase.
func TestCancel(t *testing.T) {
	for _, c := range []struct {
		phase  Phase
		words  string
		stands bool
	}{
		{PhaseLoad, "given up before anything was changed", false},
		{PhaseVerify, "given up before anything was changed", false},
		{PhaseTakeover, `volume "b" was not taken over`, false},
		{PhaseWatch, "", true},
	} {
		t.Run(string(c.phase), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				ctx, cancel := context.WithCancel(context.Background())
				done := w.reach(ctx, c.phase)
				cancel()
				err := <-done
				if c.stands {
					if err != nil {
						t.Error(err)
					}
					w.want("1.1", "1.0", "", "1.1 1.1 1.1")
					return
				}
				if wantError(t, err, c.words); !errors.Is(err, context.Canceled) {
					t.Errorf("%v is not context.Canceled", err)
				}
				w.want("1.0", "", "", "1.0 1.0 1.0")
			})
		})
	}
}

// TestClose: the engine ends at each phase. Nothing is left under way, and what
// has been taken over stays so.
func TestClose(t *testing.T) {
	for _, p := range []Phase{PhaseLoad, PhaseVerify, PhaseTakeover, PhaseWatch} {
		t.Run(string(p), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				done := w.reach(context.Background(), p)
				w.u.Close(context.Background())
				synctest.Wait()
				select {
				case err := <-done:
					wantError(t, err, "the engine ends")
				default:
					t.Error("the upgrade goes on")
				}
				for _, r := range w.status().History {
					if r.Ended == "" {
						t.Errorf("%+v has no end", r)
					}
				}
				for name, f := range w.sessions {
					if len(f.took) > 1 || len(f.cuts) > 0 {
						t.Errorf("volume %s went back", name)
					}
				}
				wantError(t, w.upgrade("/v3.wasm"), "the engine ends")
				if err := w.registry.Close(); err != nil {
					t.Error(err)
				}
				for _, m := range w.made {
					if n := m.module.(*fakeModule).closed.Load(); n != 1 {
						t.Errorf("%s was closed %d times", describe(m), n)
					}
				}
			})
		})
	}
}

// TestCloseDoesNotWaitForEver for a loader that does not listen.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.sessions["a"].verify = func(*session.Generation) error { time.Sleep(time.Hour); return nil }
		done := w.reach(context.Background(), PhaseVerify)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		w.u.Close(ctx)
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		wantError(t, <-done, "the engine ends")
	})
}

// TestRestarts: an engine goes on where the one before has stopped or was
// killed.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := worldIn(t, dir)
		w.mustUpgrade("/v2.wasm")
		w.u.Close(context.Background())

		w = worldIn(t, dir) // loads v1 again, which is not what ran last
		w.want("1.0", "", "", "1.0 1.0 1.0")
		if g := w.status().Current.Generation; g != 3 {
			t.Errorf("generation %d", g)
		}
		w.mustUpgrade("/v2.wasm", "a") // and is killed

		w = worldIn(t, dir)
		var got []string
		for _, r := range w.status().History {
			got = append(got, fmt.Sprintf("%d %s", r.Generation, r.Ended))
		}
		want := []string{"1 replaced by " + describe(&Plugin{Generation: 2, Version: "1.1", Hash: w.files["/v2.wasm"].hash}),
			"2 " + endedEngine, "3 " + endedKilled, "4 " + endedKilled, "3 "}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("history\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestUnusedPlugin: no volume stands on it, so there is nothing to take over.
func TestUnusedPlugin(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		l := w.u.byName["other"]
		l.disks = nil
		if err := w.u.Upgrade(context.Background(), UpgradeRequest{Plugin: "other", Path: "/o2.wasm", Watch: time.Hour}, nil); err != nil {
			t.Fatal(err)
		}
		if p := w.registry.Find("other"); p.Version != "2.0" || p.Generation != 2 {
			t.Errorf("%+v", p)
		}
		if err := w.u.Rollback(context.Background(), RollbackRequest{Plugin: "other"}, nil); err != nil {
			t.Fatal(err)
		}
		if p := w.registry.Find("other"); p.Version != "1.0" {
			t.Errorf("%+v", p)
		}
	})
}
