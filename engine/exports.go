package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/volume"
	"blockengine/frontends/nbd"
)

// readyPatience is how long ready waits for volumes that are being opened.
const readyPatience = 3 * time.Second

// export is an export of the configuration. It comes up when its volume's disk
// has been seen, and stays up from then on.
type export struct {
	cfg      config.Export
	disk     *pluginhost.Disk
	listener *nbd.Listener
	up       atomic.Bool
	broken   atomic.Bool // it cannot come up; logged
}

// address is where the export listens, with the port that the kernel chose.
func (x *export) address() config.Address {
	network, addr, _ := strings.Cut(x.listener.Addr(), ":")
	return config.Address{Network: network, Addr: addr}
}

// watch brings exports up as their volumes' disks are seen, until quit.
func (e *engine) watch() {
	for _, d := range e.disks {
		d.Volume.Watch(func(*volume.Volume) {
			select {
			case e.changed <- struct{}{}:
			default: // one look will see all
			}
		})
	}
}

// settle brings up what can be, and goes on until every export is up or cannot
// be, for readyPatience at most, or ctx ends.
func (e *engine) settle(ctx context.Context) {
	patience := time.NewTimer(readyPatience)
	defer patience.Stop()
	for !e.bringUp() {
		select {
		case <-e.changed:
		case <-patience.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// follow goes on with what settle has left, in the background.
func (e *engine) follow() {
	e.watching.Go(func() {
		for {
			select {
			case <-e.changed:
				e.bringUp()
			case <-e.quit:
				return
			}
		}
	})
}

// bringUp adds the exports whose volumes' disks have been seen by now, and
// tells whether any may yet come.
func (e *engine) bringUp() (settled bool) {
	settled = true
	for _, x := range e.exports {
		if x.up.Load() || x.broken.Load() {
			continue
		}
		info, seen := x.disk.Volume.Info()
		if !seen {
			st, _ := x.disk.Volume.State()
			settled = settled && st == volume.Stopped
			continue
		}
		err := x.listener.Add(nbd.Export{Name: x.cfg.Name, Description: x.cfg.Description,
			Volume: x.disk.Volume, ReadOnly: x.cfg.ReadOnly})
		if err != nil {
			x.broken.Store(true)
			e.log.Error("export cannot be served", "export", x.cfg.Name, "err", err)
			continue
		}
		x.up.Store(true)
		e.announce(x, info.Size)
	}
	return settled
}

// announce prints how to connect. Output that nobody reads is no reason to
// stop serving.
func (e *engine) announce(x *export, size uint64) {
	at := x.address()
	var b strings.Builder
	fmt.Fprintf(&b, "export %q: volume %q, %s, on %s\n", x.cfg.Name, x.cfg.Volume, config.FormatSize(size), at)
	for _, line := range howToConnect(at, x.cfg.Name) {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	_, _ = fmt.Fprint(e.stdout, b.String())
}

// sayReady names what is not up, with the reason, and then prints ready.
func (e *engine) sayReady() {
	var b strings.Builder
	for _, x := range e.exports {
		if x.up.Load() {
			continue
		}
		st, reason := x.disk.Volume.State()
		if reason == "" {
			reason = "no answer yet"
		}
		fmt.Fprintf(&b, "export %q: not up yet: volume %q is %s: %s\n", x.cfg.Name, x.cfg.Volume, st, reason)
		e.log.Warn("export is not up", "export", x.cfg.Name, "volume", x.cfg.Volume, "state", st.String(), "reason", reason)
	}
	for _, d := range e.disks {
		if st, reason := d.Volume.State(); st != volume.Online && !e.isExported(d) {
			e.log.Warn("volume is not online", "volume", d.Config.Name, "state", st.String(), "reason", reason)
		}
	}
	b.WriteString("ready\n")
	_, _ = fmt.Fprint(e.stdout, b.String())
}

func (e *engine) isExported(d *pluginhost.Disk) bool {
	for _, x := range e.exports {
		if x.disk == d {
			return true
		}
	}
	return false
}
