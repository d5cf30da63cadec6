package vhostuser

import (
	"errors"
	"fmt"
	"time"

	"blockengine/engine/sys"
	"blockengine/frontends/virtioblk"
	"blockengine/frontends/virtqueue"
)

// ring is what the front-end has said of a virtqueue, and the queue if it runs.
// It belongs to the connection's goroutine.
type ring struct {
	num     uint32 // descriptors, 0: not said
	base    uint16 // index of the next chain to take
	addr    vringAddr
	placed  bool // addr was said
	kicked  bool // SET_VRING_KICK has come: the ring is started
	enabled bool
	paused  bool // what q was told last
	kick    int  // eventfds, -1: none
	call    int
	errs    int
	q       *queue
}

func newRing() ring { return ring{kick: -1, call: -1, errs: -1} }

// replace puts a descriptor in the place of another one, which it closes.
func replace(place *int, fd int) {
	if *place >= 0 {
		_ = sys.Close(*place)
	}
	*place = fd
}

// reset forgets all but where the guest and the front-end are told.
func (r *ring) reset() {
	replace(&r.kick, -1)
	*r = ring{kick: -1, call: r.call, errs: r.errs}
}

func (r *ring) close() {
	replace(&r.kick, -1)
	replace(&r.call, -1)
	replace(&r.errs, -1)
}

// settle starts a ring that has all it needs, and pauses or resumes one that
// runs (vhost-user, "Ring states"). The order in which a front-end brings what a
// ring needs does not matter.
func (c *conn) settle(i int) error {
	r := &c.rings[i]
	enabled := r.enabled || c.features&featureProtocol == 0
	if q := r.q; q != nil {
		if r.paused != enabled {
			return nil
		}
		r.paused = !enabled
		return c.onReactor(q, func() { q.pause(!enabled) })
	}
	if !r.kicked || !enabled || r.num == 0 || !r.placed || len(c.mem.slots) == 0 {
		return nil
	}
	if err := c.startRing(i); err != nil {
		return fmt.Errorf("queue %d cannot be started: %w", i, err)
	}
	return nil
}

// settleAll settles every ring.
func (c *conn) settleAll() error {
	for i := range c.rings {
		if err := c.settle(i); err != nil {
			return err
		}
	}
	return nil
}

// onReactor runs f on a queue's reactor.
func (c *conn) onReactor(q *queue, f func()) error {
	if !q.w.r.Do(f) {
		return errors.New("the reactor has stopped")
	}
	return nil
}

func (c *conn) startRing(i int) error {
	r := &c.rings[i]
	features := c.device.Accepted()
	cfg := virtqueue.Config{
		Index: i, Size: uint16(r.num), Memory: c.mem.table, LastAvail: r.base,
		EventIdx: features&virtioblk.FeatureEventIdx != 0,
		Indirect: features&virtioblk.FeatureIndirectDesc != 0,
		MaxChain: max(int(r.num), virtioblk.MaxChain),
	}
	desc, avail, used := virtqueue.RingSizes(cfg.Size, cfg.EventIdx)
	for _, p := range []struct {
		mem     *[]byte
		at, len uint64
		name    string
	}{
		{&cfg.Desc, r.addr.desc, desc, "descriptor table"},
		{&cfg.Avail, r.addr.avail, avail, "available ring"},
		{&cfg.Used, r.addr.used, used, "used ring"},
	} {
		var err error
		if *p.mem, err = c.mem.at(p.at, p.len); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if c.inflight != nil {
		var err error
		if cfg.Inflight, err = virtqueue.OpenInflight(c.inflight.host, i, c.inflight.queueSize); err != nil {
			return err
		}
	}
	q, err := newQueue(c.x, cfg, c.rules(), r.kick, r.call, c.trips)
	if err != nil {
		return err
	}
	r.q, r.paused = q, false
	c.x.runs.Add(1)
	c.log.Debug("vhost-user queue started", "queue", i, "size", r.num, "reactor", q.w.r.Index(), "resubmitted", q.recovered)
	return nil
}

// errStop says that a ring could not be stopped in time.
var errStop = errors.New("requests are still outstanding")

// stopRings stops rings at the end of a batch and waits until nothing of them is
// outstanding. wait bounds that; 0 waits without end. The rings that have
// stopped know where to go on.
func (c *conn) stopRings(wait time.Duration, which ...int) error {
	var late <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		late = t.C
	}
	for _, i := range which {
		if q := c.rings[i].q; q != nil {
			if err := c.onReactor(q, q.halt); err != nil {
				return err
			}
		}
	}
	var err error
	for _, i := range which {
		r := &c.rings[i]
		if r.q == nil {
			continue
		}
		select {
		case <-r.q.left:
		case <-late:
			return fmt.Errorf("queue %d: %w after %v", i, errStop, wait)
		}
		err = errors.Join(err, r.q.err)
		r.base, r.q = r.q.base, nil
		if r.kick >= 0 {
			// A front-end that finds a kick there would take it for one that
			// nobody has seen (QEMU, virtio_bus_cleanup_host_notifier).
			sys.DrainEventfd(r.kick)
		}
		c.x.runs.Add(-1)
	}
	return err
}

// all are the indices of all rings.
func (c *conn) all() []int {
	is := make([]int, len(c.rings))
	for i := range is {
		is[i] = i
	}
	return is
}
