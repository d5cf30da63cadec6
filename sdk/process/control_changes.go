package process

import (
	"context"
	"fmt"
	"sync"

	"blockengine/sdk/process/control"
	"blockengine/sdk/store"
)

// changes counts how often a disk has said that it is like something else.
type changes struct {
	mu    sync.Mutex // guards what follows; held for short copies only
	told  uint64
	more  chan struct{} // closed with the next change; nil: nobody waits
	never bool          // the plugin does not tell
	over  bool          // the disk is closed, or about to be
}

// watch has the disk tell. It comes before the disk's first channel.
func (c *changes) watch(dev store.Device) {
	if d, ok := dev.(store.Changing); ok {
		d.Watch(c.note)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.never = true
	c.wake()
}

// note counts a change. It is called from any goroutine of the plugin's.
func (c *changes) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.told++
		c.wake()
	}
}

// end lets nobody wait any more.
func (c *changes) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.wake()
}

// wake tells those who wait. c.mu is held.
func (c *changes) wake() {
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
}

// await waits for more changes than seen, until ctx ends or the disk is closed.
func (c *changes) await(ctx context.Context, seen uint64) (*control.DeviceChanges, error) {
	for {
		c.mu.Lock()
		answer := &control.DeviceChanges{Changes: c.told, Never: c.never || c.over}
		if c.told != seen || answer.Never {
			c.mu.Unlock()
			return answer, nil
		}
		if c.more == nil {
			c.more = make(chan struct{})
		}
		more := c.more
		c.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// open gives a disk that has been opened.
func (s *server) open(number uint64) (*device, error) {
	s.mu.Lock()
	d := s.devices[number]
	s.mu.Unlock()
	if d == nil {
		return nil, fmt.Errorf("device %d is not open", number)
	}
	<-d.opened
	if d.dev == nil {
		return nil, fmt.Errorf("device %d could not be opened", number)
	}
	return d, nil
}

// WatchDevice implements control.Server.
func (s *server) WatchDevice(ctx context.Context, m *control.WatchDevice) (*control.DeviceChanges, error) {
	d, err := s.open(m.Device)
	if err != nil {
		return nil, err
	}
	return d.changes.await(ctx, m.Seen)
}

// DeviceInfo implements control.Server.
func (s *server) DeviceInfo(ctx context.Context, m *control.DeviceInfo) (*control.Info, error) {
	d, err := s.open(m.Device)
	if err != nil {
		return nil, err
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.closed {
		return nil, fmt.Errorf("device %d is closed", m.Device)
	}
	if r, ok := d.dev.(store.Rescanner); ok && m.Rescan {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(d.life, cancel)() // who closes the disk does not wait for it
		if err := r.Rescan(ctx); err != nil {
			return nil, err
		}
	}
	info := control.InfoOf(d.dev.Info())
	return &info, nil
}
