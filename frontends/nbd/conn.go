package nbd

import (
	"fmt"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

// phase is where a connection stands in its life.
type phase uint8

const (
	negotiating  phase = iota // the handshake
	transmitting              // requests and replies
	draining                  // reads no more; outstanding requests are finished and answered
	lingering                 // all is sent; the client is given time to take it
	closed                    // no socket; the volume may still have memory of ours
	gone                      // nothing left
)

// Limits of one connection. What is beyond waits in the socket.
const (
	maxInFlight = 256      // requests
	maxPieces   = 512      // of replies that wait to be sent
	connMemory  = 64 << 20 // bytes of chunks and buffers
	lingerTime  = time.Second
)

// conn is a client's connection. It belongs to the reactor of its worker, and
// changes to another one only before it has a queue.
type conn struct {
	l      *Listener
	wk     *worker
	fd     int
	source *reactor.Source
	watch  uint32 // what source is watched for
	timer  reactor.Timer
	phase  phase

	hs     *negotiation // with phase negotiating
	export *export
	q      *volume.Queue
	framing
	allowed [8]uint16 // by command: the flags that are valid
	status  bool      // base:allocation is negotiated

	receiver
	sender

	slots    []*request // in flight, by IO.Tag
	free     []uint16   // unused places in slots
	inFlight int
	mem      int   // bytes of chunks and buffers
	progress int64 // reactor time at which bytes last went in or out
	blocked  bool  // a limit of this connection keeps it from receiving
	waiting  bool  // in worker.waiting
	linger   bool  // end with lingering
}

// negotiation is what only a connection in handshake needs.
type negotiation struct {
	*handshake
	in   []byte // [:handshakeRoom] once something has come
	r, w int
	sent int // bytes of out
}

func newConn(l *Listener, fd int) *conn {
	return &conn{l: l, fd: fd, hs: &negotiation{handshake: newHandshake(l.snapshot)}}
}

// arrive is called on the worker's reactor, with the connection counted in its
// load: at first, and when the chosen export lives there.
func (c *conn) arrive(w *worker) {
	c.wk = w
	w.conns[c] = struct{}{}
	c.timer.Fire = c.tooSlow
	w.r.StartTimer(&c.timer, w.s.o.HandshakeTimeout)
	if w.s.stopping.Load() {
		c.cut()
		return
	}
	if !c.watchFor(sys.EpollIn | sys.EpollRdHup) {
		return
	}
	c.readable = true // what came before is no news to the kernel
	c.negotiate()
}

// watchFor changes what the socket is watched for.
func (c *conn) watchFor(events uint32) bool {
	if c.source != nil {
		c.source.Close()
	}
	src, err := c.wk.r.Add(c.fd, events, c)
	if err != nil {
		c.source = nil
		c.complain("cannot watch a connection", "error", err)
		c.cut()
		return false
	}
	c.source, c.watch = src, events
	src.Again() // what was asked of the old one
	return true
}

// Ready is the reactor's.
func (c *conn) Ready(events uint32) {
	if events&(sys.EpollIn|sys.EpollRdHup|sys.EpollHup|sys.EpollErr) != 0 {
		c.readable = true
		c.hup = c.hup || events&(sys.EpollRdHup|sys.EpollHup|sys.EpollErr) != 0
	}
	if events&sys.EpollOut != 0 {
		c.outBlocked = false
	}
	switch c.phase {
	case negotiating:
		c.negotiate()
	case transmitting:
		c.flush()
		c.receive()
	case draining:
		c.flush()
		c.settle()
	case lingering:
		c.discardInput()
	}
}

// leave ends a connection in order: see Server.Shutdown.
func (c *conn) leave() {
	switch c.phase {
	case negotiating:
		c.cut()
	case transmitting:
		c.linger = true
		c.drain()
	}
}

// drain stops receiving. The socket stays open until the volume has finished
// what is outstanding: a client that sees it closed may rely on nothing of its
// being executed any more (DESIGN chapter 2, rule 1).
func (c *conn) drain() {
	c.phase = draining
	c.submit()
	c.dropInput()
	c.flush()
	c.settle()
}

// settle takes the next step of an ending whose last one is done.
func (c *conn) settle() {
	if c.phase != draining || c.inFlight > 0 || c.unsent() {
		return
	}
	if !c.linger {
		c.cut()
		return
	}
	c.phase = lingering
	c.timer.Fire = c.cut
	c.wk.r.StartTimer(&c.timer, lingerTime)
	// Closing with something unread would reset the connection, and with it
	// lose replies that the client has not taken yet.
	_ = sys.ShutdownSocket(c.fd, sys.ShutWrite)
	c.readable = true
	c.discardInput()
}

// discardInput waits for the client's end while lingering.
func (c *conn) discardInput() {
	k := c.wk.pool.take(c, &c.wk.pool.receiving)
	defer c.wk.drop(k, 1)
	for range 16 {
		n, e := sys.RawRead(c.fd, k.mem)
		switch {
		case e == sys.EINTR:
		case e == sys.EAGAIN:
			return
		case e != 0 || n == 0:
			c.cut()
			return
		}
	}
	c.source.Again()
}

// cut closes the socket at once. The connection stays until the volume has
// given back what it has of it.
func (c *conn) cut() {
	if c.phase >= closed {
		return
	}
	c.phase = closed
	c.wk.r.StopTimer(&c.timer)
	if c.source != nil {
		c.source.Close()
	}
	_ = sys.Close(c.fd)
	c.hs = nil
	c.dropBatch()
	c.dropInput()
	c.dropOutput()
	c.bury()
}

// bury ends a connection that holds nothing any more.
func (c *conn) bury() {
	if c.phase != closed || c.inFlight > 0 {
		return
	}
	c.phase = gone
	if c.q != nil {
		c.q.Close()
		c.export.conns.add(-1)
		c.wk.s.log.Debug("nbd client disconnected", "export", c.export.Name, "listener", c.l.address)
	}
	c.depart()
	c.wk.s.conns.add(-1)
}

// depart takes the connection off its worker.
func (c *conn) depart() {
	delete(c.wk.conns, c)
	c.wk.load.Add(-1)
}

// violate ends a connection whose client broke the protocol.
func (c *conn) violate(format string, args ...any) {
	c.complain("nbd client broke the protocol", "what", fmt.Sprintf(format, args...))
	if c.phase == negotiating {
		c.l.failures.Add(1)
		c.cut()
		return
	}
	c.drain()
}

func (c *conn) tooSlow() {
	c.complain("nbd client took too long to choose an export", "limit", c.wk.s.o.HandshakeTimeout)
	c.l.failures.Add(1)
	c.cut()
}

// complain logs what a client has caused.
func (c *conn) complain(msg string, args ...any) {
	args = append(args, "listener", c.l.address, "client", c.peer())
	if c.export != nil {
		args = append(args, "export", c.export.Name)
	}
	c.wk.s.quiet.warn(msg, args...)
}

// peer says who the client is, for messages.
func (c *conn) peer() string {
	if c.l.path == "" {
		if a, err := sys.PeerAddr(c.fd); err == nil {
			return a.String()
		}
		return "unknown"
	}
	if p, err := sys.PeerCredOf(c.fd); err == nil {
		return fmt.Sprintf("pid %d uid %d", p.PID, p.UID)
	}
	return "unknown"
}
