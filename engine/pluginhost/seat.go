package pluginhost

import (
	"context"

	"blockengine/engine/config"
	"blockengine/engine/session"
	"blockengine/engine/volume"
)

// runner is what an upgrade needs of a volume's session.
type runner interface {
	Verify(ctx context.Context, g *session.Generation) error
	TakeOver(ctx context.Context, t session.Takeover) (session.Outcome, error)
	Cut(g *session.Generation, why string)
	Generation() *session.Generation
	Path() session.PathStatus
}

var _ runner = (*session.Session)(nil)

// build is a plugin as one volume runs it.
type build struct {
	plugin *Plugin
	values Values
	gen    *session.Generation
}

// seat is a volume's place in an upgrade. It belongs to the operation's
// goroutine.
type seat struct {
	disk *Disk
	run  runner
	home build // what it ran when the operation began
	next build // what it is to run
	away bool  // from home: it runs next

	first session.Health // of home, when the operation began
	base  session.Health // what home did until the cutover
	start session.Health // of next, at the cutover
	judge *judge
}

func (s *seat) name() string { return s.disk.Config.Name }

// stopped tells a volume that does not go on, and why.
func stopped(d *Disk) (reason string, is bool) {
	st, reason := d.Volume.State()
	return reason, st == volume.Stopped
}

// prepare makes the generation that s is to run, if p takes the volume's
// options.
func (s *seat) prepare(cfg *config.Config, p *Plugin) config.Problems {
	values, problems := p.Check(cfg, &s.disk.Config)
	if len(problems) > 0 {
		return problems
	}
	s.next = build{p, values, p.generation(values, len(s.disk.reactors))}
	return nil
}

// adopt notes what the volume runs from now on.
func (s *seat) adopt(b build) {
	s.away = b.plugin == s.next.plugin
	s.disk.adopt(b.plugin, b.values)
}

// adopt notes what the volume runs from now on, and its options as that knows
// them.
func (d *Disk) adopt(p *Plugin, v Values) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plugin, d.values = p, v
}
