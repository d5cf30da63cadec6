package kit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/engine/reactor"
	"blockengine/sdk/sdktest"
)

// Options of a run of the conformance suite.
type Options struct {
	Loading
	Path    string   // of the plugin, or of the directory that it is in
	Other   string   // of another version, "" for none: connections are handed over between the two
	Values  []string // options of the volume, NAME=VALUE
	Server  string   // the command that is the server, "" for none
	Address string   // of the server; "" with Server: unix:$SOCKET
	Fuzz    time.Duration
	Seed    uint64 // of the first round of fuzzing
	// Report is told each result as it comes.
	Report func(Result)
}

// Outcome of a part of the suite.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "fail"
	Skipped Outcome = "skip"
)

// Result of a part of the suite.
type Result struct {
	Name     string    `json:"name"`
	Outcome  Outcome   `json:"outcome"`
	Reason   string    `json:"reason,omitempty"` // why it was skipped
	Findings []Finding `json:"findings,omitempty"`
	Seconds  float64   `json:"seconds"`
}

// Finding is something that is wrong, and the place in sdk/PLUGIN.md that says
// what is right.
type Finding struct {
	Text   string `json:"text"`
	Manual string `json:"manual"`
}

// Summary of a run.
type Summary struct {
	Path     string   `json:"path"`
	SHA256   string   `json:"sha256"`
	Kind     string   `json:"kind"`
	Runtime  string   `json:"runtime"`
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Results  []Result `json:"results"`
	Passed   int      `json:"passed"`
	Failed   int      `json:"failed"`
	Skipped  int      `json:"skipped"`
	NoServer int      `json:"skipped_without_server"` // of those that were skipped
	Rounds   int      `json:"fuzz_rounds"`
	NextSeed uint64   `json:"next_seed"`
}

// Misuse is an error about how the suite was called.
type Misuse struct{ Err error }

func (m *Misuse) Error() string { return m.Err.Error() }
func (m *Misuse) Unwrap() error { return m.Err }

// caseLimit is how long a part of the suite may take.
const caseLimit = 3 * time.Minute

// serverWait is how long a server may say nothing while the plugin waits for it.
const serverWait = 5 * time.Second

// firstLogin is the case without which there is no use in those after it.
const firstLogin = "login/whole"

// noServer is why the suite skips what needs one.
const noServer = "needs a server"

// Test runs the suite. The error says why it could not be run; what is wrong
// with the plugin is in the summary.
func Test(ctx context.Context, o Options) (*Summary, error) {
	s, err := load(ctx, o.Path, o.Loading)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r := &run{ctx: ctx, o: &o, subject: s, sum: &Summary{Path: s.path, SHA256: s.hash, Kind: s.kind(), Runtime: s.runtime,
		Name: s.manifest.Name, Version: s.manifest.Version, NextSeed: o.Seed}}
	if r.values, err = values(s.manifest, o.Values); err != nil && (o.Server+o.Address != "" || s.store != nil || len(o.Values) > 0) {
		return nil, &Misuse{err}
	}
	if s.store != nil {
		return r.sum, r.stores()
	}
	return r.sum, r.protocol()
}

// run is one run of the suite.
type run struct {
	ctx     context.Context
	o       *Options
	subject *subject
	values  map[string]string
	sum     *Summary
	reactor *reactor.Reactor // of instances in processes
}

// protocol runs the suite of protocol plugins.
func (r *run) protocol() error {
	loop, err := r.loop()
	if err != nil {
		return err
	}
	defer loop.Stop()
	h := sdktest.Harness{Manifest: r.subject.manifest, Values: r.values, Open: r.opener(r.subject)}
	if r.o.Other != "" {
		other, err := load(r.ctx, r.o.Other, r.o.Loading)
		if err != nil {
			return err
		}
		defer other.close()
		if other.module == nil {
			return &Misuse{fmt.Errorf("%s is a store plugin, and %s a protocol plugin", r.o.Other, r.subject.path)}
		}
		h.Other = r.opener(other)
	}
	if r.o.Server+r.o.Address != "" {
		srv, err := startServer(r.ctx, r.o.Server, r.o.Address)
		if err != nil {
			return err
		}
		defer srv.stop()
		h.Dial = dialer(srv)
	}
	noLogin := false
	for _, c := range sdktest.Cases() {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if noLogin && !c.Offline {
			r.add(Result{Name: c.Name, Outcome: Skipped, Reason: "there is no login"})
			continue
		}
		ok := r.runner(c.Manual, r.add).Run(c.Name, func(t *sdktest.Runner) { c.Run(t, &h) })
		noLogin = noLogin || c.Name == firstLogin && !ok
	}
	if noLogin { // what a server would say after it has no use
		h.Dial = nil
	}
	return r.fuzz(&h)
}

