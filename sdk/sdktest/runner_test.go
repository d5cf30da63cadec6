package sdktest_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"blockengine/sdk/abi"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/badplugins"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

const diskSize = 1 << 20

func harness(p protocol.Plugin, values map[string]string, d *server.Disk) sdktest.Harness {
	h := sdktest.Harness{Manifest: p.Manifest(), Values: values, Open: sdktest.Linked(p)}
	if d != nil {
		d.Fill(diskSize)
		h.Dial = func(sdktest.TB) sdktest.Server { return sdktest.Answers(d.Connect().Answer) }
	}
	return h
}

// results runs the suite in a Runner.
func results(h sdktest.Harness) map[string]sdktest.Result {
	all := map[string]sdktest.Result{}
	sdktest.Run(sdktest.NewRunner(time.Minute, func(r sdktest.Result) { all[r.Name] = r }), h)
	return all
}

// Outside of go test the suite finds the same.
func TestRunner(t *testing.T) {
	for name, r := range results(harness(tiny.Plugin(), nil, &server.Disk{})) {
		if r.Failed || r.Skipped && !strings.HasPrefix(name, "second") {
			t.Errorf("%s: failed %v, skipped %v (%s): %q", name, r.Failed, r.Skipped, r.Reason, r.Findings)
		}
	}
	r := results(harness(badplugins.Plugin(), map[string]string{"fault": badplugins.CompleteTwice}, &server.Disk{}))["operations"]
	if !r.Failed || len(r.Findings) == 0 {
		t.Fatalf("%+v", r)
	}
	if _, place := sdktest.Cite(r.Findings[0]); place != "chapter 5, Completing" {
		t.Errorf("%q points to %q", r.Findings[0], place)
	}
}

// Without a server only what needs none is run.
func TestOffline(t *testing.T) {
	ran := 0
	for name, r := range results(harness(tiny.Plugin(), nil, nil)) {
		switch {
		case r.Failed:
			t.Errorf("%s: %q", name, r.Findings)
		case !r.Skipped:
			ran++
		case r.Reason != "needs a server":
			t.Errorf("%s is skipped: %s", name, r.Reason)
		}
	}
	if ran != 4 {
		t.Errorf("%d cases need no server, want 4", ran)
	}
}

// What ends a test, and what a test leaves.
func TestRunnerEnds(t *testing.T) {
	var got []sdktest.Result
	r := sdktest.NewRunner(100*time.Millisecond, func(r sdktest.Result) { got = append(got, r) })
	cleaned := 0
	clean := func(r *sdktest.Runner) { r.Cleanup(func() { cleaned++ }) }
	tests := []struct {
		name string
		f    func(*sdktest.Runner)
		ok   bool
		says string
	}{
		{"passes", clean, true, ""},
		{"fails", func(r *sdktest.Runner) { clean(r); r.Error("one"); r.Fatalf("two"); r.Error("three") }, false, "one two"},
		{"skips", func(r *sdktest.Runner) { clean(r); r.Skip("no"); r.Error("after") }, true, ""},
		{"panics", func(r *sdktest.Runner) { clean(r); panic("ouch") }, false, "ouch"},
		{"hangs", func(r *sdktest.Runner) { select {} }, false, "did not come to an end"},
	}
	for i, c := range tests {
		ok := r.Run(c.name, c.f)
		said := strings.Join(got[i].Findings, " ")
		if ok != c.ok || got[i].Failed == c.ok || !strings.Contains(said, c.says) || strings.Contains(said, "three") {
			t.Errorf("%s: %v, %+v", c.name, ok, got[i])
		}
	}
	if cleaned != 4 || !r.Failed() || !got[2].Skipped || got[2].Reason != "no" {
		t.Errorf("%d clean-ups, failed %v, %+v", cleaned, r.Failed(), got[2])
	}
}

// dice is a plugin that is no function of its events, and one that takes over
// what it cannot.
type dice struct {
	protocol.Plugin
	logsIn bool
}

func (d dice) NewConn() protocol.Conn { return &diceConn{d.Plugin.NewConn(), d.logsIn} }

var rolls byte

type diceConn struct {
	protocol.Conn
	logsIn bool
}

func (c *diceConn) Opened(a *protocol.Actions, o *protocol.Opened) {
	if c.logsIn {
		a.Send([]byte("hello"))
		return
	}
	rolls++
	a.Send([]byte{rolls})
}

func TestOfflineFindings(t *testing.T) {
	r := results(harness(dice{tiny.Plugin(), false}, nil, nil))
	if !r["pure"].Failed {
		t.Error("a plugin with a state outside of its connections passes as pure")
	}
	r = results(harness(dice{tiny.Plugin(), true}, nil, nil))
	if !r["garbage state"].Failed || r["pure"].Failed {
		t.Errorf("a plugin that logs in on a resumed connection: %+v", r["garbage state"])
	}
}

// An honest server's answers may come in any fragments. (The test plugin is
// not made for servers that lie; the examples are.)
func TestFragments(t *testing.T) {
	rounds := uint64(400)
	if testing.Short() {
		rounds = 60
	}
	for _, d := range []*server.Disk{{}, {Credits: 3, Pieces: true}} {
		h := harness(tiny.Plugin(), map[string]string{"features": "digest,credits,session"}, d)
		for seed := uint64(2); seed < rounds; seed += 8 {
			h.Fuzz(t, seed)
		}
	}
}

// trusting believes the length of a reply.
type trusting struct{ protocol.Plugin }

func (p trusting) NewConn() protocol.Conn { return &trustingConn{Conn: p.Plugin.NewConn()} }

type trustingConn struct {
	protocol.Conn
	table [16]byte
}

func (c *trustingConn) Received(a *protocol.Actions, b []byte) int {
	if len(b) >= 3 {
		c.table[b[2]]++
	}
	return c.Conn.Received(a, b)
}

func TestFuzzFinds(t *testing.T) {
	h := harness(trusting{tiny.Plugin()}, nil, &server.Disk{})
	var found string
	for seed := uint64(0); found == "" && seed < 1000; seed++ {
		r := sdktest.NewRunner(time.Minute, func(r sdktest.Result) { found = strings.Join(r.Findings, " ") })
		r.Run("fuzz", func(r *sdktest.Runner) { h.Fuzz(r, seed) })
	}
	if !strings.Contains(found, "trapped") || !strings.Contains(found, "seed ") {
		t.Errorf("a plugin that indexes with a server's byte: %q", found)
	}
}

// The places that the suite cites are in the manual.
func TestPassages(t *testing.T) {
	manual, err := os.ReadFile("../PLUGIN.md")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("passage.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`"chapter (\d+)(?:, ([^"]+))?"`).FindAllSubmatch(src, -1)
	if len(found) < 10 {
		t.Fatalf("only %d passages were found", len(found))
	}
	for _, m := range found {
		_, chapter, ok := strings.Cut(string(manual), "\n## "+string(m[1])+". ")
		chapter, _, _ = strings.Cut(chapter, "\n## ")
		if !ok || len(m[2]) > 0 && !strings.Contains(chapter, "\n### "+string(m[2])+"\n") {
			t.Errorf("the manual lacks chapter %s, %s", m[1], m[2])
		}
	}
	if abi.Major != 1 {
		t.Error("a manual for another major version")
	}
}
