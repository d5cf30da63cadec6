package vhostuser

import (
	"fmt"

	"blockengine/engine/sys"
	"blockengine/frontends/virtqueue"
)

// inflightRegion is the region in which the rings keep what is in flight. The
// front-end keeps it when we die (vhost-user, "Inflight I/O tracking").
type inflightRegion struct {
	*slot
	queueSize uint16
}

func (r *inflightRegion) close() { _ = r.unmap() }

// getInflightFD makes a region. It is used when the front-end brings it back by
// SET_INFLIGHT_FD.
func (c *conn) getInflightFD(m *message) error {
	a := decodeInflight(m.payload)
	if err := c.checkInflight(a); err != nil {
		return err
	}
	a.size, a.offset = virtqueue.InflightSize(int(a.queues), a.queueSize), 0
	fd, err := sys.SealedMemfd("vhost-user-inflight", int64(a.size))
	if err != nil {
		return broken("it cannot be answered: %v", err)
	}
	err = c.reply(m, a.encode(len(m.payload)), fd)
	_ = sys.Close(fd)
	return err
}

func (c *conn) checkInflight(a inflightArea) error {
	if a.queues == 0 || int(a.queues) > len(c.rings) || a.queueSize == 0 || a.queueSize > virtqueue.MaxSize {
		return broken("%d queues of %d descriptors: there are 1 to %d queues of up to %d", a.queues, a.queueSize, len(c.rings), virtqueue.MaxSize)
	}
	return nil
}

// setInflightFD takes the region that is to be used, which may tell what was in
// flight when a back-end died. Rings that run have another one.
func (c *conn) setInflightFD(m *message) error {
	a := decodeInflight(m.payload)
	if err := c.checkInflight(a); err != nil {
		return err
	}
	need := virtqueue.InflightSize(int(a.queues), a.queueSize)
	switch {
	case a.size < need || a.offset+a.size < a.offset:
		return broken("an area of %d bytes at %d, %d queues of %d descriptors need %d", a.size, a.offset, a.queues, a.queueSize, need)
	case a.offset%8 != 0:
		return broken("an area at offset %d, which is no multiple of 8", a.offset)
	}
	for i := range c.rings {
		if c.rings[i].q != nil {
			return broken("another in-flight region while queue %d runs", i)
		}
	}
	fd := m.takeFD()
	s, err := mapArea(fmt.Sprintf("in-flight region of export %q", c.x.Name), fd, a.offset, need, unshared)
	_ = sys.Close(fd)
	if err != nil {
		return err
	}
	if c.inflight != nil {
		c.inflight.close()
	}
	c.inflight = &inflightRegion{slot: s, queueSize: a.queueSize}
	return nil
}
