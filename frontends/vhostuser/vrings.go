package vhostuser

import (
	"blockengine/frontends/virtqueue"
)

// The messages about rings.

// state takes a payload that names a ring.
func (c *conn) state(m *message) (vringState, *ring, error) {
	s := decodeState(m.payload)
	if uint64(s.index) >= uint64(len(c.rings)) {
		return s, nil, c.noSuchQueue(uint64(s.index))
	}
	return s, &c.rings[s.index], nil
}

func (c *conn) setVringNum(m *message) error {
	s, r, err := c.state(m)
	switch {
	case err != nil:
		return err
	case s.num == 0 || s.num > virtqueue.MaxSize || s.num&(s.num-1) != 0:
		return broken("queue %d: a size of %d: it must be a power of two up to %d", s.index, s.num, virtqueue.MaxSize)
	case r.q != nil && r.num != s.num:
		return broken("queue %d: its size changes from %d to %d while it runs", s.index, r.num, s.num)
	}
	r.num = s.num
	return c.settle(int(s.index))
}

func (c *conn) setVringBase(m *message) error {
	s, r, err := c.state(m)
	switch {
	case err != nil:
		return err
	case s.num > 1<<16-1:
		return broken("queue %d: index %d has more than 16 bits", s.index, s.num)
	case r.q != nil:
		return broken("queue %d: SET_VRING_BASE while it runs", s.index)
	}
	r.base = uint16(s.num)
	return nil
}

func (c *conn) setVringAddr(m *message) error {
	a := decodeAddr(m.payload)
	if uint64(a.index) >= uint64(len(c.rings)) {
		return c.noSuchQueue(uint64(a.index))
	}
	r := &c.rings[a.index]
	switch {
	case a.flags != 0:
		return broken("queue %d: flags %#x: dirty logging is not offered", a.index, a.flags)
	case r.q != nil && (a.desc != r.addr.desc || a.used != r.addr.used || a.avail != r.addr.avail):
		return broken("queue %d: its addresses change while it runs", a.index)
	}
	r.addr, r.placed = a, true
	return c.settle(int(a.index))
}

// getVringBase stops a ring and says where it is to go on. The reply means that
// nothing of it is outstanding: the front-end may take its memory away.
func (c *conn) getVringBase(m *message) error {
	s, r, err := c.state(m)
	if err != nil {
		return err
	}
	if err := c.stopRings(c.x.s.o.StopTimeout, int(s.index)); err != nil {
		// It must not be answered, and the front-end waits for the answer.
		return broken("it cannot be answered: %v", err)
	}
	r.kicked = false
	replace(&r.kick, -1)
	return c.reply(m, vringState{s.index, uint32(r.base)}.encode(), -1)
}

func (c *conn) setVringEnable(m *message) error {
	s, r, err := c.state(m)
	switch {
	case err != nil:
		return err
	case s.num > 1:
		return broken("queue %d: enable with %d, neither 0 nor 1", s.index, s.num)
	}
	r.enabled = s.num == 1
	return c.settle(int(s.index))
}

// setVringKick starts a ring. (The text would wait for the first kick. Whoever
// resumes a ring may not get one: the process that got it has died.)
func (c *conn) setVringKick(m *message) error {
	i, fd, err := c.eventFD(m)
	if err != nil {
		return err
	}
	r := &c.rings[i]
	if q := r.q; q != nil {
		var werr error
		err = c.onReactor(q, func() { werr = q.setKick(fd) })
		if err == nil {
			err = werr
		}
	}
	replace(&r.kick, fd) // the queue does not have the old one any more
	if err != nil {
		return err
	}
	r.kicked = true
	return c.settle(i)
}

func (c *conn) setVringCall(m *message) error {
	i, fd, err := c.eventFD(m)
	if err != nil {
		return err
	}
	r := &c.rings[i]
	if q := r.q; q != nil {
		err = c.onReactor(q, func() { q.setCall(fd) })
	}
	replace(&r.call, fd)
	return err
}

func (c *conn) setVringErr(m *message) error {
	i, fd, err := c.eventFD(m)
	if err != nil {
		return err
	}
	replace(&c.rings[i].errs, fd)
	return nil
}
