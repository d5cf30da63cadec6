package volume

import (
	"sync"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// Store makes a Device of a store plugin's.
func Store(d store.Device) Device { return storeDevice{d} }

type storeDevice struct{ d store.Device }

func (s storeDevice) Home() *reactor.Reactor { return nil }

func (s storeDevice) OpenChannel(r *reactor.Reactor, done Completer) (Channel, error) {
	c := &storeChannel{r: r, done: done}
	ch, err := s.d.Channel(c)
	if err != nil {
		return nil, err
	}
	c.ch = ch
	c.fixed, _ = ch.(FixedStore)
	return c, nil
}

func (s storeDevice) Close() error { return s.d.Close() }

// storeChannel turns the volume's requests into the plugin's and back. Beyond
// the store contract it offers stores that are linked in its reactor's ring, and
// takes what they complete at any time on the reactor.
type storeChannel struct {
	r     *reactor.Reactor
	ch    store.Channel
	fixed FixedStore // ch, if it is one
	done  Completer
	reqs  []*block.Request

	// mu guards posted and mailed: what the plugin's own goroutines have
	// finished. It is never held while anything is called.
	mu     sync.Mutex
	posted []*block.Request
	taken  []*block.Request
	mailed bool
}

func (c *storeChannel) Submit(batch []*IO) {
	// The plugin may complete at once and so submit again from within.
	reqs := c.reqs[:0]
	c.reqs = nil
	for _, io := range batch {
		if io.Fixed && io.Op.HasPayload() {
			c.fixed.SubmitFixed(&io.Request, io.Buffer)
			continue
		}
		reqs = append(reqs, &io.Request)
	}
	if len(reqs) > 0 {
		c.ch.Submit(reqs)
		clear(reqs)
	}
	c.reqs = reqs
}

func (c *storeChannel) Close() { c.ch.Close() }

// Ring gives the ring of the channel's reactor.
func (c *storeChannel) Ring() (*iouring.Hub, error) { return iouring.Of(c.r) }

// Complete is called on the reactor.
func (c *storeChannel) Complete(r *block.Request) { c.done.Complete(r.Owner.(*IO)) }

// Post is called from any goroutine.
func (c *storeChannel) Post(batch []*block.Request) {
	c.mu.Lock()
	c.posted = append(c.posted, batch...)
	mail := !c.mailed
	c.mailed = true
	c.mu.Unlock()
	if mail {
		c.r.Post(c)
	}
}

// Deliver completes on the reactor what was posted.
func (c *storeChannel) Deliver() {
	c.mu.Lock()
	c.posted, c.taken = c.taken[:0], c.posted
	c.mailed = false
	c.mu.Unlock()
	for i, r := range c.taken {
		c.taken[i] = nil
		c.done.Complete(r.Owner.(*IO))
	}
}
