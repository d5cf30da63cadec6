package nbdtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Direction of bytes through a [Proxy].
type Direction int

const (
	ToServer Direction = iota // from the client to the target
	ToClient                  // from the target to the client
)

// Side selects which of a proxied connection's two sockets is meant.
type Side int

const (
	BothSides Side = iota
	ClientSide
	ServerSide
)

// Proxy is a middlebox: it listens, forwards each connection to a target and
// passes half-closes and resets on faithfully, until it is told to cut, stall or
// throttle. It ends in t's Cleanup.
type Proxy struct {
	t       testing.TB
	network string
	addr    string
	group   group
	closed  chan struct{}
	gates   [2]gate         // by Direction
	count   [2]atomic.Int64 // bytes passed on, by Direction
	taken   [2]atomic.Int64 // bytes received, by Direction
	rate    [2]atomic.Int64 // bytes per second, by Direction; 0: no limit
	budget  [2]atomic.Int64 // bytes until the cut, by Direction; negative: none

	mu       sync.Mutex // guards what follows
	cutHow   Ending
	listener net.Listener
	target   [2]string // network, address
	refuse   bool
	pairs    map[*pair]bool
	accepted int
}

// pair is one proxied connection.
type pair struct {
	client, server net.Conn
	done           chan struct{} // closed when either side is cut by the proxy
	once           sync.Once
}

// StartProxy listens on network ("unix" or "tcp") at a fresh address and
// forwards to the target.
func StartProxy(t testing.TB, network, targetNetwork, targetAddr string) *Proxy {
	t.Helper()
	network, addr := defaultAddr(t, network, "")
	p := &Proxy{t: t, network: network, addr: addr, closed: make(chan struct{}),
		target: [2]string{targetNetwork, targetAddr}, pairs: map[*pair]bool{}}
	for d := range p.gates {
		p.gates[d].open()
		p.budget[d].Store(-1)
	}
	l, err := listen(network, addr)
	if err != nil {
		t.Fatalf("nbdtest: %v", err)
	}
	p.listener, p.addr = l, l.Addr().String()
	p.group.run("accept", p.accept)
	t.Cleanup(p.end)
	return p
}

func (p *Proxy) end() {
	close(p.closed)
	p.listener.Close()
	for d := range p.gates {
		p.gates[d].open()
	}
	p.Cut(BothSides, FIN)
	p.group.end(p.t, "the proxy at "+p.addr)
}

// Network the proxy listens on.
func (p *Proxy) Network() string { return p.network }

// Addr the proxy listens on.
func (p *Proxy) Addr() string { return p.addr }

// URI of an export through the proxy.
func (p *Proxy) URI(export string) string { return nbdURI(p.network, p.addr, export) }

// SetTarget forwards connections to come to another place.
func (p *Proxy) SetTarget(network, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = [2]string{network, addr}
}

// Refuse closes connections to come at once, as long as it is on.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Cut ends all connections that are there. Cutting one side only leaves the
// other as it is: bytes that are stalled in the proxy can still be delivered to
// a server whose client is gone.
func (p *Proxy) Cut(side Side, how Ending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.cut(side, how)
	}
}

func (c *pair) cut(side Side, how Ending) {
	if side != ServerSide {
		how.end(c.client)
	}
	if side != ClientSide {
		how.end(c.server)
	}
	if side == BothSides {
		c.once.Do(func() { close(c.done) })
	}
}

// CutAfter cuts both sides of a connection when n more bytes have passed in
// direction d, counted over all connections; those n bytes are delivered.
func (p *Proxy) CutAfter(d Direction, n int64, how Ending) {
	p.mu.Lock()
	p.cutHow = how
	p.mu.Unlock()
	p.budget[d].Store(n)
}

// Stall stops passing bytes on in direction d until release is called. What is
// on its way is kept: up to 64 KiB in the proxy, more in the sockets.
func (p *Proxy) Stall(d Direction) (release func()) { return p.gates[d].close() }

// Throttle limits direction d to so many bytes per second; 0: no limit.
func (p *Proxy) Throttle(d Direction, bytesPerSecond int64) { p.rate[d].Store(bytesPerSecond) }

// Bytes is the number of bytes passed on in direction d so far.
func (p *Proxy) Bytes(d Direction) int64 { return p.count[d].Load() }

// Taken is the number of bytes that the proxy received in direction d so far:
// those passed on and those that it holds.
func (p *Proxy) Taken(d Direction) int64 { return p.taken[d].Load() }

// Conns is the number of connections that are there.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

// Accepted is the number of connections ever accepted.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.accepted++
		target, refuse := p.target, p.refuse
		p.mu.Unlock()
		if refuse {
			client.Close()
			continue
		}
		p.group.run("connection", func() { p.forward(client, target) })
	}
}

// forward owns both sockets of a connection until they are closed.
func (p *Proxy) forward(client net.Conn, target [2]string) {
	server, err := net.DialTimeout(target[0], target[1], endTimeout)
	if err != nil {
		abort(client)
		return
	}
	c := &pair{client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	p.pairs[c] = true
	ended := isClosed(p.closed)
	p.mu.Unlock()
	if ended {
		c.cut(BothSides, FIN)
	}
	var both sync.WaitGroup
	both.Add(2)
	p.group.run("to server", func() { defer both.Done(); p.pump(c, ToServer, client, server) })
	p.group.run("to client", func() { defer both.Done(); p.pump(c, ToClient, server, client) })
	both.Wait()
	client.Close()
	server.Close()
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// pump passes bytes on until its source ends, then passes the ending on. If the
// source was cut by the proxy itself, it delivers what it holds and no more.
func (p *Proxy) pump(c *pair, d Direction, from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.taken[d].Add(int64(n))
		if !p.gates[d].wait(c.done) {
			return
		}
		if n > 0 && !p.pass(c, d, to, buf[:n]) {
			return
		}
		if err != nil {
			passEnd(err, to)
			return
		}
	}
}

// passEnd does to one side what happened at the other. A side that the proxy
// cut itself has no ending to pass on: the other stays.
func passEnd(err error, to net.Conn) {
	switch {
	case errors.Is(err, io.EOF):
		if hc, ok := to.(interface{ CloseWrite() error }); ok {
			hc.CloseWrite()
		}
	case errors.Is(err, syscall.ECONNRESET):
		abort(to)
	}
}

// pass writes b under the throttle and the cut's budget; false: the end.
func (p *Proxy) pass(c *pair, d Direction, to net.Conn, b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if rate := p.rate[d].Load(); rate > 0 {
			n = min(n, int(max(1, rate/100)))
			if !sleepUntilDone(time.Duration(n)*time.Second/time.Duration(rate), c.done) {
				return false
			}
		}
		n, cut := p.spend(d, n)
		// Counted first, so that whoever got the bytes finds them counted.
		p.count[d].Add(int64(n))
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		if b = b[n:]; cut {
			p.mu.Lock()
			how := p.cutHow
			p.mu.Unlock()
			c.cut(BothSides, how)
			return false
		}
	}
	return true
}

// spend takes n bytes from the budget until the cut, as many as there are.
func (p *Proxy) spend(d Direction, n int) (int, bool) {
	for {
		left := p.budget[d].Load()
		if left < 0 {
			return n, false
		}
		if left > int64(n) {
			if p.budget[d].CompareAndSwap(left, left-int64(n)) {
				return n, false
			}
		} else if p.budget[d].CompareAndSwap(left, -1) {
			return int(left), true
		}
	}
}

func sleepUntilDone(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
