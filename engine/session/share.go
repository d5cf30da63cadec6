package session

import (
	"sync"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
)

// A server may promise that it takes several connections and then not admit
// them: it limits its clients, or a rule refuses one. The channel of a reactor
// whose connection cannot be had while another's is there hands its requests
// to that one, and goes on trying. It is slower by two mails a batch.

// exchange is what other reactors have left for a channel.
type exchange struct {
	// mu guards what follows; nothing is called while it is held.
	mu       sync.Mutex
	arrived  []*volume.IO // to be carried out here, for another channel
	returned []*volume.IO // carried out by another channel
	spare    [2][]*volume.IO
	mailed   bool
}

// leave puts requests into one of the lists and sends mail if none is under way.
func (c *channel) leave(list *[]*volume.IO, ios ...*volume.IO) {
	c.ex.mu.Lock()
	*list = append(*list, ios...)
	mail := !c.ex.mailed
	c.ex.mailed = true
	c.ex.mu.Unlock()
	if mail {
		c.r.Post((*exchangeMail)(c))
	}
}

type exchangeMail channel

var _ reactor.Mail = (*exchangeMail)(nil)

// Deliver is called on the channel's reactor.
func (m *exchangeMail) Deliver() {
	c := (*channel)(m)
	c.ex.mu.Lock()
	arrived, returned := c.ex.arrived, c.ex.returned
	c.ex.arrived, c.ex.returned = c.ex.spare[0][:0], c.ex.spare[1][:0]
	c.ex.mailed = false
	c.ex.mu.Unlock()
	for i, io := range arrived {
		c.enqueue(io)
		arrived[i] = nil
	}
	for i, io := range returned {
		io.Lower.Origin = nil
		c.done.Complete(io)
		returned[i] = nil
	}
	c.ex.spare = [2][]*volume.IO{arrived, returned}
}

// handOver gives what waits to a channel that has a connection, if this one
// cannot get one.
func (c *channel) handOver() {
	if !c.without || c.waiting.Len() == 0 {
		return
	}
	other := c.s.otherOnline(c)
	if other == nil {
		return
	}
	batch := make([]*volume.IO, 0, c.waiting.Len())
	for io := c.waiting.popFront(); io != nil; io = c.waiting.popFront() {
		if io.Lower.Origin == nil {
			io.Lower.Origin = c
		}
		batch = append(batch, io)
	}
	other.leave(&other.ex.arrived, batch...)
}

// otherOnline gives a channel with a connection, other than c, or nil.
func (s *Session) otherOnline(c *channel) *channel {
	for i := range s.channels {
		if o := s.channels[i].Load(); o != nil && o != c && o.up.Load() {
			return o
		}
	}
	return nil
}
