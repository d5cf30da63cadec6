package ublk

import (
	"context"
	"time"

	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

// keep watches the device: its volume may grow, and others may remove it.
func (d *Device) keep() {
	d.stopWatch = d.o.Volume.Watch(func(*volume.Volume) { poke(d.changed) })
	poke(d.changed) // it may have grown before
	d.keeper.Go(func() {
		said := false
		if d.recovered { // whoever waits for the device has waited long enough
			d.populate()
		}
		for {
			select {
			case <-d.life.Done():
				return
			case <-d.ended:
				if d.lost() {
					return
				}
			case <-d.changed:
				said = d.follow(said)
			}
		}
	})
}

// populate has the queues' buffers in memory, so that no request has to wait for
// the kernel to find some.
func (d *Device) populate() {
	for _, q := range d.queues {
		if err := sys.Populate(q.bufs); err != nil {
			d.log.Warn("buffers come into memory one by one, when they are used", "device", d.Path(), "queue", q.index, "err", err)
			return
		}
	}
}

// poke puts a word into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// follow resizes the device, and says once why it cannot.
func (d *Device) follow(said bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d.o.Timeout)
	defer cancel()
	err := d.Resize(ctx)
	if err != nil && !said {
		d.log.Warn("device keeps its size", "device", d.Path(), "err", err)
	}
	return err != nil
}

// lost notices that the driver takes queues back though nobody here asked it to:
// somebody has removed the device, or has told the driver to quiesce it, and
// waits until we let go of it. It tells whether there is nothing more to watch.
func (d *Device) lost() bool {
	ctx, cancel := context.WithTimeout(d.life, d.o.Timeout)
	defer cancel()
	if d.now() != Serving {
		return true
	}
	if !d.allGone(ctx) || !d.from(Serving, Removed, "") {
		return d.now() != Serving
	}
	d.stopWatch()
	d.releaseAll()
	d.forgetRemoved(ctx)
	d.ctl.close()
	return true
}

// restPatience is how long the driver has to take back a device's tags, once it
// takes one and nothing is outstanding.
const restPatience = time.Second

// allGone waits until the driver has taken all tags back. Quiescing leaves those
// with us whose requests were outstanding, and takes the rest on being asked again.
func (d *Device) allGone(ctx context.Context) bool {
	soon, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	over := func(q *queue) bool { return q.phase == gone && q.idle() }
	if d.await(soon, over) == nil {
		return true
	}
	if d.quiesces && d.await(ctx, (*queue).drained) == nil {
		d.disarmed(ctx)
	}
	return d.await(ctx, over) == nil
}

// forgetRemoved forgets the device, unless the driver still has it: then somebody
// has only taken it away from us.
func (d *Device) forgetRemoved(ctx context.Context) {
	info, err := d.ctl.info(ctx, d.dev.id)
	if err == nil && info.token == d.rec.Token && info.state != stateDead {
		d.journal.close()
		d.from(Removed, Broken, "somebody has told the driver to wait for another server")
		d.log.Error("device was taken away: restart the engine to serve it again", "export", d.o.Name, "device", d.Path())
		return
	}
	d.log.Warn("somebody has removed the device", "export", d.o.Name, "device", d.Path())
	if err := d.forget(); err != nil {
		d.log.Warn("device is still remembered", "device", d.Path(), "err", err)
	}
}

// endKeeper ends the watching and waits for it.
func (d *Device) endKeeper() {
	d.once.Do(func() {
		d.stopWatch()
		d.die()
		d.keeper.Wait()
	})
}

// trouble takes down what a queue complains of; it comes from reactors.
func (d *Device) trouble(err error) {
	if d.from(Serving, Broken, err.Error()) {
		d.log.Error("device is broken: restart the engine to take it over again", "export", d.o.Name, "device", d.Path(), "err", err)
	}
}

// warn tells of what does not end the device; it comes from reactors, too.
func (d *Device) warn(err error) {
	d.log.Warn("device has a trouble", "export", d.o.Name, "device", d.Path(), "err", err)
}
