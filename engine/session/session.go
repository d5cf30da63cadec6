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

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/transport"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
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
	Module      guest.Module
	Options     []byte // "name=value\0" in the manifest's order; may hold secrets
	Paths       []transport.Address
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
	copies   bool // the plugin transforms payload
	fences   fenceTable
	counters counters
	channels []atomic.Pointer[channel] // by reactor
	stopped  atomic.Bool
	home     atomic.Pointer[reactor.Reactor] // set with the first limits
	online   atomic.Int32                    // connections that are

	// mu guards what follows. It is held for short copies only, on reactors
	// too, and nothing else is locked under it but the volume's watchers.
	mu       sync.Mutex
	info     *block.Info // as last seen
	data     []byte      // session data
	conns    map[uint32]*conn
	path     int    // index of the path in use
	redirect string // where the server has sent us
	lastErr  string
}

// Open begins to connect. The volume becomes Online when the first connection
// has logged in.
func Open(o Options) (*Session, error) {
	if len(o.Paths) == 0 {
		return nil, fmt.Errorf("volume %q: no [[volume.path]] says where its server is", o.Volume.Name())
	}
	s := &Session{
		opt: o, log: o.Log.With("volume", o.Volume.Name()),
		copies:   o.Module.Manifest().Payload == "copy",
		channels: make([]atomic.Pointer[channel], len(o.Reactors)),
		conns:    map[uint32]*conn{},
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
		s.channels[r.Index()].Store(c)
		c.start()
	}
	c.done = done
	return c, nil
}

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
	Address     string
	Connections int
	LastError   string
}

// Path says where the session is connected and what went wrong last.
func (s *Session) Path() PathStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return PathStatus{s.opt.Paths[s.path].String(), int(s.online.Load()), s.lastErr}
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
	s.path = (s.path + 1) % len(s.opt.Paths)
	s.mu.Unlock()
	if s.online.Load() == 0 {
		if st, _ := s.opt.Volume.State(); st == volume.Online || st == volume.Away {
			s.opt.Volume.SetState(volume.Away, err)
		} else {
			s.opt.Volume.SetState(volume.Opening, err)
		}
	}
}

// learn takes in what a connection says of the disk and refuses another disk
// than the one seen before (rule 4). conns is how many connections the server
// allows.
func (s *Session) learn(info block.Info, conns uint32) error {
	s.mu.Lock()
	old := s.info
	if old != nil {
		if err := sameDisk(old, &info); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	changed := old == nil || *old != info
	s.info = &info
	s.mu.Unlock()
	// Of several connections each is flushed for itself, whatever the server
	// promises: one that has come back after a crash of the server cannot
	// vouch for what was acknowledged on another one before (rule 3).
	told := info
	told.Caps &^= block.CapFlushCoversAll
	if old == nil {
		return s.attach(told, conns)
	}
	if changed {
		if info.Size > old.Size {
			s.log.Info("the disk has grown", "from", old.Size, "to", info.Size)
		}
		s.opt.Volume.SetInfo(told)
	}
	return nil
}

// attach brings the volume online with its first geometry.
func (s *Session) attach(info block.Info, conns uint32) error {
	want := len(s.opt.Reactors)
	if n := s.opt.Connections; n > 0 {
		want = min(want, n)
	}
	if int(conns) < len(s.opt.Reactors) || want < len(s.opt.Reactors) {
		s.home.Store(s.opt.Home)
	}
	return s.opt.Volume.Attach(s, info)
}

// sameDisk compares what must not change behind a volume. A disk may grow.
func sameDisk(old, now *block.Info) error {
	switch {
	case now.Identity != old.Identity:
		return fmt.Errorf("the server now shows disk %q, it was %q: another disk is not written to", now.Identity, old.Identity)
	case now.Size < old.Size:
		return fmt.Errorf("the disk has shrunk from %d to %d bytes", old.Size, now.Size)
	case now.BlockSize != old.BlockSize:
		return fmt.Errorf("the disk's block size was %d and is now %d", old.BlockSize, now.BlockSize)
	case now.Has(block.CapReadOnly) && !old.Has(block.CapReadOnly):
		return errors.New("the disk has become read only")
	}
	return nil
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

// loseAll ends every connection; each is made anew.
func (s *Session) loseAll(why string) {
	for _, c := range s.others(nil) {
		c.ch.r.Post(reactor.MailFunc(func() { c.lose(loss{text: why}) }))
	}
}

// register gives a new connection its number in the session.
func (s *Session) register(c *conn) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Number 0 is the control connection's, whoever holds it at the time.
	n := uint32(0)
	for s.conns[n] != nil {
		n++
	}
	s.conns[n] = c
	return n
}

func (s *Session) unregister(n uint32) {
	s.mu.Lock()
	delete(s.conns, n)
	s.mu.Unlock()
}

// others gives the session's connections but for one.
func (s *Session) others(but *conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		if c != but {
			list = append(list, c)
		}
	}
	return list
}

// publish hands session data to all other connections.
func (s *Session) publish(from *conn, data []byte) {
	copied := append([]byte(nil), data...)
	s.mu.Lock()
	s.data = copied
	s.mu.Unlock()
	for _, c := range s.others(from) {
		c.ch.r.Post(reactor.MailFunc(func() { c.sessionData(copied) }))
	}
}

func (s *Session) sessionData() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

// message carries bytes from one connection to another.
func (s *Session) message(from uint32, to uint32, data []byte) {
	s.mu.Lock()
	c := s.conns[to]
	s.mu.Unlock()
	if c == nil {
		return // it is gone; the protocol's own timers deal with that
	}
	copied := append([]byte(nil), data...)
	c.ch.r.Post(reactor.MailFunc(func() { c.message(from, copied) }))
}

// role of connection n.
func role(n uint32) uint16 {
	if n == 0 {
		return abi.RoleControl
	}
	return abi.RoleData
}
