package nbdload

import (
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// options of a small load on a server: mixed, on two connections.
func options(s *nbdtest.Server) Options {
	return Options{Network: s.Network(), Addr: s.Addr(), Connections: 2, Depth: 8, Length: 1 << 20,
		ReadPercent: 60, Seed: 7, Run: time.Minute, Timeout: 10 * time.Second}
}

func start(t *testing.T, o Options) *Load {
	t.Helper()
	l, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Stop() })
	return l
}

func completed(t *testing.T, l *Load, n uint64) {
	t.Helper()
	from := l.Progress().Completed
	nbdtest.WaitFor(t, "requests to complete", func() bool { return l.Progress().Completed >= from+n })
}

func stop(t *testing.T, l *Load) *Result {
	t.Helper()
	r, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGoodServer: a load on a server that does nothing wrong, over each network.
func TestGoodServer(t *testing.T) {
	nbdtest.CheckLeaks(t)
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{Network: network})
			o := options(s)
			o.FlushEvery = 10
			l := start(t, o)
			completed(t, l, 2000)
			r := stop(t, l)
			if err := r.Bad(); err != nil {
				t.Error(err)
			}
			if r.Completed() < 2000 || r.Reads == 0 || r.Writes == 0 || r.Flushes == 0 || r.Flushes > r.Writes/10 {
				t.Errorf("%+v", r)
			}
			if r.Completions(0, r.Elapsed+time.Second) != r.Completed() {
				t.Errorf("%d completions are in the record, of %d", r.Completions(0, r.Elapsed+time.Second), r.Completed())
			}
			if w := r.Whole(); w.Count != r.Completed() || w.P50 <= 0 || w.P50 > w.P99 || w.P99 > w.P999 || w.P999 > w.Max {
				t.Errorf("latencies %+v of %d requests", w, r.Completed())
			}
			// Both connections took leave, and each stayed in its half of the disk.
			nbdtest.WaitFor(t, "both to take leave", func() bool { return s.Count(nbdtest.Op(nbdtest.CmdDisc)) == 2 })
			for conn, m := range []nbdtest.Match{{Conn: 1, From: 512 << 10, To: 1 << 30}, {Conn: 2, From: 1, To: 512 << 10}} {
				m.Ops = []uint16{nbdtest.CmdRead, nbdtest.CmdWrite}
				if n := s.Count(m); n != 0 {
					t.Errorf("connection %d went to the other's blocks %d times", conn, n)
				}
			}
		})
	}
}

// TestDepth: as many requests are outstanding as were asked for.
func TestDepth(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.Connections = 1
	l := start(t, o)
	completed(t, l, 100)
	release := s.StallReplies()
	defer release()
	mine := func() int {
		n := uint64(s.Count(nbdtest.Match{}))
		done := l.Progress().Completed + uint64(o.Length)/4096
		return int(n - min(n, done))
	}
	nbdtest.WaitFor(t, "all slots to be outstanding", func() bool { return mine() == o.Depth })
	release()
	if err := stop(t, l).Bad(); err != nil {
		t.Error(err)
	}
}

// TestLies: a server whose reads are wrong, each in another way, is found out.
func TestLies(t *testing.T) {
	damage := func(at int) func([]byte) []byte {
		return func(raw []byte) []byte {
			raw = slices.Clone(raw)
			raw[replySize+at] ^= 1
			return raw
		}
	}
	for name, c := range map[string]struct {
		fault nbdtest.Fault
		words string
	}{
		"block number": {nbdtest.Fault{Bytes: damage(512)}, "sector 1 holds nothing that this load has written"},
		"version":      {nbdtest.Fault{Bytes: damage(1024 + 8)}, "sector 2"},
		"tail":         {nbdtest.Fault{Bytes: damage(4095)}, "sector 7"},
		"zeroes":       {nbdtest.Fault{Bytes: func(raw []byte) []byte { return append(raw[:replySize:replySize], make([]byte, 4096)...) }}, "sector 0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
			l := start(t, options(s))
			rule := s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdRead), Skip: 20, Times: 3, Fault: c.fault})
			nbdtest.WaitFor(t, "the server to lie", func() bool { return rule.Hits() == 3 })
			completed(t, l, 100)
			r := stop(t, l)
			if r.Mismatched != 3 || len(r.Mismatches) != 3 || !strings.Contains(r.Mismatches[0], c.words) {
				t.Errorf("%d mismatches of 3: %q", r.Mismatched, r.Mismatches)
			}
			if err := r.Bad(); err == nil || !strings.Contains(err.Error(), "3 of") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestLostWrite: a write that is acknowledged and not done shows at the next
