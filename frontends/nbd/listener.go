package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

const (
	backlog     = 1024
	acceptBurst = 64                     // connections taken in one turn
	acceptRest  = 200 * time.Millisecond // without descriptors: until trying again
)

// Listener is an address at which exports are served. Its methods are safe
// from any goroutine but a reactor's.
type Listener struct {
	s       *Server
	w       *worker // whose reactor accepts
	fd      int
	spare   int // a descriptor to give up when there are none left; -1 if lost
	address string
	unix    fs.FileInfo // the socket's file, nil for TCP
	path    string
	source  *reactor.Source
	retry   reactor.Timer

	accepted, refused, failures atomic.Uint64

	mu      sync.Mutex                // guards changes of exports and closed
	exports atomic.Pointer[[]*export] // by name; replaced, never changed
	closed  bool
}

// Listen begins to accept connections on "tcp" HOST:PORT or "unix" PATH.
// A Unix socket that nobody listens on any more is replaced; one that somebody
// does is an error, as is a TCP port in use. Its mode is Options.SocketMode,
// and it is unlinked when the listener closes.
func (s *Server) Listen(network, address string) (*Listener, error) {
	at, err := resolve(network, address)
	if err != nil {
		return nil, err
	}
	if s.stopping.Load() {
		return nil, fmt.Errorf("nbd: listen on %v: the server is shutting down", at)
	}
	fd, err := listen(at, s.o.SocketMode)
	if err != nil {
		return nil, err
	}
	l := &Listener{s: s, w: s.leastLoaded(), fd: fd, spare: -1, path: at.Path}
	l.exports.Store(&[]*export{})
	if err := l.start(at); err != nil {
		l.release()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() {
		l.close()
		return nil, fmt.Errorf("nbd: listen on %v: the server is shutting down", at)
	}
	s.listeners = append(s.listeners, l)
	return l, nil
}

// start puts the socket on its reactor.
func (l *Listener) start(at sys.SocketAddr) error {
	bound, err := sys.LocalAddr(l.fd)
	if err != nil {
		return err
	}
	l.address = bound.String()
	if at.Path != "" {
		l.address = at.String()
		if l.unix, err = os.Lstat(at.Path); err != nil {
			return fmt.Errorf("nbd: listen on %v: %w", at, err)
		}
	}
	if l.spare, err = sys.OpenSpare(); err != nil {
		return fmt.Errorf("nbd: listen on %v: %w (raise the limit on open files: ulimit -n)", at, err)
	}
	l.retry.Fire = func() { l.accept() }
	ran := l.w.r.Do(func() { l.source, err = l.w.r.Add(l.fd, sys.EpollIn, l) })
	if !ran {
		return errors.New("nbd: listen: the reactor has stopped")
	}
	return err
}

// Addr is where clients connect: "tcp:HOST:PORT" or "unix:PATH". A port 0 that
// was asked for has become the one that the kernel chose.
func (l *Listener) Addr() string { return l.address }

// Add serves an export here.
func (l *Listener) Add(e Export) error {
	if err := e.check(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("nbd export %q: the listener %s is closed", e.Name, l.address)
	}
	all := l.snapshot()
	at, taken := find(all, e.Name)
	if taken {
		return fmt.Errorf("nbd export %q: %s serves one of this name already; choose another name or listener", e.Name, l.address)
	}
	all = slices.Insert(slices.Clone(all), at, &export{Export: e, listener: l})
	l.exports.Store(&all)
	return nil
}

// Remove stops serving an export: new clients do not find it, those there are
// have their outstanding requests answered and are closed. It returns when the
// last one is gone; when ctx ends first, they are cut.
func (l *Listener) Remove(ctx context.Context, name string) error {
	e := l.take(name)
	if e == nil {
		return fmt.Errorf("nbd export %q: %s serves none of this name", name, l.address)
	}
	e.removed.Store(true)
	l.s.onConns(e, (*conn).leave)
	var err error
	select {
	case <-e.conns.empty():
	case <-ctx.Done():
		l.s.onConns(e, (*conn).cut)
		err = fmt.Errorf("nbd export %q: %d connections cut: %w", name, e.conns.count(), ctx.Err())
	}
	for _, w := range l.s.workers {
		w.r.Do(func() { delete(w.tallies, e) })
	}
	return err
}

// onConns calls f for the connections of an export, on their reactors.
func (s *Server) onConns(e *export, f func(*conn)) {
	for _, w := range s.workers {
		w.r.Do(func() {
			w.each(func(c *conn) {
				if c.export == e {
					f(c)
				}
			})
		})
	}
}

// take removes an export from the list.
func (l *Listener) take(name string) *export {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.snapshot()
	at, ok := find(all, name)
	if !ok {
		return nil
	}
	e := all[at]
	all = slices.Delete(slices.Clone(all), at, at+1)
	l.exports.Store(&all)
	return e
}

// snapshot is the exports as they are now, sorted; it is not to be changed.
func (l *Listener) snapshot() []*export { return *l.exports.Load() }

func find(all []*export, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(e *export, n string) int { return cmp.Compare(e.Name, n) })
}

