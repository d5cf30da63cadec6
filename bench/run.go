package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// run is one run of the benchmark. Servers are started when they are first
// needed and stay until the end: an idle one uses nothing.
type run struct {
	settings *settings
	dir      string // in memory where possible, for what peers keep in files
	up       map[string]*instance
	broken   map[string]error // servers that cannot be started
	results  []*result        // in the order of the table
	order    []*instance      // as started
	disks    []string         // directories that are removed at the end
}

// result is what came out of one load on one server.
type result struct {
	group   group
	load    load
	server  string
	samples []sample // one a round
	err     error    // ends it
}

// sample is one round.
type sample struct {
	outcome
	cpu   float64 // µs of the server for each request
	total float64 // with that of the server behind a proxy
}

func newRun(s *settings) (*run, error) {
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "bench") // short: sockets' paths are limited
	if err != nil {
		return nil, err
	}
	if s.wasm, err = filepath.Abs(s.wasm); err == nil {
		s.engine, err = filepath.Abs(s.engine)
	}
	if err == nil {
		s.store, err = filepath.Abs(s.store)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &run{settings: s, dir: dir, up: map[string]*instance{}, broken: map[string]error{}}, nil
}

// close ends all servers, the last first, and returns when they are reaped.
func (r *run) close() {
	for i := len(r.order) - 1; i >= 0; i-- {
		r.order[i].stop()
	}
	for _, dir := range r.disks {
		_ = os.RemoveAll(dir)
	}
	_ = os.RemoveAll(r.dir) // what is left of it says nothing about the figures
}

// all runs the wanted cases: in each round every load, under each load every
// server, beginning with another one each round. So what changes in the machine
// meanwhile meets all of them alike.
func (r *run) all(ctx context.Context) (*report, error) {
	cases := r.cases()
	for round := range r.settings.rounds {
		for _, c := range cases {
			for i := range c {
				r.measure(ctx, c[(i+round)%len(c)])
				if ctx.Err() != nil {
					return nil, errors.New("interrupted")
				}
			}
		}
	}
	report := newReport(r.results)
	if r.settings.only.MatchString("idle") {
		report.Idle = r.idle(ctx)
	}
	report.Upgrades = r.upgrades(ctx)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	if len(report.Rows) == 0 && len(report.Idle) == 0 && len(report.Upgrades) == 0 {
		return nil, fmt.Errorf("-run %v matches no case: there are such as %q, %q, and \"idle\"",
			r.settings.only, caseName(groups[0], groups[0].loads[0]), upgradeCases[0].name())
	}
	return report, nil
}

// cases makes the results to be filled, those of one load together.
func (r *run) cases() [][]*result {
	var cases [][]*result
	for _, g := range groups {
		for _, l := range g.loads {
			if !r.settings.only.MatchString(caseName(g, l)) {
				continue
			}
			var c []*result
			for _, name := range g.servers {
				if l.depth == 1 || !servers[name].depth1Only {
					c = append(c, &result{group: g, load: l, server: name})
				}
			}
			cases = append(cases, c)
			r.results = append(r.results, c...)
		}
	}
	return cases
}

// measure adds a sample to a result, or the reason why there is none.
func (r *run) measure(ctx context.Context, res *result) {
	if res.err != nil {
		return
	}
	in, err := r.instance(ctx, res.server)
	var s sample
	if err == nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", caseName(res.group, res.load), res.server)
		s, err = r.sample(ctx, in, res)
	}
	if err != nil {
		res.err = err
		return
	}
	res.samples = append(res.samples, s)
}

// sample runs the client twice, to warm up and to measure. The servers' CPU
// time is that of the whole second run, all of whose requests are counted.
func (r *run) sample(ctx context.Context, in *instance, res *result) (sample, error) {
	drive := r.client(in, res.load)
	if _, err := drive(ctx, r.settings.warmup); err != nil {
		return sample{}, err
	}
	behind := r.behind(res.server)
	before, err := cpuTimes(in, behind)
	if err != nil {
		return sample{}, err
	}
	o, err := drive(ctx, r.settings.measure)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuTimes(in, behind)
	if err != nil {
		return sample{}, err
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(o.requests) }
	own := after[0] - before[0]
	return sample{o, each(own), each(own + after[1] - before[1])}, nil
}

// behind is the server behind a proxy, or nil.
func (r *run) behind(name string) *instance {
	if !servers[name].backed {
		return nil
	}
	return r.up[backingServer]
}

// cpuTimes of a server and of the one behind it.
func cpuTimes(in, behind *instance) (times [2]time.Duration, err error) {
	if times[0], err = cpuTime(in.pid()); err == nil && behind != nil {
		times[1], err = cpuTime(behind.pid())
	}
	return times, err
}

// instance gives a server that is up, with the region filled that is used: what
// was never written costs some servers less to read.
func (r *run) instance(ctx context.Context, name string) (*instance, error) {
	if in := r.up[name]; in != nil {
		return in, nil
	}
	if err := r.broken[name]; err != nil {
		return nil, err
	}
	in, err := r.start(ctx, name)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		r.broken[name] = err
		return nil, err
	}
	r.up[name] = in
	return in, nil
}

func (r *run) start(ctx context.Context, name string) (*instance, error) {
	at, err := r.place(ctx, servers[name].backed, servers[name].onDisk)
	if err != nil {
		return nil, err
	}
	in, err := servers[name].start(ctx, at)
	if err != nil {
		return nil, err
	}
	r.order = append(r.order, in)
	if servers[name].backed || servers[name].sparse {
		return in, nil
	}
	return in, r.fill(ctx, in, strings.Contains(name, "vhost-user"))
}

// fill writes the region once.
func (r *run) fill(ctx context.Context, in *instance, vhostUser bool) error {
	if vhostUser {
		return fillRing(ctx, in)
	}
	c := client{load: load{rw: "write", block: 256 << 10, depth: 8}, uri: in.uri("disk"), dir: r.dir, runtime: 30 * time.Second}
	_, err := c.run(ctx)
	return err
}

// client gives what puts a load on a server for a while.
func (r *run) client(in *instance, l load) func(context.Context, time.Duration) (outcome, error) {
	if l.guest != "" {
		return func(ctx context.Context, d time.Duration) (outcome, error) { return driveRing(ctx, in, l, d) }
	}
	return func(ctx context.Context, d time.Duration) (outcome, error) {
		c := client{load: l, uri: in.uri("disk"), dir: r.dir, runtime: d, loop: true}
		return c.run(ctx)
	}
}

// place makes a directory for a server, and starts the storage server if it is
// to stand before that.
func (r *run) place(ctx context.Context, backed, onDisk bool) (place, error) {
	at := place{settings: r.settings}
	if backed {
		backing, err := r.instance(ctx, backingServer)
		if err != nil {
			return at, err
		}
		at.backing = backing.socket
	}
	var err error
	if onDisk {
		if at.disk, err = os.MkdirTemp(r.settings.disk, "bench"); err != nil {
			return at, fmt.Errorf("%w: name a directory with -disk", err)
		}
		r.disks = append(r.disks, at.disk)
	}
	at.dir, err = os.MkdirTemp(r.dir, "")
	return at, err
}
