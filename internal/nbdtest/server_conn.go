package nbdtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// handshakeTimeout bounds the time a client may take to get to transmission.
const handshakeTimeout = 30 * time.Second

// serverConn is one client of the server. Its reader is the goroutine that
// calls serve; a second one writes replies.
type serverConn struct {
	s       *Server
	num     int
	conn    net.Conn
	neg     Negotiation // as at accept time
	exports []Export

	// Set by the handshake, constant afterwards.
	export     *Export
	structured bool
	extended   bool
	noZeroes   bool
	askedSizes bool   // the client promised to obey size constraints
	metaExport string // export of the last SET_META_CONTEXT
	metaID     uint32 // id of base:allocation, 0: not selected

	done chan struct{} // closed by kill
	wake chan struct{} // holds a token when the queue changed

	mu          sync.Mutex // guards what follows
	idle        *sync.Cond // signalled when outstanding falls or the connection is killed
	killed      bool
	queue       []*outReply
	outstanding int             // requests read, not yet answered on the wire
	cookies     map[uint64]bool // of outstanding requests
}

// newServerConn is called with s.mu held.
func newServerConn(s *Server, conn net.Conn) *serverConn {
	c := &serverConn{s: s, num: s.nconns, conn: conn, neg: s.neg, exports: s.exports,
		done: make(chan struct{}), wake: make(chan struct{}, 1), cookies: map[uint64]bool{}}
	c.idle = sync.NewCond(&c.mu)
	return c
}

// kill ends the connection at once. It may be called several times, by anyone.
func (c *serverConn) kill(how Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return
	}
	c.killed = true
	close(c.done)
	how.end(c.conn)
	c.idle.Broadcast()
}

func (c *serverConn) serve() {
	defer c.kill(FIN)
	c.conn.SetDeadline(time.Now().Add(handshakeTimeout))
	if err := c.handshake(); err != nil {
		c.note(err)
		return
	}
	c.conn.SetDeadline(time.Time{})
	var writer sync.WaitGroup
	writer.Add(1)
	c.s.group.run(fmt.Sprintf("writer of connection %d", c.num), func() {
		defer writer.Done()
		c.writer()
	})
	c.note(c.readRequests())
	if !c.neg.CloseAtEOF {
		c.drain()
	}
	c.kill(FIN)
	writer.Wait()
}

// note keeps violations by the client; how a connection ended is no violation.
func (c *serverConn) note(err error) {
	var bad *ProtocolError
	if errors.As(err, &bad) {
		c.s.violation(c.num, bad)
	}
}

// drain waits until every request is answered or the connection killed.
func (c *serverConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.outstanding > 0 && !c.killed {
		c.idle.Wait()
	}
}

func (c *serverConn) begin(cookie uint64) (fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outstanding++
	fresh = !c.cookies[cookie]
	c.cookies[cookie] = true
	return fresh
}

// settle is called before the end of a reply is sent: from then on the client
// may use the cookie again.
func (c *serverConn) settle(cookie uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cookies, cookie)
}

// finish is called when nothing more is to be sent for a request.
func (c *serverConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outstanding--
	c.idle.Broadcast()
}

// readRequests reads until the client is gone, DISC or kill.
func (c *serverConn) readRequests() error {
	size := sizeRequest
	if c.extended {
		size = sizeRequestEx
	}
	b := make([]byte, size)
	for c.s.reading.wait(c.done) {
		if _, err := io.ReadFull(c.conn, b); err != nil {
			return err
		}
		h, err := decodeHeader(b, c.extended)
		if err != nil {
			return violation("request", "%v", err)
		}
		payload, err := c.readPayload(h)
		if err != nil {
			return err
		}
		if h.Op == CmdDisc {
			return c.disc(h)
		}
		c.handle(h, payload)
	}
	return nil
}

// readPayload reads what follows the header; a length beyond what the server
// told it would take ends the connection.
func (c *serverConn) readPayload(h header) ([]byte, error) {
	has := h.Op == CmdWrite
	if c.extended {
		has = h.Flags&CmdFlagPayloadLen != 0
	}
	if !has {
		return nil, nil
	}
	if h.Length > c.maxPayload() {
		return nil, violation("request", "payload of %d bytes, at most %d are allowed", h.Length, c.maxPayload())
	}
	payload := make([]byte, h.Length)
	_, err := io.ReadFull(c.conn, payload)
	return payload, err
}

func (c *serverConn) maxPayload() uint64 {
	if b := c.export.BlockSize; b != nil {
		return min(uint64(b.MaxPayload), maxPayload)
	}
	return defaultPayload
}

// disc checks that nothing follows DISC, then lets serve drain and close.
func (c *serverConn) disc(h header) error {
	c.s.record(c, h)
	if h.Offset != 0 || h.Length != 0 {
		return violation("DISC", "offset %d and length %d must be 0", h.Offset, h.Length)
	}
	return nil
}
