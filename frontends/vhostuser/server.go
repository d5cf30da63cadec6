package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
)

// Options of a Server; the zero value of each but Reactors has a default.
type Options struct {
	Reactors []*reactor.Reactor // running ones; queues are spread over them
	Log      *slog.Logger       // default: slog.Default()

	// StopTimeout is how long a ring that the front-end stops is waited for,
	// default 60 s. After that the connection is closed, without an answer.
	StopTimeout time.Duration
	// RedialEvery is how often a socket that we connect to is tried, default
	// 200 ms.
	RedialEvery time.Duration
	// SocketMode is the mode of sockets that we listen on, default 0600:
	// whoever may write to the socket may use the disk.
	SocketMode os.FileMode
}

// Server serves exports behind any number of sockets. Its methods are safe from
// any goroutine but a reactor's.
type Server struct {
	o        Options
	log      *slog.Logger
	quiet    *quiet
	workers  []*worker
	stopping atomic.Bool

	mu        sync.Mutex // guards listeners; nothing is called while it is held
	listeners []*Listener
}

// NewServer makes a server without sockets.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 60 * time.Second
	}
	if o.RedialEvery == 0 {
		o.RedialEvery = 200 * time.Millisecond
	}
	if o.SocketMode == 0 {
		o.SocketMode = 0o600
	}
	s := &Server{o: o, log: o.Log, quiet: &quiet{log: o.Log}}
	for _, r := range o.Reactors {
		s.workers = append(s.workers, &worker{r: r, tallies: map[*export]*tally{}, queues: map[*queue]struct{}{}})
	}
	return s
}

// Stats is what a server has done and does.
type Stats struct {
	Connections int // with a front-end
	Exports     []ExportStats
}

// ExportStats counts an export's requests since it was started.
type ExportStats struct {
	Listener    string // "unix:PATH"
	Name        string
	Connected   bool   // a front-end is there
	Connections uint64 // so far
	Failures    uint64 // connections that were ended for what the front-end, or its guest, did
	Queues      int    // that run
	Kicks       uint64 // taken from guests
	Calls       uint64 // given to guests
	Resubmitted uint64 // requests taken over from connections before
	Requests    volume.Stats
}

// Stats asks every reactor for its part.
func (s *Server) Stats() Stats {
	var st Stats
	place := map[*export]int{}
	for _, l := range s.snapshot() {
		x := l.export.Load()
		if x == nil {
			continue
		}
		place[x] = len(st.Exports)
		e := ExportStats{Listener: l.Addr(), Name: x.Name, Connected: x.connected.Load(),
			Connections: x.connections.Load(), Failures: x.failures.Load(), Queues: int(x.runs.Load())}
		if e.Connected {
			st.Connections++
		}
		st.Exports = append(st.Exports, e)
	}
	for _, w := range s.workers {
		w.r.Do(func() {
			for x, t := range w.tallies {
				if i, ok := place[x]; ok {
					t.addTo(&st.Exports[i])
				}
			}
		})
	}
	return st
}

func (s *Server) snapshot() []*Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.listeners)
}

// Shutdown removes all sockets, see Listener.Remove.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	all := s.snapshot()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() { errs[i] = l.Remove(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// adopt adds a listener, unless the server is shutting down.
func (s *Server) adopt(l *Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() {
		return fmt.Errorf("vhost-user: %s: the server is shutting down", l.Addr())
	}
	s.listeners = append(s.listeners, l)
	return nil
}

func (s *Server) forget(l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = slices.DeleteFunc(s.listeners, func(o *Listener) bool { return o == l })
}

// worker is the server on one reactor.
type worker struct {
	r       *reactor.Reactor
	tallies map[*export]*tally  // the reactor's
	queues  map[*queue]struct{} // the same; those that have not left
	load    atomic.Int64        // queues here
}

// tally counts an export's requests on one reactor.
type tally struct {
	requests                  volume.Stats
	kicks, calls, resubmitted uint64
}

func (t *tally) addTo(e *ExportStats) {
	e.Kicks += t.kicks
	e.Calls += t.calls
	e.Resubmitted += t.resubmitted
	e.Requests.Add(&t.requests)
}

func (w *worker) tally(x *export) *tally {
	t := w.tallies[x]
	if t == nil {
		t = &tally{}
		w.tallies[x] = t
	}
	return t
}

// place gives the worker for a new queue: that of home, or if that is nil the
// one with the fewest queues. nil: home is not among the server's reactors.
func (s *Server) place(home *reactor.Reactor) *worker {
	var best *worker
	for _, w := range s.workers {
		switch {
		case w.r == home:
			return w
		case home == nil && (best == nil || w.load.Load() < best.load.Load()):
			best = w
		}
	}
	return best
}
