package kit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/store"
)

// openWait is how long a store may take to open a disk.
const openWait = time.Minute

func storeManifest(s *subject) store.Manifest {
	return store.Manifest{Name: s.manifest.Name, Version: s.manifest.Version, Options: s.manifest.Options,
		FenceOnExit: s.store.FenceOnExit()}
}

// openStore opens the disk of a store plugin in a process, for the suite.
func (r *run) openStore(t sdktest.TB, readOnly bool) store.Device {
	d := &device{t: t, store: r.subject.store, reactor: r.reactor,
		opt: guest.LinkOptions{Volume: "test", ReadOnly: readOnly, Options: encoded(r.subject.manifest, r.values)}}
	link, err := d.newLink()
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	d.first, d.info = link, link.Info()
	return d
}

// device makes a store.Device of a store plugin in another process. Its links
// are on one reactor.
type device struct {
	t       sdktest.TB
	store   guest.Store
	reactor *reactor.Reactor
	opt     guest.LinkOptions
	info    block.Info
	first   guest.Link // until a channel takes it
	last    guest.Link // that was made
}

func (d *device) newLink() (guest.Link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	link, err := d.store.NewLink(ctx, d.opt)
	if err == nil {
		d.last = link
	}
	return link, err
}

// Info implements store.Device.
func (d *device) Info() block.Info { return d.info }

// Rescan implements store.Rescanner.
func (d *device) Rescan(ctx context.Context) error {
	r, ok := d.last.(guest.Rescanner)
	if !ok {
		return errors.New("the link cannot ask what the disk is like")
	}
	if err := r.Rescan(ctx); err != nil {
		return err
	}
	d.info = d.last.Info()
	return nil
}

// Channel implements store.Device.
func (d *device) Channel(done store.Completer) (store.Channel, error) {
	link := d.first
	d.first = nil
	if link == nil {
		var err error
		if link, err = d.newLink(); err != nil {
			return nil, err
		}
	}
	c := &channel{device: d, link: link, done: done, slots: make([]*block.Request, link.Depth())}
	for i := range c.slots {
		c.free = append(c.free, i)
	}
	var err error
	d.reactor.Do(func() { err = link.Start(d.reactor, c) })
	if err != nil {
		d.end(link)
		return nil, err
	}
	return c, nil
}

// Close implements store.Device.
func (d *device) Close() error {
	if d.first != nil {
		return d.end(d.first)
	}
	return nil
}

// end closes a link and waits until the process has let go of it.
func (d *device) end(link guest.Link) error {
	fenced := make(chan struct{})
	d.reactor.Do(func() { link.Close(func(bool) { close(fenced) }) })
	select {
	case <-fenced:
		return nil
	case <-time.After(openWait):
		return fmt.Errorf("the process did not let go of a channel within %v", openWait)
	}
}

// channel is a link; its fields are the reactor's.
type channel struct {
	*device
	link    guest.Link
	done    store.Completer
	slots   []*block.Request // outstanding, by slot
	free    []int
	waiting []*block.Request
	back    []*block.Request // to be posted
	lost    error
}

// Submit implements store.Channel.
func (c *channel) Submit(batch []*block.Request) {
	c.reactor.Do(func() {
		c.waiting = append(c.waiting, batch...)
		c.offer()
	})
}

// offer hands down what waits, as far as there are slots.
func (c *channel) offer() {
	for len(c.waiting) > 0 && (len(c.free) > 0 || c.lost != nil) {
		r := c.waiting[0]
		c.waiting = c.waiting[1:]
		if c.lost != nil {
			r.Status = block.EIO
			c.back = append(c.back, r)
			continue
		}
		slot := c.free[len(c.free)-1]
		c.free = c.free[:len(c.free)-1]
		c.slots[slot] = r
		if r.Op == block.OpWrite {
			to := c.link.Payload(slot)
			for _, seg := range r.Data {
				to = to[copy(to, seg):]
			}
		}
		c.link.Submit(slot, r.Op, r.Flags, r.Offset, r.Length)
	}
	if c.lost == nil {
		c.link.Push()
	}
	c.Turn()
}

// Finished implements guest.LinkOwner.
func (c *channel) Finished(slot int, st block.Status, filled uint64, extents []block.Extent) {
	r := c.slots[slot]
	c.slots[slot] = nil
	c.free = append(c.free, slot)
	r.Status, r.Filled = st, filled
	r.Extents = append(r.Extents, extents...)
	if r.Op == block.OpRead && st == block.OK {
		from := c.link.Payload(slot)[:filled]
		for _, seg := range r.Data {
			from = from[copy(seg, from):]
		}
	}
	c.back = append(c.back, r)
}

// Turn implements guest.LinkOwner.
func (c *channel) Turn() {
	if len(c.back) > 0 {
		back := c.back
		c.back = nil
		c.done.Post(back)
	}
	if len(c.waiting) > 0 && len(c.free) > 0 {
		c.offer()
	}
}

// Changed implements guest.LinkOwner.
func (c *channel) Changed(block.Info) {}

// Lost implements guest.LinkOwner: all that is outstanding fails.
func (c *channel) Lost(err error) {
	c.lost = err
	c.t.Errorf("the plugin's process is lost: %v (sdk/PLUGIN.md, chapter 12)", err)
	for slot, r := range c.slots {
		if r != nil {
			c.slots[slot] = nil
			r.Status = block.EIO
			c.back = append(c.back, r)
		}
	}
	c.offer()
}

// Close implements store.Channel.
func (c *channel) Close() {
	if err := c.end(c.link); err != nil {
		c.t.Errorf("%v (sdk/PLUGIN.md, chapter 12)", err)
	}
}
