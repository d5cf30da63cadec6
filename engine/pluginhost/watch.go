package pluginhost

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// lookEvery is how often a new version is looked at while it is watched.
const lookEvery = 20 * time.Millisecond

// watch compares the new version with the old one until the time is over, and
// goes back if it is worse.
func (op *operation) watch() error {
	if op.isOrdered() {
		return op.retreat(reasonOperator, "")
	}
	seats := op.moved()
	if op.watched == 0 || len(seats) == 0 {
		return nil
	}
	begun := time.Now()
	op.mu.Lock()
	op.until = begun.Add(op.watched)
	op.mu.Unlock()
	op.enter(PhaseWatch, fmt.Sprintf("for %v", op.watched))
	for _, s := range seats {
		s.judge = newJudge(s.base)
		if names := s.judge.unjudged(); len(names) > 0 {
			op.say(PhaseWatch, s.name(), "latency of "+strings.Join(names, " and of ")+" is not compared: the version before had too few")
		}
	}
	look, end := time.NewTicker(lookEvery), time.NewTimer(op.watched)
	defer look.Stop()
	defer end.Stop()
	for {
		select {
		case <-op.ordered:
			return op.retreat(reasonOperator, "")
		case <-op.u.life.Done():
			return fmt.Errorf("%s was not watched to the end: %w", describe(op.to), errEngineEnds)
		case <-look.C:
			for _, s := range seats {
				if v := s.judge.see(op.look(s, begun)); v != nil {
					return op.retreat(v.reason, fmt.Sprintf("volume %q: %s %s", s.name(), describe(op.to), v.text))
				}
			}
		case <-end.C:
			return nil
		}
	}
}

// look takes a sample of a volume's new generation.
func (op *operation) look(s *seat, begun time.Time) sample {
	return sample{at: time.Since(begun), health: op.u.seams.health(s.next.gen).Since(s.start), online: s.run.Path().Connections}
}

// retreat goes back with every volume of the upgrade. Those whose plugin is not
// to be trusted are cut.
func (op *operation) retreat(reason, text string) error {
	why := text
	if reason == reasonOperator {
		op.asOrdered()
		why = errOrdered.Error()
	} else {
		op.line.log.Error("the new version of a plugin is rolled back", "reason", reason, "why", text, "version", describe(op.to))
	}
	op.enter(PhaseRollback, why)
	if err := op.allBack(reason != reasonOperator, why); err != nil {
		return fmt.Errorf("%w: %s", err, why)
	}
	op.count(func(c *UpgradeCounters) {
		c.Rollbacks[reason]++
		if reason != reasonOperator {
			c.LastReason = reason + ": " + text
		}
	})
	if reason == reasonOperator {
		op.line.note(errOrdered.Error())
		return errOrdered
	}
	op.line.note("rolled back: " + reason + ": " + text)
	return fmt.Errorf("%w: %s: %s", ErrRolledBack, reason, text)
}

// allBack takes every volume of the upgrade back. Those whose version is not to
// be trusted are cut (not when the operator has the time to go in order), and
// before the others, whose draining takes time.
func (op *operation) allBack(mayCut bool, why string) error {
	seats := op.moved()
	bad := func(s *seat) bool { return mayCut && distrust(op.look(s, op.since)) != nil }
	for _, s := range seats {
		if bad(s) {
			if err := op.goBack(s, true, why); err != nil {
				return err
			}
		}
	}
	for _, s := range slices.Backward(op.moved()) {
		if err := op.goBack(s, bad(s), why); err != nil { // it may have turned bad meanwhile
			return err
		}
	}
	return nil
}
