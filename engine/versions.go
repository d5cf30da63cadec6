package main

import (
	"fmt"
	"maps"

	"blockengine/engine/admin"
	"blockengine/engine/metrics"
	"blockengine/engine/pluginhost"
)

// lines tells of the loaded plugins, in the order of the configuration. Before
// plugins can be upgraded it is known only what is loaded.
func (e *engine) lines() []pluginhost.LineStatus {
	if u := e.orders.get(); u != nil {
		if list := u.Status(); len(list) > 0 {
			return list
		}
	}
	var list []pluginhost.LineStatus
	for _, p := range e.registry.Plugins() {
		list = append(list, pluginhost.LineStatus{Name: p.Name, Current: p})
	}
	return list
}

func (e *engine) pluginStatus(l *pluginhost.LineStatus) admin.Plugin {
	a := admin.Plugin{Name: l.Name, Kind: string(l.Current.Kind), Loaded: *e.loaded(l.Current),
		Phase: string(l.Phase), WatchUntil: l.Watching, Previous: e.loaded(l.Previous), Canary: e.loaded(l.Canary)}
	a.Differs, a.Restart, a.DropIn = e.differs(l)
	for _, r := range l.History {
		a.History = append(a.History, admin.Generation(r))
	}
	if l.Current.Kind == pluginhost.Protocol {
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
	for _, d := range e.disks {
		if d.Plugin() == p {
			a.Volumes = append(a.Volumes, d.Config.Name)
		}
	}
	return a
}

// differs tells how what runs differs from what the configuration names, what a
// restart would load if that is something else, and the drop-in, if any.
func (e *engine) differs(l *pluginhost.LineStatus) (differs, restart, dropIn string) {
	p, ok := e.cfg.Plugin(l.Name)
	if !ok {
		return l.Differs, "", ""
	}
	runs := sourceOf(l.Current)
	// A plugin that a drop-in named at the start is compared with the file here:
	// for those who loaded it the drop-in was the configuration.
	differs = l.Differs
	if p.DropIn != "" {
		differs = ""
	}
	if differs == "" && !p.Own.Covers(runs) {
		differs = fmt.Sprintf("%s runs, and the configuration names %s", runs, p.Own)
	}
	e.orders.mu.Lock()
	k, isKept := e.orders.kept[l.Name]
	e.orders.mu.Unlock()
	next := p.Own
	if isKept {
		next = k.source
	}
	if !next.Covers(runs) {
		restart = next.String()
	}
	return differs, restart, k.file
}

// collectPlugins adds what has become of upgrades.
func (e *engine) collectPlugins(s *metrics.Snapshot) {
	for _, l := range e.lines() {
		p := l.Current
		differs, _, _ := e.differs(&l)
		s.Plugins = append(s.Plugins, metrics.Plugin{Name: l.Name, Generation: p.Generation, Version: p.Version, Hash: p.Hash,
			Upgradable: p.Kind == pluginhost.Protocol, Differs: differs != "", Done: l.Upgrades, Failed: l.Failed,
			Rollbacks: counted(l.Rollbacks), Takeovers: counted(l.LastMethods), LastPause: l.LastPause})
	}
}
