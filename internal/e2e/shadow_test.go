package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// TestShadowFindsBadVersions: each fault of badnbd that shows in what it does
// with requests is found by running it as a shadow, with the request that showed
// it; the version that runs stays, and no request fails.
func TestShadowFindsBadVersions(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		"trap-read":         "this version cannot read",
		"trap-thousandth":   "traps",
		"loop":              "traps, ",
		"complete-foreign":  "does not hold",
		"complete-unfilled": "", // by which of its bytes or results depends on what is outstanding
		"eio":               "", // by which of its bytes or results depends on what is outstanding
		"swallow":           "", // by which of its bytes or results depends on what is outstanding
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			_, e := onServer(t, fault, nbdtest.DefaultFlags, nbdtest.Negotiation{}, trusting("60s", "1s"))
			m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
			m.goesOn(200)
			o := e.order("upgrade", "nbd", built.bad, "--shadow", "60s")
			err := o.wait()
			if err == nil || o.status() != 1 {
				t.Fatalf("the bad version was taken:\n%s", o.out.String())
			}
			for _, text := range []string{want, `volume "disk", connection `, " bytes at offset "} {
				if !strings.Contains(err.Error(), text) && !(fault == "loop" && text == want) {
					t.Errorf("%v\nlacks %q", err, text)
				}
			}
			e.runs("disk", version1)
			m.goesOn(200)
			m.end()
			if n := m.failures.Load(); n != 0 {
				t.Errorf("%d requests failed", n)
			}
			e.unhurt("disk")
		})
	}
}

// TestShadowUnderLoad: a version that does the same passes under fio, on real
// servers, and takes over; what it cost is told. A recording made meanwhile gives
// no difference with either version.
func TestShadowUnderLoad(t *testing.T) {
	t.Parallel()
	for _, s := range strictServers(t)[:2] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.real.Addr(), durable)}})
			e.waitUp("disk")
			underFaults(t, e.uri("disk"), 6*time.Second, 100*time.Millisecond, func(n int) {
				if n == 0 {
					shadowed(t, e)
				}
			})
			e.runs("disk", version2)
			e.unhurt("disk")
		})
	}
}

func shadowed(t *testing.T, e *engine) {
	file := filepath.Join(t.TempDir(), "disk.rec")
	rec := e.order("record", "nbd", "--for", "1s", "-o", file)
	if err := rec.wait(); err != nil {
		t.Error(err)
		return
	}
	shadowThenUpgrade(t, e, built.nbd2)
	for _, version := range []string{built.nbd, built.nbd2, "builtin:nbd"} {
		replaysTheSame(t, file, version)
	}
}

// shadowThenUpgrade has a version that does the same run as a shadow and take over.
func shadowThenUpgrade(t *testing.T, e *engine, file string) {
	steps, err := e.tryUpgrade(file, "--shadow", "2s")
	if err != nil {
		t.Error(err)
		return
	}
	told := false
	for _, s := range steps {
		told = told || s.Phase == "shadow" && s.Volume == "disk" && strings.Contains(s.Text, "none differs")
		if s.Phase == "shadow" && s.Text != "" {
			t.Logf("shadow: %s", s.Text)
		}
	}
	if !told {
		t.Errorf("nothing is told of the shadow: %v", steps)
	}
}

// replaysTheSame hands a recording to a version that does the same.
func replaysTheSame(t *testing.T, file, version string) {
	p, err := spawn(built.engine, "plugin", "replay", file, version)
	if err != nil {
		t.Error(err)
		return
	}
	<-p.done
	if p.err != nil || !strings.Contains(p.out.String(), "no difference") {
		t.Errorf("replay over %s: %v\n%s%s", filepath.Base(version), p.err, p.out.String(), p.log.String())
		return
	}
	t.Logf("replay over %s: %s", filepath.Base(version), p.out.String())
}
