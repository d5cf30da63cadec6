package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/volume"
)

// How long ready waits for volumes that are being opened: for all of them, and
// before that for those that may be served to others of this engine.
const (
	readyPatience = 3 * time.Second
	ownPatience   = time.Second
)

// export is an export of the configuration. It comes up when its volume's disk
// has been seen, and stays up from then on.
type export struct {
	cfg    config.Export
	disk   *pluginhost.Disk
	door   door
	up     atomic.Bool
	broken atomic.Pointer[string] // why it cannot come up, which has been logged; nil: it may

	opening atomic.Bool // a slow door is being opened
}

// address is where the export meets its clients, with the port that the kernel
// chose.
func (x *export) address() config.Address {
	return addressOf(x.door.addr())
}

// addressOf reads what a frontend calls its address.
func addressOf(text string) config.Address {
	network, addr, _ := strings.Cut(text, ":")
	return config.Address{Network: network, Addr: addr}
}

// watch brings exports up as their volumes' disks are seen, until quit.
func (e *engine) watch() {
	for _, d := range e.disks {
		d.Volume.Watch(func(*volume.Volume) { e.look() })
	}
}

// settle brings up what can be, until every one of those exports that matter is
// up or cannot be, or patience or ctx has ended.
func (e *engine) settle(ctx context.Context, patience time.Duration, matters func(*export) bool) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		e.bringUp()
		if !slices.ContainsFunc(e.exports, func(x *export) bool { return matters(x) && x.pending() }) {
			return
		}
		select {
		case <-e.changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pending tells whether the export is not up and may yet come.
func (x *export) pending() bool {
	st, _ := x.disk.Volume.State()
	return !x.up.Load() && x.broken.Load() == nil && st != volume.Stopped
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

// bringUp adds the exports whose volumes' disks have been seen by now.
func (e *engine) bringUp() {
	for _, x := range e.exports {
		_, seen := x.disk.Volume.Info()
		switch {
		case !seen || !x.pending() || e.draining.Load():
		case !x.door.slow():
			e.openDoor(x)
		case !x.opening.Swap(true):
			e.openings.Go(func() {
				e.openDoor(x)
				x.opening.Store(false)
				e.look()
			})
		}
	}
}

// openDoor serves an export, or notes why it cannot be served.
func (e *engine) openDoor(x *export) {
	if err := x.door.open(e.opened, x.disk.Volume); err != nil {
		text := err.Error()
		x.broken.Store(&text)
		e.log.Error("export cannot be served", "export", x.cfg.Name, "err", err)
		return
	}
	x.up.Store(true)
	info, _ := x.disk.Volume.Info()
	e.announce(x, info.Size)
}

// look has the exports looked at again.
func (e *engine) look() {
	select {
	case e.changed <- struct{}{}:
	default: // one look will see all
	}
}

// announce prints how to connect.
func (e *engine) announce(x *export, size uint64) {
	at := x.address()
	var b strings.Builder
	fmt.Fprintf(&b, "export %q: volume %q, %s, on %s\n", x.cfg.Name, x.cfg.Volume, config.FormatSize(size), at)
	for _, line := range x.door.use() {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	e.output <- b.String()
}

// print writes what is put into output. Somebody who does not read, or no
// longer, is no reason to stop serving, nor to end without a last flush: so the
// channel has room for all that there can be.
func (e *engine) print(to io.Writer) {
	e.output = make(chan string, len(e.cfg.Exports)+1)
	go func() {
		for text := range e.output {
			_, _ = io.WriteString(to, text)
		}
	}()
}

// sayReady names what is not up, with the reason, and then prints ready.
func (e *engine) sayReady() {
	var b strings.Builder
	for _, x := range e.exports {
		if x.up.Load() {
			continue
		}
		st, reason := x.disk.Volume.State()
		if broken := x.broken.Load(); broken != nil {
			fmt.Fprintf(&b, "export %q: not up: %s\n", x.cfg.Name, *broken)
			continue
		}
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
	e.output <- b.String()
}

func (e *engine) isExported(d *pluginhost.Disk) bool {
	for _, x := range e.exports {
		if x.disk == d {
			return true
		}
	}
	return false
}
