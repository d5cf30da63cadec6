package pluginhost

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/session"
	"blockengine/engine/volume"
)

// baselineTime is the least that the old generation is looked at before the
// cutover, so that there is something to compare the new one with.
const baselineTime = time.Second

// begin reads what requests have in common and takes the chosen volumes'
// seats.
func (op *operation) begin(method string, drain time.Duration) error {
	var err error
	if op.methods, err = methodsOf(method); err != nil {
		return err
	}
	if drain < 0 {
		return fmt.Errorf("requests cannot have %v to finish: give a time above 0, or 0 for %v", drain, DefaultDrain)
	}
	if op.drain = drain; drain == 0 {
		op.drain = DefaultDrain
	}
	if err := op.checkChosen(); err != nil {
		return err
	}
	return op.takeSeats()
}

// checkChosen refuses volumes that are not on this plugin, all at once.
func (op *operation) checkChosen() error {
	var errs []error
	for _, name := range unique(op.chosen) {
		if !slices.ContainsFunc(op.line.disks, func(d *Disk) bool { return d.Config.Name == name }) {
			errs = append(errs, op.notOurs(name))
		}
	}
	return errors.Join(errs...)
}

// notOurs says why a volume that was named is none of the plugin's.
func (op *operation) notOurs(name string) error {
	own := make([]string, 0, len(op.line.disks))
	for _, d := range op.u.opt.Disks {
		if d.Config.Name == name {
			return fmt.Errorf("volume %q stands on plugin %q and not on %q", name, d.Config.Plugin, op.line.name)
		}
	}
	for _, d := range op.line.disks {
		own = append(own, d.Config.Name)
	}
	if near := nearest(name, own); near != "" {
		return fmt.Errorf("there is no volume %.80q: did you mean %q?", name, near)
	}
	return fmt.Errorf("there is no volume %.80q; those on plugin %q: %s", name, op.line.name, strings.Join(own, ", "))
}

// takeSeats finds the volumes that may have to move.
func (op *operation) takeSeats() error {
	for _, d := range op.line.disks {
		name := d.Config.Name
		named := slices.Contains(op.chosen, name)
		if len(op.chosen) > 0 && !named {
			continue
		}
		if reason, is := stopped(d); is {
			if named {
				return fmt.Errorf("volume %q has stopped (%s): it goes on with no version, restart the engine to open it again", name, reason)
			}
			op.say(op.now(), name, "is left out, it has stopped: "+reason)
			continue
		}
		run := op.u.seams.runner(d)
		if run == nil {
			return fmt.Errorf("volume %q is not open yet: try again when the engine says that it is ready", name)
		}
		s := &seat{disk: d, run: run, home: build{d.Plugin(), d.optionValues(), run.Generation()}}
		s.first = op.u.seams.health(s.home.gen)
		op.seats = append(op.seats, s)
	}
	return nil
}

// keepSeats leaves only the seats that f is true for.
func (op *operation) keepSeats(f func(*seat) bool) {
	op.seats = slices.DeleteFunc(op.seats, func(s *seat) bool { return !f(s) })
}

// load gets the version that is to run, and leaves the seats that do not run it
// yet.
func (op *operation) load(r UpgradeRequest) error {
	p, err := op.find(r)
	if err != nil {
		return err
	}
	op.to = p
	if have := op.line.sameAs(p); have != nil {
		if err := op.u.opt.Registry.unload(p); err != nil {
			return err
		}
		op.to = have
	} else if err := op.isNext(p); err != nil {
		return err
	}
	op.keepSeats(func(s *seat) bool { return s.home.plugin != op.to })
	op.u.mu.Lock()
	op.next = op.to
	op.u.mu.Unlock()
	op.say(PhaseLoad, "", describe(op.to)+" is loaded")
	return nil
}

// find loads the file, or finds the linked-in plugin.
func (op *operation) find(r UpgradeRequest) (*Plugin, error) {
	l, pin := op.line, strings.ToLower(r.SHA256)
	if b, err := hex.DecodeString(pin); pin != "" && (err != nil || len(b) != 32) {
		return nil, fmt.Errorf("%.80q is no SHA-256 hash: write 64 hex digits, as sha256sum prints them", r.SHA256)
	}
	if r.Path == "" {
		if pin != "" {
			return nil, errors.New("what is linked into the engine has no file and no hash: name a file, or no hash")
		}
		p := op.u.opt.Registry.builtin(op.manifestName(), l.name)
		if p == nil || p.Kind != l.kind || !p.Upgradable() {
			return nil, fmt.Errorf("no plugin %q is linked into this engine: name a file", op.manifestName())
		}
		return p, nil
	}
	if !filepath.IsAbs(r.Path) {
		return nil, fmt.Errorf("%s is no absolute path: the engine runs in a directory of its own", r.Path)
	}
	wanted := l.section
	wanted.Path, wanted.SHA256 = r.Path, pin // the file itself says which runtime it is for
	p, err := op.u.seams.load(op.ctx, wanted)
	if op.ctx.Err() != nil && err != nil {
		return nil, op.givenUp()
	}
	if err == nil {
		op.count(func(*UpgradeCounters) { l.named.loaded(p) })
	}
	return p, err
}

