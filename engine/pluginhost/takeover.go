package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockengine/engine/session"
)

// upgrade carries out an upgrade.
func (op *operation) upgrade(r UpgradeRequest) error {
	err := op.tryUpgrade(r)
	op.count(func(c *UpgradeCounters) {
		switch {
		case err == nil || errors.Is(err, ErrNotKept):
			c.Upgrades++
		case !errors.Is(err, ErrRolledBack):
			c.Failed++
		}
	})
	return err
}

func (op *operation) tryUpgrade(r UpgradeRequest) error {
	op.enter(PhaseLoad, "")
	if op.watched = r.Watch; r.Watch < 0 {
		op.watched = op.line.section.Watch
	}
	op.shadowed, op.based = r.Shadow, op.since
	if err := op.begin(r.Method, r.Drain); err != nil {
		return err
	}
	all := len(op.seats)
	if err := op.load(r); err != nil {
		return err
	}
	if r.Save {
		if err := op.checkSave(); err != nil {
			return err
		}
	}
	if len(op.seats) == 0 && (all > 0 || op.line.serving() == op.to) {
		return op.already(r)
	}
	for _, step := range []func() error{op.verify, op.shadow, op.baseline, op.takeOver, op.watch} {
		if err := step(); err != nil {
			return err
		}
	}
	if r.Save {
		return op.keep(op.to)
	}
	return nil
}

// already is what is left to do when every volume runs the version: it may have
// to be kept.
func (op *operation) already(r UpgradeRequest) error {
	if !r.Save {
		return fmt.Errorf("%s is what these volumes run already", describe(op.to))
	}
	kept := *op.to
	kept.Path = r.Path // the same code; the operator says from where
	return op.keep(&kept)
}

// keep makes a restart load p.
func (op *operation) keep(p *Plugin) error {
	op.enter(PhaseSave, "")
	err := stillThere(p)
	if err == nil {
		if save := op.u.opt.Save; save != nil {
			err = save(p)
		} else {
			err = errors.New("this engine has nowhere to keep it")
		}
	}
	if err != nil {
		op.say(PhaseSave, "", err.Error())
		return fmt.Errorf("%s: %w: %w", describe(p), ErrNotKept, err)
	}
	op.count(func(*UpgradeCounters) { op.line.named.kept(p) })
	return nil
}

// takeOver goes over to the new version, volume by volume. If one cannot, those
// that have go back.
func (op *operation) takeOver() error {
	op.count(func(*UpgradeCounters) { op.line.last = max(op.line.last, op.to.Generation) })
	op.enter(PhaseTakeover, "")
	began := time.Now()
	for _, s := range op.seats {
		s.base = op.u.seams.health(s.home.gen).Since(s.first)
		s.start = op.u.seams.health(s.next.gen)
		if reason, is := stopped(s.disk); is {
			op.say(PhaseTakeover, s.name(), "is left out, it has stopped: "+reason)
			continue
		}
		err := context.Cause(op.ctx)
		if err == nil {
			err = op.move(op.ctx, s, s.next, PhaseTakeover)
		}
		if err != nil {
			return op.undo(began, s, err)
		}
	}
	op.line.note("replaced by " + describe(op.to))
	op.noteShadow()
	return nil
}

// move takes a volume over to a build of its plugin.
func (op *operation) move(ctx context.Context, s *seat, to build, p Phase) error {
	out, err := s.run.TakeOver(ctx, session.Takeover{To: to.gen, Methods: op.methods, Drain: op.drain,
		Report: func(m session.Method, text string) {
			op.tell(Event{Phase: p, Volume: s.name(), Method: m.String(), Text: text})
		}})
	if err != nil {
		return err
	}
	s.adopt(to)
	op.pause = max(op.pause, out.Pause)
	op.count(func(c *UpgradeCounters) {
		c.LastMethods[out.Method.String()]++
		c.LastPause = op.pause
	})
	op.tell(Event{Phase: p, Volume: s.name(), Method: out.Method.String(), Pause: out.Pause,
		Text: "runs " + describe(to.plugin)})
	return nil
}

// undo takes those volumes back that have been taken over since began, because
// one could not be. The error says all.
func (op *operation) undo(began time.Time, failed *seat, why error) error {
	text := fmt.Sprintf("volume %q was not taken over", failed.name())
	moved := op.moved()
	switch {
	case len(moved) == 0 && op.ctx.Err() != nil:
		return op.givenUp()
	case op.u.life.Err() != nil:
		return fmt.Errorf("%s: %w", text, errEngineEnds)
	case len(moved) == 0:
		return fmt.Errorf("%s: %w", text, why)
	case op.isOrdered():
		why = errOrdered
		op.count(func(c *UpgradeCounters) { c.Rollbacks[reasonOperator]++ })
	}
	op.enter(PhaseRollback, fmt.Sprintf("%s (%v), so the others go back", text, why))
	for _, s := range slices.Backward(moved) {
		if err := op.goBack(s, false, "the upgrade was given up"); err != nil {
			return fmt.Errorf("%s: %w; %w", text, why, err)
		}
	}
	names := namesOf(moved)
	op.line.history.was(Record{Generation: op.to.Generation, Version: op.to.Version, Hash: op.to.Hash, Path: op.to.Path,
		Volumes: names, Since: began, Until: time.Now(), Ended: "given up: " + text + ": " + why.Error()})
	return fmt.Errorf("%s: %w; gone back: %s", text, why, strings.Join(names, ", "))
}

// moved are the seats that run the new version, in their order.
func (op *operation) moved() (list []*seat) {
	for _, s := range op.seats {
		if s.away {
			list = append(list, s)
		}
	}
	return list
}

func namesOf(seats []*seat) []string {
	names := make([]string, 0, len(seats))
	for _, s := range seats {
		names = append(names, s.name())
	}
	return names
}

// goBack takes a volume back to what it ran when the operation began. cut and
// the error are send's.
func (op *operation) goBack(s *seat, cut bool, why string) error {
	return op.send(s, s.home, cut, why)
}

// send takes a volume to an older build for sure: in order if it can be, else
// its connections are cut. cut says that what it runs is not to be trusted with
// going in order. It fails only when the engine ends.
func (op *operation) send(s *seat, to build, cut bool, why string) error {
	if reason, is := stopped(s.disk); is {
		op.say(PhaseRollback, s.name(), "is left out, it has stopped: "+reason)
		return nil
	}
	if !cut {
		err := op.move(op.u.life, s, to, PhaseRollback)
		if err == nil {
			return nil
		}
		op.say(PhaseRollback, s.name(), "does not go in order: "+err.Error())
	}
	if op.u.life.Err() != nil {
		return fmt.Errorf("volume %q did not go back: %w", s.name(), errEngineEnds)
	}
	s.run.Cut(to.gen, why)
	s.adopt(to)
	op.say(PhaseRollback, s.name(), "runs "+describe(to.plugin)+"; its connections were cut")
	return nil
}
