package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/session"
)

// Upgrader replaces plugins while their volumes are in use. Its methods are
// safe from any goroutine but a reactor's.
type Upgrader struct {
	opt    UpgraderOptions
	seams  seams
	life   context.Context // ends with Close
	end    context.CancelCauseFunc
	lines  []*line // not changed once made
	byName map[string]*line

	// mu guards the lines' changing parts and closed. It is held for short
	// copies only; Registry.mu and Disk.mu are taken under it.
	mu     sync.Mutex
	closed bool

	recordings sync.WaitGroup // under way; added to under mu
}

// UpgraderOptions say what an Upgrader works on.
type UpgraderOptions struct {
	Config   *config.Config
	Registry *Registry
	Disks    []*Disk // in the configuration's order
	StateDir string  // keeps the history; "": it is not kept
	// Save makes a restart keep a plugin's version; nil if that is not possible.
	Save func(p *Plugin) error
	Log  *slog.Logger
}

// seams are where tests put something of their own.
type seams struct {
	load   func(ctx context.Context, p config.Plugin) (*Plugin, error)
	runner func(d *Disk) runner // nil as long as the volume's session has not begun
	health func(g *session.Generation) session.Health
}

// NewUpgrader makes an Upgrader, gives the registry's plugins their numbers,
// which go on from those of the history, and notes there what runs. It comes
// when the disks are made and before anything else looks at them or Start is
// called.
func NewUpgrader(o UpgraderOptions) (*Upgrader, error) {
	return newUpgrader(o, seams{
		load: o.Registry.load,
		runner: func(d *Disk) runner {
			if s := d.Session(); s != nil {
				return s
			}
			return nil
		},
		health: (*session.Generation).Health,
	})
}

func newUpgrader(o UpgraderOptions, s seams) (*Upgrader, error) {
	u := &Upgrader{opt: o, seams: s, byName: map[string]*line{}}
	u.life, u.end = context.WithCancelCause(context.Background())
	for _, p := range o.Registry.Plugins() {
		l := newLine(p, o)
		u.lines, u.byName[p.Name] = append(u.lines, l), l
	}
	for _, d := range o.Disks {
		l := u.byName[d.Config.Plugin]
		if l == nil {
			return nil, fmt.Errorf("volume %q: plugin %q is not loaded", d.Config.Name, d.Config.Plugin)
		}
		l.disks = append(l.disks, d)
	}
	return u, nil
}

// Upgrade goes over to another version and watches it. report is told what
// happens, one event at a time, on the caller's goroutine, and may be nil. An
// error means that the generation before runs, for every volume, unless it is
// ErrNotKept or says that the engine ends. ctx ends it as long as not every
// volume has been taken over; those that have been go back then.
func (u *Upgrader) Upgrade(ctx context.Context, r UpgradeRequest, report func(Event)) error {
	l, err := u.line(r.Plugin)
	if err != nil {
		u.opt.Log.Warn("plugin upgrade refused", "plugin", r.Plugin, "err", err)
		return err
	}
	op, err := u.begin(ctx, l, upgrading, r.Volumes)
	if err != nil {
		return err
	}
	return op.run(func() error { return op.upgrade(r) }, report)
}

// Rollback goes back to the generation before: to the one that most volumes
// run as long as a canary is out, else to the one before that. A volume that
// does not go softly is cut. It ends an upgrade that is under way, whose
// volumes go back then. ctx ends it as long as no volume has gone back.
func (u *Upgrader) Rollback(ctx context.Context, r RollbackRequest, report func(Event)) error {
	l, err := u.line(r.Plugin)
	if err == nil {
		_, err = methodsOf(r.Method)
	}
	if err != nil {
		u.opt.Log.Warn("plugin rollback refused", "plugin", r.Plugin, "err", err)
		return err
	}
	for {
		op, err := u.begin(ctx, l, rollingBack, r.Volumes)
		if err == nil {
			return op.run(func() error { return op.rollback(r) }, report)
		}
		var busy *busyError
		if !errors.As(err, &busy) || busy.op.kind != upgrading {
			return err
		}
		over, err := busy.op.endBy(ctx, r, report)
		if err != nil || over && !r.Save {
			return err
		}
		if over {
			return u.keepOnly(ctx, l, report)
		}
		// It had come to its end well before the order did: it is history now,
		// and is rolled back as such.
	}
}

// keepOnly makes a restart load what most volumes run.
func (u *Upgrader) keepOnly(ctx context.Context, l *line, report func(Event)) error {
	op, err := u.begin(ctx, l, rollingBack, nil)
	if err != nil {
		return err
	}
	return op.run(func() error { return op.keep(l.serving()) }, report)
}

// line finds a plugin that can be upgraded.
func (u *Upgrader) line(name string) (*line, error) {
	l := u.byName[name]
	if l == nil {
		names := slices.Sorted(maps.Keys(u.byName))
		if near := nearest(name, names); near != "" {
			return nil, fmt.Errorf("no plugin %.80q is loaded: did you mean %q?", name, near)
		}
		return nil, fmt.Errorf("no plugin %.80q is loaded; those that are: %s", name, strings.Join(names, ", "))
	}
	if l.fixed {
		return nil, fmt.Errorf("%q is a store plugin, which is linked into the engine: it is replaced with the engine, by a restart", name)
	}
	return l, nil
}

// errEngineEnds gives up what is under way.
var errEngineEnds = errors.New("the engine ends")

// busyError: a plugin has one operation at a time.
type busyError struct {
	op   *operation
	text string
}

func (e *busyError) Error() string { return e.text }

// begin makes the operation that a plugin is busy with until it ends.
func (u *Upgrader) begin(ctx context.Context, l *line, kind kind, volumes []string) (*operation, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, errEngineEnds
	}
	if op := l.op; op != nil {
		remedy := "wait for its end"
		if op.kind == upgrading {
			remedy += ", or roll it back"
		}
		err := &busyError{op, fmt.Sprintf("another %s of plugin %q is under way (phase %s, since %s): %s",
			op.kind, l.name, op.now(), op.since.Format(time.TimeOnly), remedy)}
		if kind == upgrading {
			l.counters.Failed++
			l.log.Warn("plugin upgrade refused", "err", err)
		}
		return nil, err
	}
	l.op = newOperation(ctx, u, l, kind, volumes)
	return l.op, nil
}

// Status tells of every loaded plugin, in the order of Registry.Plugins.
func (u *Upgrader) Status() []LineStatus {
	list := make([]LineStatus, 0, len(u.lines))
	for _, l := range u.lines {
		u.mu.Lock()
		s := l.status()
		u.mu.Unlock()
		s.History = l.history.list()
		list = append(list, s)
	}
	return list
}

// Close gives up what is under way, and waits for that until ctx ends. What
// has been taken over by then stays so: the volumes are closed next. The
// history says that the engine has ended.
func (u *Upgrader) Close(ctx context.Context) {
	u.mu.Lock()
	u.closed = true
	var ops []*operation
	for _, l := range u.lines {
		if l.op != nil {
			ops = append(ops, l.op)
		}
	}
	u.mu.Unlock()
	u.end(errEngineEnds)
	for _, op := range ops {
		select {
		case <-op.done:
		case <-ctx.Done():
		}
	}
	u.recordings.Wait() // life has ended them
	for _, l := range u.lines {
		l.history.close(time.Now())
	}
}
