package process

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// loader keeps depth reads of 4 KiB outstanding on a link, until left of them have
// been finished.
type loader struct {
	l     *link
	left  int
	out   int
	depth int
	size  uint64
	into  []byte
	guest []byte // that is lent, size bytes for each slot; nil: payload is copied
	done  chan struct{}
	err   error
	piece [1][]byte
}

func (o *loader) Finished(slot int, st block.Status, filled uint64, _ []block.Extent) {
	if st != block.OK || filled != o.size {
		o.err = fmt.Errorf("status %v, %d bytes", st, filled)
	}
	if o.guest == nil {
		copy(o.into, o.l.Payload(slot)[:o.size]) // as the session does
	}
	o.out--
	if o.left > 0 {
		o.submit(slot)
	}
}

func (o *loader) submit(slot int) {
	o.left--
	o.out++
	if o.guest != nil {
		at := uint64(slot) * o.size
		if o.piece[0] = o.guest[at : at+o.size]; !o.l.Lend(slot, o.piece[:]) {
			o.err = errors.New("it is not lent")
		}
	}
	o.l.Submit(slot, block.OpRead, 0, uint64(slot)*o.size%testSize, o.size)
}

func (o *loader) Turn() {
	o.l.Push()
	if o.out == 0 {
		o.done <- struct{}{}
	}
}

func (o *loader) Changed(block.Info) {}
func (o *loader) Lost(err error)     { o.err = err; o.done <- struct{}{} }

// run has n requests done.
func (o *loader) run(r *reactor.Reactor, n int) error {
	r.Do(func() {
		o.left = n
		for slot := 0; slot < o.depth && o.left > 0; slot++ {
			o.submit(slot)
		}
		o.l.Push()
	})
	<-o.done
	return o.err
}

// cpuTime is what a process has used, from /proc.
func cpuTime(t testing.TB, pid int) time.Duration {
	var sum time.Duration
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, e.Name()))
		if err != nil {
			continue
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}

func startReactor(t testing.TB, spin time.Duration) *reactor.Reactor {
	t.Helper()
	r, err := reactor.New(reactor.Options{Spin: spin})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// startLoaders are links to one peer, on a reactor each, with their load.
func startLoaders(t testing.TB, n, depth int, spin time.Duration, env ...string) ([]*loader, *peer) {
	t.Helper()
	var regions []*region
	for range n {
		reg, err := newRegion("bench", testLayout("null"))
		if err != nil {
			t.Fatal(err)
		}
		regions = append(regions, reg)
	}
	p := startPeer(t, "null "+spin.String(), env, regions...)
	h := hooks{hang: 5 * time.Second, broke: func(error) {}, release: func(done func(bool)) { done(true) }}
	var all []*loader
	for _, reg := range regions {
		o := &loader{l: newLink(reg, block.Info{Size: testSize, BlockSize: 1}, h), depth: depth, size: 4096, into: make([]byte, 4096), done: make(chan struct{}, 1)}
		r := startReactor(t, spin)
		var err error
		r.Do(func() { err = o.l.Start(r, o) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Do(func() { o.l.Close(func(bool) {}) }) })
		all = append(all, o)
	}
	return all, p
}

// measure runs n requests on each of the loaders, side by side.
func measure(b *testing.B, all []*loader, pid, n int) {
	b.Helper()
	self, other := cpuTime(b, os.Getpid()), cpuTime(b, pid)
	b.ReportAllocs()
	b.ResetTimer()
	errs := make(chan error, len(all))
	for _, o := range all {
		go func() { errs <- o.run(o.l.r, n) }()
	}
	for range all {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	total := float64(n * len(all))
	b.ReportMetric(float64(cpuTime(b, os.Getpid())-self)/total, "engine-ns/op")
	b.ReportMetric(float64(cpuTime(b, pid)-other)/total, "plugin-ns/op")
}

// BenchmarkLink is the null store over a link: what comes on top of one that is
// linked in.
func BenchmarkLink(b *testing.B) {
	for _, depth := range []int{1, 8, 64} {
		for _, spin := range []time.Duration{0, 50 * time.Microsecond} {
			b.Run(fmt.Sprintf("depth=%d/spin=%v", depth, spin), func(b *testing.B) {
				all, p := startLoaders(b, 1, depth, spin)
				if err := all[0].run(all[0].l.r, 2000); err != nil {
					b.Fatal(err)
				}
				measure(b, all, p.cmd.Process.Pid, b.N)
			})
		}
	}
}

// BenchmarkLinks has more links than the process may use processors.
func BenchmarkLinks(b *testing.B) {
	for _, procs := range []string{"1", "8"} {
		for _, spin := range []time.Duration{0, 50 * time.Microsecond} {
			b.Run(fmt.Sprintf("links=4/gomaxprocs=%s/spin=%v", procs, spin), func(b *testing.B) {
				all, p := startLoaders(b, 4, 1, spin, "GOMAXPROCS="+procs)
				measure(b, all, p.cmd.Process.Pid, b.N)
			})
		}
	}
}

// BenchmarkInstance is a call of a state machine that has one request to complete.
func BenchmarkInstance(b *testing.B) {
	for _, spin := range []time.Duration{0, 50 * time.Microsecond} {
		b.Run(fmt.Sprintf("spin=%v", spin), func(b *testing.B) {
			reg := makeRegion(b, "machine")
			startPeer(b, "machine "+spin.String(), nil, reg)
			c := newCaller(b, reg, spin, patience).attach()
			left, done := 0, make(chan struct{}, 1)
			c.got = func() {
				if _, _, err := c.i.Answer(); err != nil {
					b.Error(err)
				}
				if left--; left <= 0 {
					done <- struct{}{}
					return
				}
				c.i.Begin(c.events(5), 0)
			}
			b.ReportAllocs()
			b.ResetTimer()
			c.r.Do(func() { left = b.N; c.i.Begin(c.events(5), 0) })
			<-done
		})
	}
}
