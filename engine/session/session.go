// Package session is what a volume on a protocol plugin stands on: the
// sessions with its storage server. It carries out the actions of the plugin's
// state machines on sockets and request memory, and owns what is written once
// for all protocols: reconnecting, deadlines, fencing, replay, the check that
// the disk behind is the same disk.
//
// It knows neither frontends nor the runtime that a plugin runs in.
//
// Read first: ARCHITECTURE.md, "Sessions"; DESIGN chapter 2's rules, which the
// comments here refer to by number.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/transport"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// Times that no option sets.
const (
	connectTimeout = 10 * time.Second // to connect, and to log in
	goodbyeTimeout = 2 * time.Second
	firstBackoff   = 50 * time.Millisecond
	maxBackoff     = 5 * time.Second
	steadyAfter    = 10 * time.Second // online that long: the back-off starts anew
)

// maxSlots is how many requests a connection keeps outstanding at most.
const maxSlots = 1024

// Options of a session.
type Options struct {
	Volume      *volume.Volume
	Generation  *Generation         // the first
	Paths       []transport.Address // none for a store
	Reactors    []*reactor.Reactor
	Home        *reactor.Reactor // of the first connection
	Connections int              // at most; 0: one for each reactor
	ReadOnly    bool
	Timeout     time.Duration // how long requests wait for a server
	Fence       time.Duration // rule 1
	TrustCache  bool          // rule 3: on_lost_cache = "trust"
	HostID      [16]byte
	SessionID   [16]byte
	Log         *slog.Logger
}

// Counters count what went wrong, for metrics and status.
type Counters struct {
	Connects, Reconnects, Losses  uint64
	Fences, Replays, Expired      uint64
	Traps, Violations, LostCaches uint64
}

type counters struct {
	connects, reconnects, losses  atomic.Uint64
	fences, replays, expired      atomic.Uint64
	traps, violations, lostCaches atomic.Uint64
}

// Session is a volume.Device.
type Session struct {
	opt      Options
	log      *slog.Logger
	gen      atomic.Pointer[Generation] // of the connections that are made from now on
	fences   fenceTable
	opened   int64 // ns
	counters counters
	channels []atomic.Pointer[channel] // by reactor
	stopped  atomic.Bool
	// The fence of what an earlier engine has left in flight; see owe.
	paying, paid atomic.Bool // it is waited for; it is over
	payTimer     reactor.Timer
	home         atomic.Pointer[reactor.Reactor] // set with the first limits
	online       atomic.Int32                    // connections that are
	trial        atomic.Pointer[trial]           // that waits for a verdict, or nil
	observer     atomic.Pointer[observer]        // of its connections, or nil
	turn         sync.Mutex                      // of who holds channels; before mu

	// mu guards what follows, and the connections and session data of
	// generations. It is held for short copies only, on reactors too, and
	// nothing else is locked under it but the volume's watchers.
	mu       sync.Mutex
	taking   bool                // a takeover is under way: new channels wait for its end
	links    map[*Generation]int // to processes that have the disk open
	info     *block.Info         // as last seen
	maxConns uint32              // that the server allows, as last seen
	path     int                 // index of the path in use
	redirect string              // where the server has sent us
	lastErr  string
}

// Open begins to connect. The volume becomes Online when the first connection
// has logged in.
func Open(o Options) (*Session, error) {
	if len(o.Paths) == 0 && o.Generation.store == nil {
		return nil, fmt.Errorf("volume %q: no [[volume.path]] says where its server is", o.Volume.Name())
	}
	s := &Session{
		opt: o, log: o.Log.With("volume", o.Volume.Name()), opened: sys.Nanotime(),
		channels: make([]atomic.Pointer[channel], len(o.Reactors)),
	}
	s.gen.Store(o.Generation)
	if st := o.Generation.store; st != nil && st.FenceOnExit() {
		s.paid.Store(true) // an earlier engine's process was reaped before this one began
	}
	c := newChannel(s, o.Home)
	s.channels[o.Home.Index()].Store(c)
	o.Home.Post(reactor.MailFunc(c.start))
	return s, nil
}

// Home is the only reactor for the volume's queues, unless the server allows
// as many connections as there are reactors.
func (s *Session) Home() *reactor.Reactor { return s.home.Load() }

// OpenChannel gives the channel on r; see volume.Device.
func (s *Session) OpenChannel(r *reactor.Reactor, done volume.Completer) (volume.Channel, error) {
	c := s.channels[r.Index()].Load()
	if c == nil {
		c = newChannel(s, r)
		s.mu.Lock()
		if s.taking {
			c.hold(holdTakeover)
		}
		s.channels[r.Index()].Store(c)
		s.mu.Unlock()
		c.start()
	}
	c.done = done
	return c, nil
}

// Generation is the one that runs.
func (s *Session) Generation() *Generation { return s.gen.Load() }

// Counters gives a snapshot.
func (s *Session) Counters() Counters {
	c := &s.counters
	return Counters{
		Connects: c.connects.Load(), Reconnects: c.reconnects.Load(), Losses: c.losses.Load(),
		Fences: c.fences.Load(), Replays: c.replays.Load(), Expired: c.expired.Load(),
		Traps: c.traps.Load(), Violations: c.violations.Load(), LostCaches: c.lostCaches.Load(),
	}
}

// PathStatus describes the path in use.
type PathStatus struct {
	Address     string // "" for a store, which has none
	Connections int
	LastError   string
}

// Path says where the session is connected and what went wrong last.
func (s *Session) Path() PathStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := PathStatus{Connections: int(s.online.Load()), LastError: s.lastErr}
	if len(s.opt.Paths) > 0 {
		st.Address = s.opt.Paths[s.path].String()
	}
	return st
}

// Close takes leave of the server. It comes when nothing is outstanding.
func (s *Session) Close() error {
	if s.stopped.Swap(true) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout+time.Second)
	defer cancel()
	var wait []chan struct{}
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			gone := make(chan struct{})
			wait = append(wait, gone)
			c.r.Post(reactor.MailFunc(func() { c.shut(func() { close(gone) }) }))
		}
	}
	for _, gone := range wait {
		select {
		case <-gone:
		case <-ctx.Done():
			return errors.New("the server did not answer the goodbye in time")
		}
	}
	return nil
}

// target gives the address to connect to next: a redirect that the
// configuration allows, or the path in use.
func (s *Session) target() transport.Address {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.opt.Paths {
		if p.String() == s.redirect {
			s.redirect = ""
			return p
		}
	}
	return s.opt.Paths[s.path]
}

// failed notes why a connection could not be had, and turns to the next path.
func (s *Session) failed(err string) {
	s.mu.Lock()
	s.lastErr = err
	s.path = (s.path + 1) % max(len(s.opt.Paths), 1)
	s.mu.Unlock()
	if s.online.Load() == 0 {
		if st, _ := s.opt.Volume.State(); st == volume.Online || st == volume.Away {
			s.opt.Volume.SetState(volume.Away, err)
		} else {
			s.opt.Volume.SetState(volume.Opening, err)
		}
	}
}

// stop ends the volume for good: what waits fails.
func (s *Session) stop(why string) {
	s.log.Error("volume stopped: it does not go on by itself", "reason", why)
	s.opt.Volume.SetState(volume.Stopped, why)
	for i := range s.channels {
		if c := s.channels[i].Load(); c != nil {
			c.r.Post(reactor.MailFunc(c.stop))
		}
	}
}
