package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/volume"
)

// drain ends the engine in order: upgrades are given up, what clients have sent
// is answered, volumes are flushed and take leave of their servers, sockets are
// removed. When ctx ends first the rest is cut; the error says what that was.
func (e *engine) drain(ctx context.Context) error {
	e.draining.Store(true)
	close(e.quit)
	e.endOrders(ctx)
	e.log.Debug("drained: orders")
	e.stopOpen()
	e.watching.Wait()
	e.awaitOpenings(ctx)
	d := drained{busy: map[*pluginhost.Disk]bool{}, closed: map[*pluginhost.Disk]bool{}}
	e.closeOwnClients(ctx, &d)
	e.log.Debug("drained: volumes whose server is this engine")
	e.removeExports(ctx, e.exports, &d)
	e.log.Debug("drained: clients")
	d.err(e.servers.shutdown(ctx))
	e.log.Debug("drained: listeners")
	e.closeDisks(ctx, &d)
	e.log.Debug("drained: volumes")
	e.closeControl()
	if len(d.busy) == 0 {
		// Where requests are outstanding reactors and plugins still work on
		// them; they end with the process.
		e.stopReactors()
		e.plan.close()
	}
	return errors.Join(d.errs...)
}

// awaitOpenings waits for doors that are being opened, which a kernel may keep.
func (e *engine) awaitOpenings(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		e.openings.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// drained is how far drain has come. Its methods are safe from any goroutine.
type drained struct {
	mu     sync.Mutex                // guards what follows
	busy   map[*pluginhost.Disk]bool // they still work for clients that were cut
	closed map[*pluginhost.Disk]bool
	errs   []error
}

func (d *drained) err(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = append(d.errs, err)
}

func (d *drained) isBusy(disk *pluginhost.Disk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy[disk] = true
}

// closeControl ends the admin socket and the metrics.
func (e *engine) closeControl() {
	if e.admin != nil {
		e.admin.Close()
	}
	if e.http != nil {
		_ = e.http.Close()
	}
}

// abandon undoes a start that has failed: there were no clients yet.
func (e *engine) abandon() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	close(e.quit)
	e.endOrders(ctx)
	e.stopOpen()
	e.openings.Wait()
	e.removeExports(ctx, e.exports, &drained{busy: map[*pluginhost.Disk]bool{}})
	_ = e.servers.shutdown(ctx)
	for _, d := range e.disks {
		_ = d.Close(ctx)
	}
	e.closeControl()
	e.stopReactors()
}

// closeOwnClients closes the volumes whose storage server is this engine. They
// are clients of other exports, so these must live until they have flushed;
// and of two of them the later in the file may stand on the earlier.
func (e *engine) closeOwnClients(ctx context.Context, d *drained) {
	for _, disk := range slices.Backward(e.disks) {
		if !e.isOwnClient(disk) {
			continue
		}
		e.removeExports(ctx, e.exportsOf(disk), d)
		if !d.busy[disk] {
			d.closed[disk] = true
			warnIfAway(e.log, disk.Volume)
			d.err(disk.Close(ctx))
		}
	}
}

// isOwnClient tells a volume whose storage server is one of our own listeners.
func (e *engine) isOwnClient(d *pluginhost.Disk) bool {
	return slices.ContainsFunc(d.Config.Paths, func(p config.Path) bool {
		return slices.ContainsFunc(e.exports, func(x *export) bool { return leadsTo(p.Address, x.address()) })
	})
}

// leadsTo tells whether who connects to a comes to a listener on l. A loopback
// address counts as every listener with its port.
func leadsTo(a, l config.Address) bool {
	if a == l || a.Network != "tcp" || l.Network != "tcp" {
		return a == l
	}
	_, port := reachable(a)
	_, listening := reachable(l)
	return a.Loopback() && port == listening
}

func (e *engine) exportsOf(d *pluginhost.Disk) (list []*export) {
	for _, x := range e.exports {
		if x.disk == d {
			list = append(list, x)
		}
	}
	return list
}

// removeExports takes exports away from their clients, all at a time.
func (e *engine) removeExports(ctx context.Context, list []*export, d *drained) {
	var all sync.WaitGroup
	for _, x := range list {
		if !x.up.Swap(false) {
			continue
		}
		all.Go(func() {
			if err := x.door.close(ctx); err != nil {
				e.log.Warn("clients were cut", "export", x.cfg.Name, "err", err)
				d.isBusy(x.disk)
			}
		})
	}
	all.Wait()
}

// closeDisks closes the volumes that nobody uses any more.
func (e *engine) closeDisks(ctx context.Context, d *drained) {
	var all sync.WaitGroup
	for _, disk := range e.disks {
		switch {
		case d.closed[disk]:
		case d.busy[disk]:
			d.err(fmt.Errorf("volume %q was not flushed: requests were outstanding when the time was over", disk.Config.Name))
		default:
			warnIfAway(e.log, disk.Volume)
			all.Go(func() { d.err(disk.Close(ctx)) })
		}
	}
	all.Wait()
}

// warnIfAway says that the last flush cannot be had.
func warnIfAway(log *slog.Logger, v *volume.Volume) {
	if st, reason := v.State(); st == volume.Away {
		log.Warn("the volume's server is away: what was written since the last flush may be lost there",
			"volume", v.Name(), "reason", reason)
	}
}
