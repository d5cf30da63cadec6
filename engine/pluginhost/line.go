package pluginhost

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"blockengine/engine/config"
)

// line is a plugin as volumes name it, through its generations.
//
// At most two generations of it have connections. A third may stay loaded
// without any: the one before, while another file is being tried or runs for
// some volumes only, so that an upgrade that fails does not take the rollback's
// target away. It is closed when the new one runs for all volumes.
type line struct {
	name    string
	kind    Kind
	fixed   bool // what is linked in and does its own I/O is replaced with the engine
	section config.Plugin
	disks   []*Disk // that stand on it, in the configuration's order
	history *history
	log     *slog.Logger

	// Upgrader.mu guards what follows.
	op       *operation // under way, nil if none is
	roles    roles
	last     int // the greatest number given to a generation
	named    source
	counters UpgradeCounters
}

// roles say which generations there are. See LineStatus.
type roles struct{ current, previous, canary *Plugin }

func newLine(p *Plugin, o UpgraderOptions) *line {
	section, _ := o.Config.Plugin(p.Name)
	l := &line{name: p.Name, kind: p.Kind, fixed: !p.Upgradable(), section: section, log: o.Log.With("plugin", p.Name),
		roles: roles{current: p}, named: source{section.Source, p.Hash, p.Version},
		counters: UpgradeCounters{Rollbacks: map[string]uint64{}, LastMethods: map[string]uint64{}}}
	l.history = openHistory(o.StateDir, p.Name, l.log)
	p.Generation = l.history.number(p)
	l.last = max(l.history.last(), p.Generation)
	l.history.runs(time.Now(), []running{{plugin: p}}, "")
	return l
}

// status is what Upgrader.Status tells, but for the history.
func (l *line) status() LineStatus {
	roles := l.roles
	if list := l.running(); len(list) > 0 {
		roles = roles.after(list) // as far as a takeover has come
	}
	s := LineStatus{Name: l.name, Current: roles.current, Previous: roles.previous, Canary: roles.canary,
		Differs: l.named.differs(roles.current), UpgradeCounters: l.counters}
	s.Rollbacks, s.LastMethods = maps.Clone(s.Rollbacks), maps.Clone(s.LastMethods)
	if l.op != nil {
		s.Phase, s.Watching = l.op.progress()
		if p := l.op.next; p != nil && !roles.has(p) {
			s.Next = p
		}
	}
	return s
}

// running are the generations that volumes run, by number. Volumes that have
// stopped run nothing.
func (l *line) running() []*Plugin {
	var list []*Plugin
	for _, d := range l.disks {
		if _, is := stopped(d); !is && !slices.Contains(list, d.Plugin()) {
			list = append(list, d.Plugin())
		}
	}
	slices.SortFunc(list, func(a, b *Plugin) int { return a.Generation - b.Generation })
	return list
}

// volumesOf names the volumes that run p.
func (l *line) volumesOf(p *Plugin) (names []string) {
	for _, d := range l.disks {
		if d.Plugin() == p {
			names = append(names, d.Config.Name)
		}
	}
	return names
}

// after gives the roles when volumes run the plugins in list, by number.
func (r roles) after(list []*Plugin) roles {
	switch {
	case len(list) == 1 && list[0] == r.current:
		r.canary = nil
	case len(list) == 1 && list[0] == r.previous: // rolled back: the worse one has gone
		r = roles{current: r.previous}
	case len(list) == 1: // upgraded
		r = roles{current: list[0], previous: r.current}
	case len(list) == 2 && list[0] == r.previous: // rolled back for some volumes
		r = roles{current: r.previous, canary: r.current}
	case len(list) == 2:
		r.canary = list[1]
	}
	return r
}

func (r roles) has(p *Plugin) bool { return p == r.current || p == r.previous || p == r.canary }

// note keeps in the history what runs now. Of two generations the newer one is
// for the volumes that are named.
func (l *line) note(ended string) {
	list := l.running()
	if len(list) == 0 {
		return
	}
	now := []running{{plugin: list[0]}}
	for _, p := range list[1:] {
		now = append(now, running{p, l.volumesOf(p)})
	}
	l.history.runs(time.Now(), now, ended)
}

// describe names a generation in messages.
func describe(p *Plugin) string {
	return fmt.Sprintf("generation %d (%s)", p.Generation, identify(p.Version, p.Hash))
}

// identify names a version: "1.1.0, sha256 ab12cd34ef56".
func identify(version, hash string) string {
	text := "builtin"
	if hash != hashBuiltin {
		text = "sha256 " + hash[:min(len(hash), 12)]
	}
	if version == "" {
		return text
	}
	return version + ", " + text
}
