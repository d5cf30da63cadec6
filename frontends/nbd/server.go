package nbd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
)

// Options of a Server; the zero value of each but Reactors has a default.
type Options struct {
	Reactors []*reactor.Reactor // running ones; connections are spread over them
	Log      *slog.Logger       // default: slog.Default()

	// MaxConns bounds the connections of all listeners together, default
	// 4096. Further ones are closed at once.
	MaxConns int
	// HandshakeTimeout is how long a client may take to choose an export,
	// default 10 s.
	HandshakeTimeout time.Duration
	// Memory bounds what all connections together hold for requests and
	// replies, in bytes, default 512 MiB, at least 64 MiB a reactor.
	// Connections that want more wait; one that holds much of it and stands
	// still for 5 s while others wait is cut.
	Memory int
	// SocketMode is the mode of Unix sockets, default 0600: whoever may
	// write to the socket may use the exports.
	SocketMode os.FileMode
}

// Server serves exports behind any number of listeners. Its methods are safe
// from any goroutine but a reactor's.
type Server struct {
	o        Options
	log      *slog.Logger
	quiet    *quiet
	workers  []*worker
	conns    census // connections that hold anything
	stopping atomic.Bool

	mu        sync.Mutex // guards listeners; the reactors are asked while it is held, they never take it
	listeners []*Listener
}

// NewServer makes a server without listeners.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.MaxConns == 0 {
		o.MaxConns = 4096
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.Memory == 0 {
		o.Memory = 512 << 20
	}
	if o.SocketMode == 0 {
		o.SocketMode = 0o600
	}
	s := &Server{o: o, log: o.Log}
	s.quiet = &quiet{log: o.Log}
	for _, r := range o.Reactors {
		s.workers = append(s.workers, newWorker(s, r, max(minWorkerMemory, o.Memory/len(o.Reactors))))
	}
	return s
}

// Stats is what a server has done and does.
type Stats struct {
	Connections int // in handshake, in transmission, or being wound up
	Exports     []ExportStats
	Listeners   []ListenerStats
}

// ExportStats counts an export's clients and their requests.
type ExportStats struct {
	Listener    string // its address
	Name        string
	Connections int
	Requests    volume.Stats
}

// ListenerStats counts a listener's connections.
type ListenerStats struct {
	Address           string
	Accepted          uint64
	Refused           uint64 // beyond MaxConns, or no descriptors left
	HandshakeFailures uint64 // broken protocol, unknown export, too slow
}

// Stats asks every reactor for its part.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Connections: s.conns.count()}
	place := map[*export]int{}
	for _, l := range s.listeners {
		st.Listeners = append(st.Listeners, l.stats())
		for _, e := range l.snapshot() {
			place[e] = len(st.Exports)
			st.Exports = append(st.Exports, ExportStats{Listener: l.address, Name: e.Name, Connections: e.conns.count()})
		}
	}
	for _, w := range s.workers {
		w.r.Do(func() {
			for e, t := range w.tallies {
				if i, ok := place[e]; ok {
					st.Exports[i].Requests.Add(&t.requests)
				}
			}
		})
	}
	return st
}

// Shutdown stops listening, closes what has not chosen an export yet, lets the
// requests that have arrived finish and be answered, and closes. Requests that
// arrive later are not read. When ctx ends first the connections are cut; what
// a volume still has of them keeps its memory until the volume gives it back.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	s.mu.Lock()
	for _, l := range s.listeners {
		l.close()
	}
	s.listeners = nil
	s.mu.Unlock()
	for _, w := range s.workers {
		w.r.Post(reactor.MailFunc(func() { w.each(func(c *conn) { c.leave() }) }))
	}
	select {
	case <-s.conns.empty():
		return nil
	case <-ctx.Done():
	}
	for _, w := range s.workers {
		w.r.Do(func() { w.each(func(c *conn) { c.cut() }) })
	}
	if n := s.conns.count(); n > 0 {
		return fmt.Errorf("nbd: %d connections cut with requests outstanding: %w", n, ctx.Err())
	}
	return fmt.Errorf("nbd: connections cut before their clients had all replies: %w", ctx.Err())
}

// worker is the server on one reactor; all of it belongs to that reactor, but
// load.
type worker struct {
	s       *Server
	r       *reactor.Reactor
	pool    pool
	conns   map[*conn]struct{}
	tallies map[*export]*tally
	out     iovecs
	waiting []*conn // for memory
	waker   reactor.Deferred
	trimmer reactor.Timer
	starved reactor.Timer
	stall   time.Duration // stallTime
	load    atomic.Int64  // connections here or on their way here
}

// minWorkerMemory lets the largest request through, beside others.
const minWorkerMemory = 64 << 20

// tally counts an export's requests on one reactor.
type tally struct {
	requests volume.Stats
}

func newWorker(s *Server, r *reactor.Reactor, limit int) *worker {
	w := &worker{s: s, r: r, pool: newPool(limit), conns: map[*conn]struct{}{}, tallies: map[*export]*tally{}, stall: stallTime}
	w.waker.Run = w.wake
	w.trimmer.Fire = w.trim
	w.starved.Fire = w.relieve
	return w
}

// each calls f for the connections here; f may end them.
func (w *worker) each(f func(*conn)) {
	for c := range w.conns {
		f(c)
	}
}

func (w *worker) tally(e *export) *tally {
	t := w.tallies[e]
	if t == nil {
		t = &tally{}
		w.tallies[e] = t
	}
	return t
}

// leastLoaded is where a new connection goes.
func (s *Server) leastLoaded() *worker {
	best := s.workers[0]
	for _, w := range s.workers[1:] {
		if w.load.Load() < best.load.Load() {
			best = w
		}
	}
	return best
}

// workerOn is the worker of a reactor, which may be nil for "any".
func (s *Server) workerOn(r *reactor.Reactor) *worker {
	for _, w := range s.workers {
		if w.r == r {
			return w
		}
	}
	return nil
}
