package session

import (
	"context"
	"errors"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// ErrNoRescan says that nothing behind the volume can be asked about its disk
// while it is in use.
var ErrNoRescan = errors.New("its plugin is told the disk's size by the server, at a login: " +
	"the engine learns it with the next connection")

// Rescan has the plugin look at what is behind the disk, and comes back when the
// volume knows what is there. An error says why nothing is known, or that it is
// another disk, which has stopped the volume.
func (s *Session) Rescan(ctx context.Context) error {
	if s.Generation().store == nil {
		return ErrNoRescan
	}
	link := s.link()
	if link == nil {
		return errors.New("its plugin's process does not serve it at the moment: it is asked when it does")
	}
	r, ok := link.(guest.Rescanner)
	if !ok {
		return ErrNoRescan
	}
	if err := r.Rescan(ctx); err != nil {
		return err
	}
	s.onEach(func(*channel) {}) // what they were sent before they have taken in
	if st, why := s.opt.Volume.State(); st == volume.Stopped {
		return errors.New("the volume is stopped: " + why)
	}
	return nil
}

// link gives one that serves the volume, nil if none does.
func (s *Session) link() (link guest.Link) {
	s.onEach(func(c *channel) {
		if c.conn != nil && c.conn.state == online {
			link = c.conn.link
		}
	})
	return link
}

// Changed takes in another description of the disk.
func (o *linkOwner) Changed(block.Info) {
	cn := (*conn)(o)
	if cn.state != online || !cn.refresh() {
		return
	}
	if err := cn.learn(); err != nil {
		cn.otherDisk(err)
	}
}

// learn takes in what the connection says of the disk. If it does not fit, the
// link may know more by now: that of another reactor was told of a change first.
func (cn *conn) learn() error {
	for {
		err := cn.s().learn(cn.info, cn.maxConns)
		if err == nil || !cn.refresh() {
			return err
		}
	}
}

// refresh asks the link what the disk is like, and tells whether that is news.
func (cn *conn) refresh() bool {
	if cn.link == nil {
		return false
	}
	info := cn.link.Info()
	info.MaxTransfer = cn.info.MaxTransfer // a slot's buffer has the size that it has
	if info == cn.info {
		return false
	}
	cn.info = info
	return true
}
