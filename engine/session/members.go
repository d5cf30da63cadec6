package session

import (
	"blockengine/engine/reactor"
	"blockengine/sdk/abi"
)

// members are the connections of a generation, which make up a session with
// the server, and what they share. Session.mu guards them.
type members struct {
	conns map[uint32]*conn
	data  []byte // session data
}

// register gives a new connection its number in its session.
func (s *Session) register(c *conn) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &c.gen.members
	if m.conns == nil {
		m.conns = map[uint32]*conn{}
	}
	// Number 0 is the control connection's, whoever holds it at the time.
	n := uint32(0)
	for m.conns[n] != nil {
		n++
	}
	m.conns[n] = c
	c.registered = true
	return n
}

func (s *Session) unregister(c *conn) {
	s.mu.Lock()
	delete(c.gen.members.conns, c.number)
	s.mu.Unlock()
}

// move takes a connection, with its number and what it shares, into another
// generation.
func (s *Session) move(c *conn, to *Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := c.gen
	delete(from.members.conns, c.number)
	if to.members.conns == nil {
		to.members.conns = map[uint32]*conn{}
	}
	to.members.conns[c.number] = c
	to.members.data = from.members.data
	c.gen = to
}

// forget drops what a generation's session has shared, when there is to be
// another session.
func (s *Session) forget(g *Generation) {
	s.mu.Lock()
	g.members.data = nil
	s.mu.Unlock()
}

// others gives the connections of c's session but for c.
func (s *Session) others(c *conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(c.gen.members.conns))
	for _, o := range c.gen.members.conns {
		if o != c {
			list = append(list, o)
		}
	}
	return list
}

// loseAll ends the other connections of c's session; each is made anew.
func (s *Session) loseAll(c *conn, why string) {
	for _, o := range s.others(c) {
		o.ch.r.Post(reactor.MailFunc(func() { o.lose(loss{text: why}) }))
	}
}

// publish hands session data to all other connections.
func (s *Session) publish(from *conn, data []byte) {
	copied := append([]byte(nil), data...)
	s.mu.Lock()
	from.gen.members.data = copied
	s.mu.Unlock()
	for _, c := range s.others(from) {
		c.ch.r.Post(reactor.MailFunc(func() { c.sessionData(copied) }))
	}
}

func (s *Session) sessionData(g *Generation) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.members.data
}

// message carries bytes from one connection to another.
func (s *Session) message(from *conn, to uint32, data []byte) {
	s.mu.Lock()
	c := from.gen.members.conns[to]
	s.mu.Unlock()
	if c == nil {
		return // it is gone; the protocol's own timers deal with that
	}
	copied, n := append([]byte(nil), data...), from.number
	c.ch.r.Post(reactor.MailFunc(func() { c.message(n, copied) }))
}

// role of connection n.
func role(n uint32) uint16 {
	if n == 0 {
		return abi.RoleControl
	}
	return abi.RoleData
}