// lookup finds the export that a client names. Who names none gets the one
// called "", or the only one there is.
func lookup(all []*export, name string) *export {
	if i, ok := find(all, name); ok {
		return all[i]
	}
	if name == "" && len(all) == 1 {
		return all[0]
	}
	return nil
}

func (l *Listener) stats() ListenerStats {
	return ListenerStats{Address: l.address, Accepted: l.accepted.Load(), Refused: l.refused.Load(), HandshakeFailures: l.failures.Load()}
}

// close stops accepting.
func (l *Listener) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.w.r.Do(func() {
		l.w.r.StopTimer(&l.retry)
		l.source.Close()
	})
	l.release()
}

// release gives the descriptors back, and the socket's file if it is still ours.
func (l *Listener) release() {
	_ = sys.Close(l.fd)
	if l.spare >= 0 {
		_ = sys.Close(l.spare)
	}
	if now, err := os.Lstat(l.path); l.unix != nil && err == nil && os.SameFile(now, l.unix) {
		_ = os.Remove(l.path)
	}
}

// Ready accepts; it is the reactor's.
func (l *Listener) Ready(uint32) { l.accept() }

func (l *Listener) accept() {
	for range acceptBurst {
		fd, e := sys.Accept(l.fd)
		switch e {
		case 0:
			l.welcome(fd)
		case sys.EAGAIN:
			return
		case sys.EINTR, sys.ECONNABORTED:
		case sys.EMFILE, sys.ENFILE:
			switch l.turnAway() {
			case 0:
			case sys.EAGAIN: // without a descriptor the kernel does not say so
				return
			default:
				l.pause(e)
				return
			}
		default:
			l.pause(e)
			return
		}
	}
	l.source.Again()
}

// turnAway uses the spare descriptor to accept and close one connection, so
// that its client hears of it and the queue does not stand still. It gives
// what the kernel said; EAGAIN: nobody is waiting.
func (l *Listener) turnAway() sys.Errno {
	if l.spare < 0 {
		return sys.EMFILE
	}
	_ = sys.Close(l.spare)
	fd, e := sys.Accept(l.fd)
	if e == 0 {
		_ = sys.Close(fd)
		l.refused.Add(1)
		l.s.quiet.warn("nbd: connection refused: no file descriptors left; raise the limit on open files (ulimit -n, LimitNOFILE)", "listener", l.address)
	}
	var err error
	if l.spare, err = sys.OpenSpare(); err != nil {
		l.spare = -1
		return sys.EMFILE
	}
	return e
}

// pause tries again later: the cause is outside, and without a new connection
// there would be no news from the kernel.
func (l *Listener) pause(e sys.Errno) {
	l.s.quiet.warn("nbd: cannot accept connections, trying again", "listener", l.address, "error", e, "in", acceptRest)
	if l.spare < 0 {
		l.spare, _ = sys.OpenSpare()
		if l.spare < 0 {
			l.spare = -1
		}
	}
	l.w.r.StartTimer(&l.retry, acceptRest)
}

// welcome gives a connection to a worker.
func (l *Listener) welcome(fd int) {
	s := l.s
	if s.stopping.Load() || !s.conns.join(s.o.MaxConns) {
		l.refused.Add(1)
		_ = sys.Close(fd)
		s.quiet.warn("nbd: connection refused: as many as allowed are open", "listener", l.address, "limit", s.o.MaxConns)
		return
	}
	l.accepted.Add(1)
	tune(fd, l.path == "")
	c := newConn(l, fd)
	w := s.leastLoaded()
	w.load.Add(1)
	if w == l.w {
		c.arrive(w)
		return
	}
	w.r.Post(reactor.MailFunc(func() { c.arrive(w) }))
}
