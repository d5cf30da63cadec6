package main

import (
	"fmt"
	"maps"

	"blockengine/engine/admin"
	"blockengine/engine/metrics"
	"blockengine/engine/pluginhost"
)

func (e *engine) pluginStatus(l *pluginhost.LineStatus) admin.Plugin {
	a := admin.Plugin{Name: l.Name, Kind: string(l.Current.Kind), Loaded: *e.loaded(l.Current),
		Phase: string(l.Phase), WatchUntil: l.Watching, Previous: e.loaded(l.Previous), Canary: e.loaded(l.Canary), Next: e.loaded(l.Next)}
	a.Differs, a.DropIn = e.differs(l), e.orders.dropIn(l.Name)
	for _, r := range l.History {
		a.History = append(a.History, admin.Generation(r))
	}
	if l.Current.Upgradable() {
		a.Upgrades = &admin.Upgrades{Done: l.Upgrades, Failed: l.Failed, Rollbacks: counted(l.Rollbacks),
			LastRollback: l.LastReason, Takeovers: counted(l.LastMethods), LastPause: l.LastPause.Seconds()}
	}
	return a
}

// counted is m, or an empty map where there is none.
func counted(m map[string]uint64) map[string]uint64 {
	c := map[string]uint64{}
	maps.Copy(c, m)
	return c
}

// loaded describes a version, nil for none.
func (e *engine) loaded(p *pluginhost.Plugin) *admin.Loaded {
	if p == nil {
		return nil
	}
	a := &admin.Loaded{Runtime: string(p.Runtime), Version: p.Version, Generation: p.Generation, Hash: p.Hash,
		Path: p.Path, Volumes: []string{}}
	if p.Kind == pluginhost.Protocol {
		a.ABI = abiText(p.ABI)
	}
	if s, ok := p.Process(); ok {
		a.Process = &admin.Process{PID: s.PID, Since: s.Since, Restarts: s.Restarts, LastEnd: s.LastEnd, Sandbox: string(s.Sandbox),
			CPU: s.CPU.Seconds(), Memory: s.Memory, Peak: s.Peak}
		if s.Lends {
			a.Process.Payload = &admin.Payload{LentRequests: s.Lent.Requests, LentBytes: s.Lent.Bytes,
				CopiedRequests: s.Copied.Requests, CopiedBytes: s.Copied.Bytes}
		}
	}
	for _, d := range e.disks {
		if d.Plugin() == p {
			a.Volumes = append(a.Volumes, d.Config.Name)
		}
	}
	return a
}

// differs tells how what runs differs from what the configuration's own file
// names, or from what a restart would load; "" if it does not.
func (e *engine) differs(l *pluginhost.LineStatus) string {
	dropIn := e.orders.dropIn(l.Name)
	if l.Differs != "" {
		if dropIn != "" {
			return l.Differs + "; that is by " + dropIn
		}
		return l.Differs
	}
	// The Upgrader takes a drop-in for a part of the configuration.
	p, ok := e.cfg.Plugin(l.Name)
	if !ok || p.Own.Covers(sourceOf(l.Current)) || dropIn == "" {
		return ""
	}
	return fmt.Sprintf("runs generation %d, %s; %s names %s: a restart keeps what runs, by %s",
		l.Current.Generation, sourceOf(l.Current), e.cfg.File, p.Own, dropIn)
}

// collectPlugins adds what has become of upgrades.
func (e *engine) collectPlugins(s *metrics.Snapshot) {
	for _, l := range e.orders.upgrader.Status() {
		p := l.Current
		m := metrics.Plugin{Name: l.Name, Generation: p.Generation, Version: p.Version, Hash: p.Hash,
			Upgradable: p.Upgradable(), Differs: e.differs(&l) != "", Done: l.Upgrades, Failed: l.Failed,
			Rollbacks: counted(l.Rollbacks), Takeovers: counted(l.LastMethods), LastPause: l.LastPause}
		if f, ok := p.Process(); ok {
			m.Process = &metrics.Process{Up: f.PID != 0, Restarts: f.Restarts, CPU: f.CPU, Memory: f.Memory}
		}
		s.Plugins = append(s.Plugins, m)
	}
}
