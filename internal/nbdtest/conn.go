package nbdtest

import (
	"errors"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
)

// Ending is the way a connection is ended.
type Ending int

const (
	// FIN closes in order. The kernel turns it into a RST on TCP, and into
	// ECONNRESET on a Unix socket, if unread data is left.
	FIN Ending = iota
	// RST aborts. A Unix socket has no RST: there it is the same as FIN.
	RST
)

func (e Ending) end(c net.Conn) error {
	if e == RST {
		return abort(c)
	}
	return c.Close()
}

func abort(c net.Conn) error {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return c.Close()
}

// gate lets pass while it is open. Each close must be released for it to open.
type gate struct {
	mu     sync.Mutex
	closed int
	pass   chan struct{} // closed while the gate is open
}

// open opens the gate for good, whoever closed it.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = 0
	if g.pass == nil {
		g.pass = make(chan struct{})
		close(g.pass)
		return
	}
	select {
	case <-g.pass:
	default:
		close(g.pass)
	}
}

func (g *gate) close() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed++; g.closed == 1 {
		g.pass = make(chan struct{})
	}
	return sync.OnceFunc(g.release)
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == 0 {
		return
	}
	if g.closed--; g.closed == 0 {
		close(g.pass)
	}
}

// wait blocks until the gate is open; false: done was closed first.
func (g *gate) wait(done <-chan struct{}) bool {
	for {
		g.mu.Lock()
		pass := g.pass
		g.mu.Unlock()
		select {
		case <-pass:
			return true
		default:
		}
		select {
		case <-pass:
		case <-done:
			return false
		}
	}
}

// SocketDir gives a directory for Unix sockets with a path short enough for
// them (108 bytes), removed in t's Cleanup.
func SocketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbdt")
	if err != nil {
		t.Fatalf("nbdtest: no directory for sockets: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// nbdURI is the form that libnbd, qemu and fio share.
func nbdURI(network, addr, export string) string {
	name := url.PathEscape(export)
	if network == "unix" {
		return "nbd+unix:///" + name + "?socket=" + addr
	}
	return "nbd://" + addr + "/" + name
}

// isTimeout tells a deadline from an ended connection.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
