package vhostuser

import (
	"fmt"
	"net"
	"os"

	"blockengine/engine/sys"
)

// The messages about the device: features, configuration, status.

func (c *conn) nothing(*message) error { return nil }

func (c *conn) getFeatures(m *message) error {
	info, _ := c.x.Volume.Info()
	return c.reply(m, encodeU64(c.device.Features(&info)|featureProtocol), -1)
}

// setFeatures takes the features that the driver has accepted. Rings that run
// go by those they were started with.
func (c *conn) setFeatures(m *message) error {
	features := ne.Uint64(m.payload)
	if features == c.features {
		return nil
	}
	for i := range c.rings {
		if c.rings[i].q != nil {
			return broken("features %#x become %#x while queue %d runs", c.features, features, i)
		}
	}
	if err := c.device.Accept(features &^ featureProtocol); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	c.features = features
	return nil
}

func (c *conn) getProtocolFeatures(m *message) error {
	return c.reply(m, encodeU64(protocolFeatures), -1)
}

func (c *conn) setProtocolFeatures(m *message) error {
	features := ne.Uint64(m.payload)
	if strange := features &^ protocolFeatures; strange != 0 {
		return broken("protocol features %#x that are not offered", strange)
	}
	c.protocol = features
	return nil
}

func (c *conn) getQueueNum(m *message) error {
	return c.reply(m, encodeU64(uint64(len(c.rings))), -1)
}

// getConfig answers with as many bytes as were asked for, or with none if that
// makes no sense (vhost-user, VHOST_USER_GET_CONFIG).
func (c *conn) getConfig(m *message) error {
	offset, size, flags := ne.Uint32(m.payload[0:]), ne.Uint32(m.payload[4:]), ne.Uint32(m.payload[8:])
	if size > maxConfig || offset > maxConfig {
		return c.reply(m, nil, -1)
	}
	b := make([]byte, configHeader+size)
	ne.PutUint32(b[0:], offset)
	ne.PutUint32(b[4:], size)
	ne.PutUint32(b[8:], flags)
	info, _ := c.x.Volume.Info()
	c.device.ReadConfig(&info, uint64(offset), b[configHeader:])
	return c.reply(m, b, -1)
}

// configRestored is the flag of a SET_CONFIG that brings the space as it was
// elsewhere, after a migration.
const configRestored = 1

func (c *conn) setConfig(m *message) error {
	offset, size, flags := ne.Uint32(m.payload[0:]), ne.Uint32(m.payload[4:]), ne.Uint32(m.payload[8:])
	b := m.payload[configHeader:]
	if int(size) != len(b) || flags > configRestored {
		return broken("%d bytes, with flags %#x, and %d bytes sent", size, flags, len(b))
	}
	if err := c.device.WriteConfig(uint64(offset), b, flags == configRestored); err != nil {
		return err
	}
	return c.spreadRules()
}

func (c *conn) getStatus(m *message) error { return c.reply(m, encodeU64(uint64(c.status)), -1) }

// setStatus takes the device's status; 0 resets it (virtio 1.2, 2.1.2).
func (c *conn) setStatus(m *message) error {
	status := ne.Uint64(m.payload)
	if status > 0xff {
		return broken("status %#x has more than 8 bits", status)
	}
	c.status = uint8(status)
	if status == 0 {
		return c.reset()
	}
	return nil
}

func (c *conn) resetDevice(*message) error { return c.reset() }

// reset stops all rings and forgets what the driver has negotiated. Memory,
// in-flight region and where the guest is told stay: front-ends do not bring
// them again.
func (c *conn) reset() error {
	if err := c.stopRings(c.x.s.o.StopTimeout, c.all()...); err != nil {
		return err
	}
	for i := range c.rings {
		c.rings[i].reset()
	}
	c.device.Reset()
	c.features, c.status = 0, 0
	return nil
}

// setBackendReqFD takes the socket on which we may send messages.
func (c *conn) setBackendReqFD(m *message) error {
	f := os.NewFile(uintptr(m.takeFD()), "back-end channel")
	conn, err := net.FileConn(f) // a duplicate
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("%w: the descriptor of the back-end channel: %w", errBroken, err)
	}
	back, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return broken("the descriptor of the back-end channel is no Unix socket")
	}
	if c.back != nil {
		_ = c.back.Close()
	}
	c.back = back
	return nil
}

// eventFD takes the eventfd of a message that names a ring, and the ring's
// index; -1 where the front-end says that there is none.
func (c *conn) eventFD(m *message) (index, fd int, err error) {
	v := ne.Uint64(m.payload)
	if v&^(vringIndexMask|vringNoFD) != 0 {
		return 0, -1, broken("bits %#x that mean nothing", v&^(vringIndexMask|vringNoFD))
	}
	if index = int(v & vringIndexMask); index >= len(c.rings) {
		return 0, -1, c.noSuchQueue(uint64(index))
	}
	if none := v&vringNoFD != 0; none != (len(m.fds) == 0) {
		return 0, -1, broken("queue %d: %d descriptors, with \"no descriptor\" being %v", index, len(m.fds), none)
	} else if none {
		return index, -1, nil
	}
	if err := sys.AdoptEventfd(m.fds[0]); err != nil {
		return 0, -1, fmt.Errorf("%w: queue %d: %w", errBroken, index, err)
	}
	return index, m.takeFD(), nil
}

func (c *conn) noSuchQueue(i uint64) error {
	return broken("queue %d, there are %d", i, len(c.rings))
}
