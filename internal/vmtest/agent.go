package vmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"blockengine/internal/vmtest/wire"
)

// maxOutput bounds what is kept of a command's output, in bytes; the rest is
// dropped, the status is not.
const maxOutput = 16 << 20

// errNoAgent says that the connection with the agent has ended.
var errNoAgent = errors.New("the guest's agent is gone")

// agentConn is the connection with the agent in the guest.
type agentConn struct {
	conn net.Conn
	gone chan struct{} // closed when there is nothing to be read any more
	here chan error    // the agent's first word

	mu      sync.Mutex // guards what follows; never held while waiting
	lastID  uint64
	waiting map[uint64]*call
}

// call is a request on its way.
type call struct {
	mu     sync.Mutex // guards output
	output []byte
	status int           // set before done is closed
	err    error         // likewise: the agent could not carry it out
	done   chan struct{} // closed at the last reply
}

func newAgentConn(c net.Conn) *agentConn {
	a := &agentConn{conn: c, gone: make(chan struct{}), here: make(chan error, 1), waiting: map[uint64]*call{}}
	go a.receive()
	return a
}

// hello waits for the agent's first word.
func (a *agentConn) hello(ctx context.Context) error {
	select {
	case err := <-a.here:
		return err
	case <-a.gone:
		return errNoAgent
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// receive hands replies out until the connection ends.
func (a *agentConn) receive() {
	defer close(a.gone)
	in := json.NewDecoder(bufio.NewReader(a.conn))
	for {
		var r wire.Reply
		if in.Decode(&r) != nil {
			return
		}
		if r.ID == 0 {
			a.first(r)
			continue
		}
		a.mu.Lock()
		c := a.waiting[r.ID]
		if r.Done {
			delete(a.waiting, r.ID)
		}
		a.mu.Unlock()
		if c != nil {
			c.take(r)
		}
	}
}

func (a *agentConn) first(r wire.Reply) {
	var err error
	if r.Error != "" {
		err = errors.New(r.Error)
	}
	select {
	case a.here <- err:
	default:
	}
}

func (c *call) take(r wire.Reply) {
	c.mu.Lock()
	c.output = append(c.output, r.Output[:min(len(r.Output), maxOutput-len(c.output))]...)
	c.mu.Unlock()
	if !r.Done {
		return
	}
	c.status = r.Status
	if r.Error != "" {
		c.err = fmt.Errorf("the agent: %s", r.Error)
	}
	close(c.done)
}

func (c *call) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.output)
}

// start sends a request and gives its ID and where the answer comes.
func (a *agentConn) start(r wire.Request) (uint64, *call, error) {
	c := &call{done: make(chan struct{})}
	a.mu.Lock()
	a.lastID++
	r.ID = a.lastID
	a.waiting[r.ID] = c
	a.mu.Unlock()
	return r.ID, c, a.send(r)
}

// wait waits for the answer's end.
func (a *agentConn) wait(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return c.err
	default:
	}
	select {
	case <-c.done:
		return c.err
	case <-a.gone:
		return errNoAgent
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send writes one request; requests are short, so the port always has room.
func (a *agentConn) send(r wire.Request) error {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = a.conn.Write(append(line, '\n'))
	}
	return err
}

func (a *agentConn) close() {
	a.conn.Close()
	<-a.gone
}