// read as the version before.
func TestLostWrite(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.Length = 256 << 10 // every block is soon read again
	l := start(t, o)
	// The errno is taken out of the answer.
	s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdWrite), Times: 1, Fault: nbdtest.Fault{Errno: nbdtest.EIO,
		Bytes: func(raw []byte) []byte { copy(raw[4:8], make([]byte, 4)); return raw }}})
	nbdtest.WaitFor(t, "the lost write to be noticed", func() bool { return l.Progress().Mismatched > 0 })
	r := stop(t, l)
	if r.Failed != 0 || !strings.Contains(r.Mismatches[0], "instead of version") {
		t.Errorf("%d failed, %q", r.Failed, r.Mismatches)
	}
}

// TestSwappedBlocks: a read of the right age from the wrong place.
func TestSwappedBlocks(t *testing.T) {
	p := newPattern(1, 4096)
	b := p.append(nil, 5, 9)
	if bad := p.check(b, 5, 9, 9); bad != -1 {
		t.Errorf("sector %d is found bad", bad)
	}
	if p.check(b, 6, 9, 9) != 0 || p.check(b, 5, 10, 10) != 0 || p.check(b, 5, 8, 8) != 0 {
		t.Error("another block or version passes")
	}
	if p.check(b, 5, 8, 10) != -1 {
		t.Error("a version between the two that are possible does not pass")
	}
	other := newPattern(2, 4096)
	if other.check(b, 5, 0, 1<<32-1) != 0 {
		t.Error("what another load has written passes")
	}
}

// TestFailures are counted by errno, and a failed write may be there or not.
func TestFailures(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.Length = 256 << 10
	l := start(t, o)
	var rules []*nbdtest.RuleHandle
	for _, r := range []nbdtest.Rule{
		{Match: nbdtest.Op(nbdtest.CmdWrite), Times: 20, Fault: nbdtest.Fault{Errno: nbdtest.ENOSPC}},
		{Match: nbdtest.Op(nbdtest.CmdWrite), Times: 20, Fault: nbdtest.Fault{Errno: nbdtest.EIO, Execute: true}},
		{Match: nbdtest.Op(nbdtest.CmdRead), Times: 20, Fault: nbdtest.Fault{Errno: nbdtest.ENOMEM}},
	} {
		rules = append(rules, s.AddRule(r))
	}
	nbdtest.WaitFor(t, "failures", func() bool {
		return rules[0].Hits() == 20 && rules[1].Hits() == 20 && rules[2].Hits() == 20
	})
	completed(t, l, 1000)
	r := stop(t, l)
	if r.Failed != 60 || r.Errnos[syscall.ENOSPC] != 20 || r.Errnos[syscall.EIO] != 20 || r.Errnos[syscall.ENOMEM] != 20 {
		t.Errorf("%d failed: %v", r.Failed, r.Errnos)
	}
	if r.Mismatched != 0 {
		t.Errorf("mismatches: %q", r.Mismatches)
	}
	if err := r.Bad(); err == nil || !strings.Contains(err.Error(), "20 with "+syscall.ENOSPC.Error()) {
		t.Errorf("error %v", err)
	}
}

