package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/volume"
)

// Listener is a socket that serves one export. In server mode front-ends connect
// to it; in client mode we connect to the front-end and redial when the
// connection has ended. One connection is served at a time: the next one begins
// when nothing of the one before is outstanding any more.
type Listener struct {
	s    *Server
	path string
	l    *net.UnixListener // nil in client mode
	file os.FileInfo       // the socket's, in server mode

	export  atomic.Pointer[export] // nil before Start
	changed chan struct{}          // the volume has news
	leave   chan struct{}          // closed by Remove
	left    chan struct{}          // closed when nothing is left

	mu      sync.Mutex // guards what follows; nothing that blocks is called while it is held
	sock    *socket    // of the moment; nil: none
	removed bool
	unwatch func()
}

// Listen binds a Unix socket for a front-end to connect to. It is served from
// Start on; a front-end that comes before waits. A socket at that path which
// nobody listens on any more is replaced; the socket is unlinked by Remove.
func (s *Server) Listen(path string) (*Listener, error) {
	l := s.newListener(path)
	var err error
	if l.l, err = listen(path, s.o.SocketMode); err != nil {
		return nil, fmt.Errorf("vhost-user: listen on %w", err)
	}
	if l.file, err = os.Lstat(path); err == nil {
		err = s.adopt(l)
	}
	if err != nil {
		l.unbind()
		return nil, err
	}
	return l, nil
}

// Connect prepares a Unix socket at which the front-end listens. From Start on
// it is dialled until somebody answers, and again after each connection.
func (s *Server) Connect(path string) (*Listener, error) {
	l := s.newListener(path)
	if err := s.adopt(l); err != nil {
		return nil, err
	}
	return l, nil
}

func (s *Server) newListener(path string) *Listener {
	return &Listener{s: s, path: path, changed: make(chan struct{}, 1), leave: make(chan struct{}), left: make(chan struct{})}
}

// Addr is where the front-end is met: "unix:PATH".
func (l *Listener) Addr() string { return "unix:" + l.path }

// Start serves an export here, once. Its volume's disk has been seen.
func (l *Listener) Start(e Export) error {
	x, err := newExport(l.s, e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.removed:
		return fmt.Errorf("vhost-user export %q: the socket %s is closed", e.Name, l.Addr())
	case l.export.Load() != nil:
		return fmt.Errorf("vhost-user export %q: the socket %s serves another export already; choose another path", e.Name, l.Addr())
	}
	l.export.Store(x)
	l.unwatch = e.Volume.Watch(func(*volume.Volume) {
		select {
		case l.changed <- struct{}{}:
		default: // one look will see all
		}
	})
	go l.run(x)
	return nil
}

// Remove stops serving: no request is taken any more, those that are outstanding
// are finished and told to the guest, and the connection is closed. What the
// guest has asked for meanwhile stays in its rings, and the in-flight region
// says that nothing is in flight: the next engine goes on from there.
//
// It returns when all that is done. When ctx ends first the front-end is cut
// off; what the volume still has of it keeps its memory until the volume gives
// it back.
func (l *Listener) Remove(ctx context.Context) error {
	l.close()
	select {
	case <-l.left:
		l.forgetTallies()
		l.s.forget(l)
		return nil
	case <-ctx.Done():
	}
	l.hangUp()
	l.s.forget(l)
	return fmt.Errorf("vhost-user %s: the front-end was cut off with requests outstanding: %w", l.Addr(), ctx.Err())
}

// close begins the end, once.
func (l *Listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed {
		return
	}
	l.removed = true
	close(l.leave)
	l.unbind()
	if l.unwatch == nil { // it was never started
		close(l.left)
		return
	}
	l.unwatch()
}

// unbind stops listening and removes the socket's file if it is still ours.
func (l *Listener) unbind() {
	if l.l == nil {
		return
	}
	_ = l.l.Close()
	if now, err := os.Lstat(l.path); l.file != nil && err == nil && os.SameFile(now, l.file) {
		_ = os.Remove(l.path)
	}
}

func (l *Listener) forgetTallies() {
	x := l.export.Load()
	for _, w := range l.s.workers {
		w.r.Do(func() { delete(w.tallies, x) })
	}
}

// run serves one connection after the other until Remove.
func (l *Listener) run(x *export) {
	// Starting a ring reads guest memory, which may vanish (DESIGN chapter 2,
	// rule 9).
	debug.SetPanicOnFault(true)
	defer close(l.left)
	for {
		c, err := l.next()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.s.quiet.warn("vhost-user: cannot accept front-ends, trying again", "export", x.Name, "listener", l.Addr(), "err", err)
			if !l.pause() {
				return
			}
			continue
		}
		l.serve(x, newSocket(c))
		if l.l == nil && !l.pause() {
			return
		}
	}
}

// next gives the next connection. net.ErrClosed: there will be none.
func (l *Listener) next() (*net.UnixConn, error) {
	if l.l != nil {
		return l.l.AcceptUnix()
	}
	dialer := net.Dialer{Timeout: replyTime}
	for first := true; ; first = false {
		c, err := dialer.Dial("unix", l.path)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		if first {
			l.s.log.Info("vhost-user: no front-end yet, trying again", "listener", l.Addr(), "every", l.s.o.RedialEvery, "err", err)
		}
		if !l.pause() {
			return nil, net.ErrClosed
		}
	}
}

// pause waits before the next attempt; false: there is none.
func (l *Listener) pause() bool {
	t := time.NewTimer(l.s.o.RedialEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.leave:
		return false
	}
}

// serve handles a connection from its begin to the end of its last loan.
func (l *Listener) serve(x *export, s *socket) {
	l.mu.Lock()
	l.sock = s
	l.mu.Unlock()
	x.connections.Add(1)
	x.connected.Store(true)
	peer := s.peer()
	l.s.log.Info("vhost-user: front-end connected", "export", x.Name, "listener", l.Addr(), "front-end", peer)

	c := newConn(x, s, l.s.log)
	messages, enough := make(chan received), make(chan struct{})
	go readAll(s, messages, enough)
	err := c.serve(messages, l.changed, l.leave)
	if err != nil {
		x.failures.Add(1)
		l.s.quiet.warn("vhost-user: connection ended", "export", x.Name, "listener", l.Addr(), "front-end", peer, "err", err)
	} else {
		l.s.log.Info("vhost-user: front-end disconnected", "export", x.Name, "listener", l.Addr(), "front-end", peer)
	}
	close(enough)
	c.windUp(err != nil, l.hangUp)
	x.connected.Store(false)
}

// hangUp closes the connection of the moment.
func (l *Listener) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sock != nil {
		_ = l.sock.Close()
		l.sock = nil
	}
}

// readAll receives messages until the connection ends or enough is closed.
func readAll(s stream, to chan<- received, enough <-chan struct{}) {
	for {
		m, err := readMessage(s)
		select {
		case to <- received{m, err}:
		case <-enough:
			if m != nil {
				m.close()
			}
			return
		}
		if err != nil {
			return
		}
	}
}
