package vhostuser

import (
	"fmt"

	"blockengine/engine/sys"
)

// The messages about guest memory.

func (c *conn) owner() string { return fmt.Sprintf("guest memory of export %q", c.x.Name) }

// setMemTable replaces the whole of guest memory.
func (c *conn) setMemTable(m *message) error {
	n := uint64(ne.Uint32(m.payload))
	if n == 0 || n > maxTableSlots || uint64(len(m.payload)) != 8+n*regionBytes || uint64(len(m.fds)) != n {
		return broken("%d regions in %d bytes with %d descriptors; 1 to %d regions of %d bytes have one descriptor each",
			n, len(m.payload), len(m.fds), maxTableSlots, regionBytes)
	}
	next, err := c.mapTable(m)
	if err != nil {
		return err
	}
	return c.changeMemory(next)
}

// mapTable maps all regions of a table, or none.
func (c *conn) mapTable(m *message) (next memory, err error) {
	var made memory // to be undone
	defer func() {
		if err != nil {
			_ = made.unmap()
		}
	}()
	for i, fd := range m.takeFDs() {
		r := decodeRegion(m.payload[8+i*regionBytes:])
		if err == nil {
			var s *slot
			if s, err = mapSlot(c.owner(), r, fd); err == nil {
				made.slots = append(made.slots, s)
			}
		}
		_ = sys.Close(fd) // a mapping keeps its file
	}
	if err != nil {
		return memory{}, err
	}
	return (&memory{}).with(made.slots...)
}

// changeMemory goes over to other memory. Rings that run are stopped for that,
// because what they have on loan lies in the old one, and go on in the new one.
func (c *conn) changeMemory(next memory) error {
	if err := c.stopRings(c.x.s.o.StopTimeout, c.all()...); err != nil {
		_ = drop(next, c.mem)
		return broken("memory cannot be given back: %v", err)
	}
	old := c.mem
	c.mem = next
	if err := drop(old, next); err != nil {
		return err
	}
	return c.settleAll()
}

// drop unmaps the slots of old that are not in kept.
func drop(old, kept memory) error {
	var gone memory
	for _, s := range old.slots {
		if kept.find(s.region) != s {
			gone.slots = append(gone.slots, s)
		}
	}
	return gone.unmap()
}

func (c *conn) getMaxMemSlots(m *message) error { return c.reply(m, encodeU64(maxSlots), -1) }

// addMemReg adds a region; rings that run see it from their next requests on.
func (c *conn) addMemReg(m *message) error {
	fd := m.takeFD()
	s, err := mapSlot(c.owner(), decodeRegion(m.payload[8:]), fd)
	_ = sys.Close(fd)
	if err != nil {
		return err
	}
	next, err := c.mem.with(s)
	if err != nil {
		_ = s.unmap()
		return err
	}
	c.mem = next
	for i := range c.rings {
		if q := c.rings[i].q; q != nil {
			if err := c.onReactor(q, func() { q.vq.SetMemory(next.table) }); err != nil {
				return err
			}
		}
	}
	return c.settleAll()
}

// remMemReg takes a region away.
func (c *conn) remMemReg(m *message) error {
	r := decodeRegion(m.payload[8:])
	s := c.mem.find(r)
	if s == nil {
		return broken("%v: there is none such", r)
	}
	next, err := c.mem.without(s)
	if err != nil {
		return err
	}
	return c.changeMemory(next)
}
