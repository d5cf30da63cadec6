package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// renewEvery is the least time between two looks at what a linked store says of its
// disk because it says that it has changed.
const renewEvery = 100 * time.Millisecond

// Rescan has the plugin look at what is behind the volume, which may have grown,
// and gives the disk as it is then. It comes back when frontends have been told.
// An error says why nothing is known; or that the disk is smaller, or another,
// and then the volume is stopped.
func (d *Disk) Rescan(ctx context.Context) (block.Info, error) {
	if st, why := d.Volume.State(); st != volume.Online {
		return block.Info{}, fmt.Errorf("volume %q is %v and cannot be looked at now: %s", d.Config.Name, st, why)
	}
	var err error
	if s := d.Session(); s != nil {
		err = s.Rescan(ctx)
	} else if l := d.linked.Load(); l != nil {
		err = l.look(ctx, true)
	} else {
		err = errors.New("it is being closed")
	}
	if err != nil {
		return block.Info{}, fmt.Errorf("volume %q: %w", d.Config.Name, err)
	}
	info, _ := d.Volume.Info()
	return info, nil
}

// linkedDisk is an open disk of a store that is linked in.
type linkedDisk struct {
	dev  store.Device
	v    *volume.Volume
	log  *slog.Logger
	last block.Info      // what the device said last; the holder of asking's
	ask  chan struct{}   // holds one: who asks the device
	news chan struct{}   // holds one: the device has said that it has changed
	life context.Context // ends when the device is about to be closed
	end  context.CancelFunc
}

func newLinkedDisk(dev store.Device, v *volume.Volume, info block.Info, log *slog.Logger) *linkedDisk {
	l := &linkedDisk{dev: dev, v: v, log: log, last: info, ask: make(chan struct{}, 1), news: make(chan struct{}, 1)}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// watch has the device say when it changes, if it ever does.
func (l *linkedDisk) watch() {
	if c, ok := l.dev.(store.Changing); ok {
		c.Watch(func() {
			select {
			case l.news <- struct{}{}:
			default: // one look will see all
			}
		})
	}
}

// follow looks whenever the device has said so, until close.
func (l *linkedDisk) follow() {
	for {
		select {
		case <-l.life.Done():
			return
		case <-l.news:
		}
		_ = l.look(l.life, false) // what is wrong is in the log
		select {
		case <-l.life.Done():
			return
		case <-time.After(renewEvery):
		}
	}
}

// look asks the device what it is like, and tells the volume.
func (l *linkedDisk) look(ctx context.Context, rescan bool) error {
	select {
	case l.ask <- struct{}{}:
		defer func() { <-l.ask }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if l.life.Err() != nil {
		return errors.New("it is being closed")
	}
	if r, ok := l.dev.(store.Rescanner); ok && rescan {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(l.life, cancel)() // who closes the disk does not wait for it
		if err := r.Rescan(ctx); err != nil {
			return err
		}
	}
	return l.learn(l.dev.Info())
}

// learn takes in another description, if it is of the same disk (rule 4). l.ask is
// held.
func (l *linkedDisk) learn(info block.Info) error {
	if info == l.last {
		return nil
	}
	if err := session.SameDisk(&l.last, &info); err != nil {
		l.log.Error("volume stopped: it does not go on by itself", "reason", err)
		l.v.SetState(volume.Stopped, err.Error())
		return fmt.Errorf("the volume is stopped: %w", err)
	}
	if info.Size > l.last.Size {
		l.log.Info("the disk has grown", "from", l.last.Size, "to", info.Size)
	}
	l.last = info
	l.v.SetInfo(info)
	if st, why := l.v.State(); st == volume.Stopped {
		return errors.New("the volume is stopped: " + why)
	}
	return nil
}

// close lets nobody ask any more, and waits for who does.
func (l *linkedDisk) close() {
	l.end()
	l.ask <- struct{}{}
}