// opener makes instances of a plugin as the suite wants them.
func (r *run) opener(s *subject) func(sdktest.TB) sdktest.Instance {
	return func(t sdktest.TB) sdktest.Instance {
		i, err := newInstance(r.ctx, s.module, r.reactor)
		if err != nil {
			t.Fatalf("a new instance: %v (sdk/PLUGIN.md, chapter 9)", err)
		}
		return i
	}
}

func dialer(srv *server) func(sdktest.TB) sdktest.Server {
	return func(t sdktest.TB) sdktest.Server {
		c, err := srv.dial()
		if err != nil {
			t.Fatal(err)
		}
		return sdktest.Within(c, serverWait)
	}
}

// runner runs a part and gives its result, with a place in the manual for what
// names none.
func (r *run) runner(manual string, give func(Result)) *sdktest.Runner {
	return sdktest.NewRunner(caseLimit, func(t sdktest.Result) {
		res := Result{Name: t.Name, Outcome: Passed, Reason: t.Reason, Seconds: t.Took.Seconds()}
		switch {
		case t.Failed:
			res.Outcome = Failed
		case t.Skipped:
			res.Outcome = Skipped
		}
		for _, f := range t.Findings {
			text, place := sdktest.Cite(f)
			if place == "" {
				place = manual
			}
			res.Findings = append(res.Findings, Finding{text, place})
		}
		give(res)
	})
}

func (r *run) add(res Result) {
	switch res.Outcome {
	case Passed:
		r.sum.Passed++
	case Failed:
		r.sum.Failed++
	default:
		r.sum.Skipped++
		if res.Reason == noServer {
			r.sum.NoServer++
		}
	}
	r.sum.Results = append(r.sum.Results, res)
	if r.o.Report != nil {
		r.o.Report(res)
	}
}

// fuzz runs rounds until the time is over or one has failed.
func (r *run) fuzz(h *sdktest.Harness) error {
	if r.o.Fuzz <= 0 {
		return nil
	}
	begin := time.Now()
	res := Result{Name: "fuzz", Outcome: Passed}
	seed := r.o.Seed
	for time.Since(begin) < r.o.Fuzz && res.Outcome != Failed {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		r.runner("chapter 8", func(one Result) {
			if one.Outcome == Failed {
				res = one
				res.Findings = append(res.Findings, Finding{fmt.Sprintf("the same again: --seed %d", seed), "chapter 10"})
			}
		}).Run("fuzz", func(t *sdktest.Runner) { h.Fuzz(t, seed) })
		seed++
		r.sum.Rounds++
	}
	r.sum.NextSeed = seed
	res.Seconds = time.Since(begin).Seconds()
	r.add(res)
	return nil
}

// stores runs the suite of store plugins.
func (r *run) stores() error {
	if r.o.Server+r.o.Address != "" {
		return &Misuse{errors.New("a store plugin reaches its server by itself: leave out --server and --address, and name the server with -o")}
	}
	if r.o.Other != "" {
		return &Misuse{errors.New("a store plugin's connections are not handed over: leave out --other")}
	}
	loop, err := r.loop()
	if err != nil {
		return err
	}
	defer loop.Stop()
	h := sdktest.StoreHarness{Manifest: storeManifest(r.subject), Open: r.openStore}
	for _, c := range sdktest.StoreCases() {
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		r.runner(c.Manual, r.add).Run(c.Name, func(t *sdktest.Runner) { c.Run(t, &h) })
	}
	return nil
}

// loop starts the reactor that everything in other processes answers on.
func (r *run) loop() (*reactor.Reactor, error) {
	loop, err := startLoop()
	r.reactor = loop
	return loop, err
}
