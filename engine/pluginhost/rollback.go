package pluginhost

import (
	"errors"
	"fmt"
)

// rollback carries out the operator's order to go back to the generation
// before.
func (op *operation) rollback(r RollbackRequest) error {
	op.enter(PhaseRollback, "")
	from, to, err := op.line.back()
	if err != nil {
		return err
	}
	op.to = to
	if err := op.begin(r.Method, r.Drain); err != nil {
		return err
	}
	if err := op.onlyThose(from); err != nil {
		return err
	}
	if r.Save {
		if err := op.checkSave(); err != nil {
			return err
		}
	}
	if err := op.checkOptions(); err != nil {
		return err
	}
	if op.ctx.Err() != nil {
		return op.givenUp()
	}
	// From here on only the engine's end stops it. A version that cannot go in
	// order is cut: that its requests do not finish may be just why the operator
	// wants to be rid of it.
	for _, s := range op.seats {
		if err := op.send(s, s.next, false, errOrdered.Error()); err != nil {
			return err
		}
	}
	op.count(func(c *UpgradeCounters) { c.Rollbacks[reasonOperator]++ })
	op.line.note(errOrdered.Error())
	if r.Save {
		return op.keep(to)
	}
	return nil
}

// back says what a rollback leads from and to.
func (l *line) back() (from, to *Plugin, err error) {
	switch r := l.roles; {
	case r.canary != nil:
		return r.canary, r.current, nil
	case r.previous != nil:
		return r.current, r.previous, nil
	}
	return nil, nil, errors.New("there is no generation to go back to: nothing was upgraded since the engine started or was last rolled back; upgrade to the older file instead")
}

// onlyThose leaves the seats that run a generation. One that was named and does
// not is an error.
func (op *operation) onlyThose(from *Plugin) error {
	for _, s := range op.seats {
		if p := s.home.plugin; p != from && len(op.chosen) > 0 {
			return fmt.Errorf("volume %q runs %s already", s.name(), describe(p))
		}
	}
	op.keepSeats(func(s *seat) bool { return s.home.plugin == from })
	return nil
}
