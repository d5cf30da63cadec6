package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/metrics"
	"blockengine/engine/pluginhost"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// Status implements admin.Source.
func (e *engine) Status(context.Context) admin.Status {
	snap := e.sampler.get()
	s := admin.Status{Engine: e.engineStatus(&snap), Volumes: []admin.Volume{}, Exports: []admin.Export{}, Plugins: []admin.Plugin{}}
	for i, d := range e.disks {
		s.Volumes = append(s.Volumes, volumeStatus(d, countsOf(statsOf(snap.Volumes, i))))
	}
	for i, x := range e.exports {
		a := admin.Export{Name: x.cfg.Name, Volume: x.cfg.Volume, Frontend: string(x.cfg.Frontend),
			Listen: x.address().String(), ReadOnly: x.cfg.ReadOnly, Up: x.usable()}
		if d, ok := x.device(); ok {
			a.Device = &d
		}
		if broken := x.broken.Load(); broken != nil {
			a.Reason = *broken
		}
		if i < len(snap.Exports) {
			a.Connections, a.Counts = snap.Exports[i].Connections, countsOf(snap.Exports[i].Stats)
		}
		s.Exports = append(s.Exports, a)
	}
	for _, l := range e.orders.upgrader.Status() {
		s.Plugins = append(s.Plugins, e.pluginStatus(&l))
	}
	return s
}

// statsOf gives a volume's part of a snapshot, which has none before the
// reactors have answered for the first time.
func statsOf(list []metrics.Volume, i int) *volume.Stats {
	if i < len(list) {
		return list[i].Stats
	}
	return nil
}

func (e *engine) engineStatus(snap *metrics.Snapshot) admin.Engine {
	file, err := filepath.Abs(e.cfg.File)
	if err != nil {
		file = e.cfg.File
	}
	a := admin.Engine{Version: version, Go: runtime.Version(), PID: os.Getpid(),
		Uptime: time.Since(e.started).Seconds(), Config: file, StateDir: e.state.path,
		Draining: e.draining.Load(), Partial: snap.Partial, Reactors: []admin.Reactor{}}
	for i, r := range e.reactors {
		turns, sleeps := r.Load()
		a.Reactors = append(a.Reactors, admin.Reactor{Index: i, Turns: turns, Sleeps: sleeps})
	}
	return a
}

func volumeStatus(d *pluginhost.Disk, c admin.Counts) admin.Volume {
	p := d.Plugin()
	a := admin.Volume{Name: d.Config.Name, ReadOnly: d.Config.ReadOnly, Plugin: p.Name, Generation: p.Generation,
		Version: p.Version, Hash: p.Hash, Options: d.Shown(), Caps: []string{}, Counts: c}
	st, reason := d.Volume.State()
	a.State, a.Reason = st.String(), reason
	if info, ok := d.Volume.DeviceInfo(); ok {
		a.Size, a.BlockSize, a.Identity, a.Caps = info.Size, info.BlockSize, info.Identity, capList(info.Caps)
	}
	if sess := d.Session(); sess != nil {
		path, n := sess.Path(), sess.Counters()
		a.Path = &admin.Path{Address: path.Address, Connections: path.Connections, LastError: path.LastError}
		counters := admin.Session(n)
		a.Session = &counters
	}
	return a
}

// countsOf gives what was counted, without kinds that never came.
func countsOf(s *volume.Stats) admin.Counts {
	c := admin.Counts{Ops: map[string]admin.Op{}, Errors: map[string]uint64{}}
	if s == nil {
		return c
	}
	c.InFlight = s.InFlight
	for op := block.OpRead; op <= block.MaxOp; op++ {
		if o := &s.Ops[op]; o.Requests > 0 {
			c.Ops[op.String()] = admin.Op{Requests: o.Requests, Bytes: o.Bytes, Errors: o.Errors, Seconds: float64(o.NS) / 1e9}
		}
	}
	for i, e := range s.Errors {
		switch {
		case e.Count == 0:
		case i == len(s.Errors)-1:
			c.Errors["other"] += e.Count // the last place takes what found none
		default:
			c.Errors[e.Status.String()] += e.Count
		}
	}
	return c
}