// TestGap: a stall that we cause is at least as long in the record, in the
// window that touches it and in no other.
func TestGap(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	l := start(t, options(s))
	completed(t, l, 100)
	before := l.Now()
	release := s.StallReplies()
	// The server may still send what it is in the middle of.
	last := l.Progress().Completed
	nbdtest.WaitFor(t, "the stall to begin", func() bool {
		time.Sleep(20 * time.Millisecond)
		now := l.Progress().Completed
		quiet := now == last
		last = now
		return quiet
	})
	const long = 50 * time.Millisecond
	began := l.Now()
	time.Sleep(long)
	ended := l.Now()
	release()
	completed(t, l, 100)
	r := stop(t, l)
	for _, w := range [][2]time.Duration{{before, r.Elapsed}, {began, ended}, {0, began + long/2}, {began + long/2, ended}} {
		if g := r.Gap(w[0], w[1]); g < long {
			t.Errorf("the longest gap in %v is %v", w, g)
		}
	}
	if w := r.Whole(); w.Max < long {
		t.Errorf("the highest latency is %v", w.Max)
	}
	if n := r.Completions(began+bucketTime, ended-bucketTime); n != 0 {
		t.Errorf("%d completions in the stall", n)
	}
}

// TestBrokenAnswers end the load with an error that says what, and the gap
// stays open until the end.
func TestBrokenAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		fault nbdtest.Fault
		words string
	}{
		"cut":       {nbdtest.Fault{Cut: true, CutAfter: 5}, "outstanding"},
		"cookie":    {nbdtest.Fault{Cookie: 1 << 63}, "cookie"},
		"duplicate": {nbdtest.Fault{Duplicate: true}, "cookie"},
		"magic":     {nbdtest.Fault{Bytes: func(raw []byte) []byte { raw[0]++; return raw }}, "begins with"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
			o := options(s)
			o.Connections = 1
			l := start(t, o)
			s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdWrite), Skip: 50, Times: 1, Fault: c.fault})
			<-l.Done()
			at := l.Now()
			r, err := l.Stop()
			// An answer too many may be the last: then nothing is lost.
			if err == nil || !strings.Contains(err.Error(), c.words) || r.Lost == 0 && name != "duplicate" || r.Bad() == nil {
				t.Fatalf("%v, %d lost", err, r.Lost)
			}
			if r.Gap(at, r.Elapsed) < r.Elapsed-at {
				t.Errorf("the gap since %v is %v", at, r.Gap(at, r.Elapsed))
			}
		})
	}
}

// TestStopGivesUp: a server that never answers does not hold the load.
func TestStopGivesUp(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.Timeout = 100 * time.Millisecond
	l := start(t, o)
	completed(t, l, 10)
	silent := s.AddRule(nbdtest.Rule{Fault: nbdtest.Fault{NoReply: true}})
	nbdtest.WaitFor(t, "a request that is not answered", func() bool { return silent.Hits() > 0 })
	r, err := l.Stop()
	if err == nil || !strings.Contains(err.Error(), "not answered within 100ms") || r.Lost == 0 {
		t.Errorf("%v, %d lost", err, r.Lost)
	}
}

// TestEndsByItself at the end of its time.
func TestEndsByItself(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.Run = 50 * time.Millisecond
	l := start(t, o)
	<-l.Done()
	if r := stop(t, l); r.Bad() != nil || r.Elapsed < o.Run {
		t.Errorf("%v after %v", r.Bad(), r.Elapsed)
	}
}

// TestLargeBlocks are more than the sockets hold, in both directions at once.
func TestLargeBlocks(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	o := options(s)
	o.BlockSize, o.Length, o.ReadPercent = 256<<10, 8<<20, 50
	l := start(t, o)
	completed(t, l, 200)
	if err := stop(t, l).Bad(); err != nil {
		t.Error(err)
	}
}

// TestNoAllocation: the loop makes no garbage. The server is nbdkit, which is
// not in this process.
func TestNoAllocation(t *testing.T) {
	s := nbdtest.StartNbdkit(t, "memory", "64M")
	o := Options{Network: s.Network(), Addr: s.Addr(), Connections: 2, ReadPercent: 70, FlushEvery: 100, Run: time.Minute}
	l := start(t, o)
	completed(t, l, 1000)
	var before, after runtime.MemStats
	from := l.Progress().Completed
	runtime.ReadMemStats(&before)
	completed(t, l, 20000)
	runtime.ReadMemStats(&after)
	n := l.Progress().Completed - from
	if mallocs := after.Mallocs - before.Mallocs; mallocs > n/100 {
		t.Errorf("%d allocations for %d requests", mallocs, n)
	}
	if err := stop(t, l).Bad(); err != nil {
		t.Error(err)
	}
}
