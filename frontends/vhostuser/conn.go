package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"blockengine/engine/sys"
	"blockengine/frontends/virtioblk"
	"blockengine/sdk/block"
)

const (
	// replyTime is how long a front-end may take to take a reply.
	replyTime = 10 * time.Second
	// partingTime is how long a connection that has failed stays open for what is
	// outstanding: a front-end that sees it closed may read the rings at once.
	partingTime = 2 * time.Second
)

// conn is a connection with a front-end. It belongs to one goroutine, which
// handles the messages one by one.
type conn struct {
	x      *export
	log    *slog.Logger
	stream stream
	trips  chan error // failures of queues; the first one ends the connection

	device   *virtioblk.Device
	features uint64 // accepted, with featureProtocol
	protocol uint64 // protocol features accepted
	status   uint8  // of the device (virtio 1.2, 2.1)
	rings    []ring
	mem      memory
	inflight *inflightRegion
	back     *net.UnixConn // where we send messages; nil: nowhere
	told     block.Info    // what the guest can know of the disk
	replied  bool          // the message being handled has its reply
}

// newConn makes a connection of which nothing is known yet.
func newConn(x *export, s stream, log *slog.Logger) *conn {
	c := &conn{x: x, log: log, stream: s, trips: make(chan error, 1), rings: make([]ring, x.Queues)}
	for i := range c.rings {
		c.rings[i] = newRing()
	}
	c.device, _ = virtioblk.NewDevice(x.deviceOptions()) // checked when the export was made
	c.told, _ = x.Volume.Info()
	return c
}

// received is a message, or why there are no more.
type received struct {
	m   *message
	err error
}

// serve handles messages until the connection ends or leave is closed, and gives
// why it ended: nil if we leave or the front-end has closed it.
func (c *conn) serve(messages <-chan received, changed <-chan struct{}, leave <-chan struct{}) error {
	for {
		select {
		case got := <-messages:
			if got.err == io.EOF {
				return nil
			}
			if got.err != nil {
				return got.err
			}
			if err := c.take(got.m); err != nil {
				return err
			}
		case <-changed:
			c.diskChanged()
		case err := <-c.trips:
			c.signalErrors()
			return err
		case <-leave:
			return nil
		}
	}
}

// take handles a message and closes the descriptors that nobody has taken.
func (c *conn) take(m *message) error {
	defer m.close()
	f := forms[m.request]
	c.replied = false
	err := f.handle(c, m)
	if err != nil {
		err = fmt.Errorf("%s: %w", f.name, err)
	}
	if c.replied || m.flags&flagNeedReply == 0 || c.protocol&protoReplyAck == 0 || errors.Is(err, errBroken) {
		return err
	}
	if err == nil {
		return c.reply(m, encodeU64(0), -1)
	}
	// What is refused and answered is the front-end's to deal with.
	c.x.s.quiet.warn("vhost-user: request refused", "export", c.x.Name, "err", err)
	return c.reply(m, encodeU64(1), -1)
}

// reply answers m.
func (c *conn) reply(m *message, payload []byte, fd int) error {
	c.replied = true
	if err := c.stream.send(encodeMessage(m.request, flagReply, payload), fd); err != nil {
		return fmt.Errorf("the front-end does not take replies: %w", err)
	}
	return nil
}

// rules are what the queues go by as things stand.
func (c *conn) rules() virtioblk.Rules {
	info, _ := c.x.Volume.Info()
	return c.device.Rules(&info)
}

// spreadRules tells the queues that the rules have changed.
func (c *conn) spreadRules() error {
	rules := c.rules()
	for i := range c.rings {
		if q := c.rings[i].q; q != nil {
			if err := c.onReactor(q, func() { q.rules = rules }); err != nil {
				return err
			}
		}
	}
	return nil
}

// diskChanged tells the guest that its disk has changed, e.g. has grown
// (vhost-user, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).
func (c *conn) diskChanged() {
	info, ok := c.x.Volume.Info()
	if !ok || info == c.told {
		return
	}
	c.told = info
	if err := c.spreadRules(); err != nil {
		return
	}
	if c.back == nil || c.protocol&protoConfig == 0 {
		c.log.Info("vhost-user: the disk has changed, and the guest cannot be told", "export", c.x.Name, "bytes", info.Size)
		return
	}
	_ = c.back.SetWriteDeadline(time.Now().Add(replyTime))
	if _, err := c.back.Write(encodeMessage(backConfigChange, 0, nil)); err != nil {
		c.x.s.quiet.warn("vhost-user: the guest could not be told that the disk has changed", "export", c.x.Name, "err", err)
	}
}

// signalErrors tells the front-end that rings are out of order.
func (c *conn) signalErrors() {
	for i := range c.rings {
		if fd := c.rings[i].errs; fd >= 0 {
			sys.EventfdSignal(fd)
		}
	}
}

// windUp ends what the connection has begun: it stops the rings, waits until
// nothing is outstanding, and only then gives memory and descriptors back.
// hangUp closes the connection itself; it is called when the rings have stopped,
// or when that takes so long that the front-end should know.
func (c *conn) windUp(failed bool, hangUp func()) {
	patience := time.Duration(0)
	if failed {
		patience = partingTime
	}
	err := c.stopRings(patience, c.all()...)
	hangUp()
	if errors.Is(err, errStop) {
		c.log.Warn("vhost-user: waiting for outstanding requests before the memory is given back", "export", c.x.Name, "why", err)
		_ = c.stopRings(0, c.all()...)
	}
	for i := range c.rings {
		if c.rings[i].q != nil {
			return // the reactor has stopped under it: what it has on loan stays
		}
	}
	c.release()
}

// release gives everything back. No ring runs.
func (c *conn) release() {
	for i := range c.rings {
		c.rings[i].close()
	}
	if c.inflight != nil {
		c.inflight.close()
		c.inflight = nil
	}
	if err := c.mem.unmap(); err != nil {
		c.log.Error("vhost-user: guest memory could not be unmapped", "export", c.x.Name, "err", err)
	}
	if c.back != nil {
		_ = c.back.Close()
		c.back = nil
	}
}
