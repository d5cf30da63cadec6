package session_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/session"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/abi"
)

// watcher follows each connection with another instance of the plugin.
type watcher struct {
	mu     sync.Mutex // guards what follows
	all    []*compare.Follower
	closed atomic.Int32
	fresh  int // connections that were told of at their beginning
}

type watched struct {
	*compare.Follower
	w *watcher
}

func (w watched) Closed() { w.w.closed.Add(1) }

func (w *watcher) join(t *testing.T) func(session.ConnOpening) (guest.Tap, error) {
	return func(o session.ConnOpening) (guest.Tap, error) {
		inst, err := guest.Linked(nbd.Plugin()).NewInstance(t.Context())
		if err != nil {
			return nil, err
		}
		f, err := compare.Follow(inst, compare.Start{Opened: o.Opened, Resumed: o.Resumed, Limits: o.Limits, Judge: o.Judge})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all = append(w.all, f)
		if !o.Resumed {
			w.fresh++
		}
		return watched{f, w}, err
	}
}

// verdict fails the test over what a follower has found, and counts requests. It
// is called when nothing is observed any more.
func (w *watcher) verdict(t *testing.T) (requests uint64) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.all {
		if err := f.Err(); err != nil {
			t.Errorf("after %d requests: %v", f.Requests(), err)
		}
		requests += f.Requests()
	}
	return requests
}

// A plugin that follows itself on live connections, joined in the middle of a
// load and made anew after losses, does the same; and the load goes on.
func TestObserveUnderLoad(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{reactors: 2, trust: true})
	l := r.startLoad(2)
	for round := range 4 {
		w := &watcher{}
		o := session.Observer{Join: w.join(t)}
		if round > 1 {
			o.With = r.version(9, nil)
		}
		d, err := r.sess.Observe(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if d.Joined == 0 || d.Pause > time.Second {
			t.Errorf("joined %d, a request waited %v", d.Joined, d.Pause)
		}
		if _, err := r.sess.Observe(t.Context(), session.Observer{Join: w.join(t)}); !errors.Is(err, session.ErrNotObserved) {
			t.Errorf("observed twice: %v", err)
		}
		before := l.ops.Load()
		nbdtest.WaitFor(t, "the load", func() bool { return l.ops.Load() > before+200 || l.failed.Load() > 0 })
		if round%2 == 1 {
			s.KillAll(nbdtest.FIN)
			before = l.ops.Load()
			nbdtest.WaitFor(t, "the load", func() bool { return l.ops.Load() > before+200 || l.failed.Load() > 0 })
		}
		d.Stop()
		d.Stop()
		if n := w.verdict(t); n < 100 {
			t.Errorf("only %d requests were compared", n)
		}
		if got := int(w.closed.Load()); got != len(w.all) || round == 1 && w.fresh == 0 || o.With != nil && w.fresh > 0 || round == 3 && len(w.all) <= d.Joined {
			t.Errorf("%d of %d are told of the end; %d began anew", got, len(w.all), w.fresh)
		}
	}
	l.end(t)
}

// A version that takes over ends the observation of what it takes over.
func TestTakeOverWhileObserved(t *testing.T) {
	_, r := serve(t, nbdtest.ServerOptions{}, rigOptions{reactors: 2})
	l := r.startLoad(2)
	w := &watcher{}
	d, err := r.sess.Observe(t.Context(), session.Observer{Join: w.join(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.sess.TakeOver(t.Context(), session.Takeover{To: r.version(2, nil), Methods: methods(session.Handover)}); err != nil {
		t.Fatal(err)
	}
	nbdtest.WaitFor(t, "the ends", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return int(w.closed.Load()) == len(w.all)
	})
	d.Stop()
	w.verdict(t)
	l.end(t)
}

// A version that gives no state cannot be joined, and goes on.
func TestObserveWithoutState(t *testing.T) {
	_, r := serve(t, nbdtest.ServerOptions{}, rigOptions{
		module: &altered{guest.Linked(nbd.Plugin()), onLimits(func(l *abi.Limits) { l.Handover = 0 })}})
	c := r.open(0)
	c.write(0, random(4096, 1))
	w := &watcher{}
	_, err := r.sess.Observe(t.Context(), session.Observer{Join: w.join(t)})
	if !errors.Is(err, session.ErrNotObserved) || !strings.Contains(err.Error(), "cannot save its state") {
		t.Fatalf("got %v", err)
	}
	c.write(0, random(4096, 2))
	if len(w.all) > 0 {
		t.Error("a connection was told of")
	}
}

// Requests that do not end keep an observer out, and are not disturbed.
func TestObserveWaitsNoLongerThanItsDrain(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
	c := r.open(0)
	release := s.StallReplies()
	k := c.start(1, 0, 0, 4096, make([]byte, 4096))
	nbdtest.WaitFor(t, "the request", func() bool { return s.Count(nbdtest.Match{}) > 0 })
	w := &watcher{}
	if _, err := r.sess.Observe(t.Context(), session.Observer{Join: w.join(t), Drain: 50 * time.Millisecond}); err == nil {
		t.Fatal("a connection was joined while a request was outstanding")
	}
	release()
	if st := k.wait(t); st != 0 {
		t.Fatal(st)
	}
	d, err := r.sess.Observe(t.Context(), session.Observer{Join: w.join(t)})
	if err != nil {
		t.Fatal(err)
	}
	d.Stop()
}
