package pluginhost

import (
	"context"
	"log/slog"
	"time"

	"blockengine/engine/volume"
	"blockengine/sdk/store"
)

// How long to wait before a store is opened again: doubled each time.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// openStore opens the store and attaches it, and tries until that has worked
// or ctx ends.
func (d *Disk) openStore(ctx context.Context) {
	defer close(d.opened)
	p, values := d.Plugin(), d.optionValues()
	log, said := d.log.With("volume", d.Config.Name, "plugin", p.Name), ""
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		dev, err := p.store.Open(ctx, values.Store(&d.Config))
		if err == nil {
			d.attach(ctx, dev, log)
			return
		}
		if ctx.Err() != nil {
			return
		}
		d.Volume.SetState(volume.Opening, err.Error())
		if err.Error() != said { // the same once more is no news
			said = err.Error()
			log.Warn("volume cannot be opened, it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// attach gives the volume its device. A device whose description makes no
// sense will not make more of it when it is asked again.
func (d *Disk) attach(ctx context.Context, dev store.Device, log *slog.Logger) {
	err := ctx.Err()
	if err == nil {
		info := dev.Info()
		l := newLinkedDisk(dev, d.Volume, info, log)
		l.watch()
		if err = d.Volume.Attach(volume.Store(dev), info); err == nil {
			d.linked.Store(l)
			go l.follow()
			return
		}
		l.close()
	}
	if cerr := dev.Close(); cerr != nil {
		log.Warn("close a store that was not attached", "err", cerr)
	}
	if ctx.Err() == nil {
		d.Volume.SetState(volume.Stopped, err.Error())
		log.Error("volume stopped: it does not go on by itself", "err", err)
	}
}