func (op *operation) manifestName() string { return op.line.serving().ManifestName }

// serving is the generation that most volumes run.
func (l *line) serving() *Plugin { return l.roles.current }

// sameAs finds a generation in use that is p's code, nil if there is none.
func (l *line) sameAs(p *Plugin) *Plugin {
	for _, have := range []*Plugin{l.roles.current, l.roles.canary} {
		if have != nil && have.Hash == p.Hash {
			return have
		}
	}
	return nil
}

// isNext makes p the next generation, if it may be.
func (op *operation) isNext(p *Plugin) error {
	l := op.line
	if p.Kind != l.kind {
		return fmt.Errorf("%s is a %s plugin and what runs is a %s plugin: one cannot take the other's volumes over", sourceOf(p), p.Kind, l.kind)
	}
	if p.ManifestName != op.manifestName() {
		return fmt.Errorf("%s is plugin %q and what runs is %q: another plugin cannot take its volumes over", sourceOf(p), p.ManifestName, op.manifestName())
	}
	if c := l.roles.canary; c != nil {
		return fmt.Errorf("%s runs for volumes %s only, and a third version cannot come beside it: finish that upgrade first (upgrade to %s without naming volumes), or roll it back",
			describe(c), strings.Join(l.volumesOf(c), ", "), sourceOf(c))
	}
	p.Generation = l.last + 1
	return nil
}

// sourceOf says where a plugin is from.
func sourceOf(p *Plugin) string {
	if p.Path == "" {
		return "the linked-in plugin"
	}
	return p.Path
}

// checkOptions makes each volume's generation. What the new manifest does not
// take is reported at once, for all volumes.
func (op *operation) checkOptions() error {
	var problems config.Problems
	for _, s := range op.seats {
		problems = append(problems, s.prepare(op.u.opt.Config, op.to)...)
	}
	if err := problems.Err(); err != nil {
		return fmt.Errorf("%s does not take the volumes' options:\n%w", describe(op.to), err)
	}
	return nil
}

// checkSave refuses to keep what does not become every volume's version.
func (op *operation) checkSave() error {
	if op.u.opt.Save == nil {
		return errors.New("this engine has nowhere to keep a plugin's version over a restart: leave --save out")
	}
	for _, d := range op.line.disks {
		_, is := stopped(d)
		moves := slices.ContainsFunc(op.seats, func(s *seat) bool { return s.disk == d })
		if !is && !moves && d.Plugin() != op.to {
			return fmt.Errorf("volume %q would stay with %s: a version is kept over a restart for all volumes or none, leave --save out until all run it",
				d.Config.Name, describe(d.Plugin()))
		}
	}
	return nil
}

// verify tries the new version beside the old one, where that is possible.
func (op *operation) verify() error {
	op.enter(PhaseVerify, "")
	if err := op.checkOptions(); err != nil {
		return err
	}
	for _, s := range op.seats {
		if op.ctx.Err() != nil {
			return op.givenUp()
		}
		if err := op.tryOn(s); err != nil {
			return err
		}
	}
	return nil
}

// tryOn has the new version log in for one volume.
func (op *operation) tryOn(s *seat) error {
	if st, reason := s.disk.Volume.State(); st != volume.Online {
		op.say(PhaseVerify, s.name(), fmt.Sprintf("cannot be tried beforehand: the volume is %v (%s)", st, reason))
		return nil
	}
	err := s.run.Verify(op.ctx, s.next.gen)
	switch {
	case err == nil:
		op.say(PhaseVerify, s.name(), "the new version logged in and sees the same disk")
	case op.ctx.Err() != nil:
		return op.givenUp()
	case errors.Is(err, session.ErrNotVerified):
		op.say(PhaseVerify, s.name(), "cannot be tried beforehand: "+err.Error())
	default:
		return fmt.Errorf("volume %q: %s was tried and does not work: %w", s.name(), describe(op.to), err)
	}
	return nil
}

// baseline sees to it that there is something to compare the new version with.
func (op *operation) baseline() error {
	if op.watched == 0 || len(op.seats) == 0 {
		return nil
	}
	rest := time.NewTimer(time.Until(op.based.Add(baselineTime)))
	defer rest.Stop()
	select {
	case <-rest.C:
		return nil
	case <-op.ctx.Done():
		return op.givenUp()
	}
}

// givenUp is the error of an operation whose ctx has ended before anything was
// changed.
func (op *operation) givenUp() error {
	if op.isOrdered() { // and nothing had to be rolled back
		return errors.New("given up before anything was changed: the operator has ordered that")
	}
	return fmt.Errorf("given up before anything was changed: %w", context.Cause(op.ctx))
}
