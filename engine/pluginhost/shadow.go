package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/sdk/manifest"
)

// ShadowFigures are what running a version beside another one has compared and
// cost.
type ShadowFigures struct {
	Connections int
	Requests    uint64        // that both versions have ended in the same way
	Calls       uint64        // of the version that runs, that were followed
	Spent       time.Duration // of reactors' time
	Process     time.Duration // processor time of the version's process, 0 if it has none
	Lasted      time.Duration
	Pause       time.Duration // the longest that a request had to wait for a connection to be joined
	Dropped     int           // connections that were not followed to the end
}

// PerRequest is the reactors' time that a request has cost.
func (f *ShadowFigures) PerRequest() time.Duration {
	return f.Spent / time.Duration(max(f.Requests, 1))
}

func (f *ShadowFigures) String() string {
	text := fmt.Sprintf("%d requests on %d connections were compared and none differs; it took %v of the reactors' time for each",
		f.Requests, f.Connections, f.PerRequest().Round(10*time.Nanosecond))
	if f.Process > 0 {
		text += fmt.Sprintf(", and %v of its process's", (f.Process / time.Duration(max(f.Requests, 1))).Round(10*time.Nanosecond))
	}
	if f.Requests == 0 {
		text = fmt.Sprintf("no request came on %d connections, so nothing was compared", f.Connections)
	}
	if f.Dropped > 0 {
		text += fmt.Sprintf("; %d connections were let go before the end", f.Dropped)
	}
	return text
}

// add puts another volume's figures to these.
func (f *ShadowFigures) add(o ShadowFigures) {
	f.Connections += o.Connections
	f.Requests += o.Requests
	f.Calls += o.Calls
	f.Spent += o.Spent
	f.Process += o.Process
	f.Dropped += o.Dropped
	f.Lasted, f.Pause = max(f.Lasted, o.Lasted), max(f.Pause, o.Pause)
}

// observable is what a shadow needs of a volume's session.
type observable interface {
	Observe(ctx context.Context, o session.Observer) (*session.Observed, error)
}

// shadow runs the new version beside the one that runs. What it finds stops the
// upgrade before anything is changed.
func (op *operation) shadow() error {
	if op.shadowed == 0 || len(op.seats) == 0 {
		return nil
	}
	op.enter(PhaseShadow, fmt.Sprintf("for %v", op.shadowed))
	if err := op.canShadow(); err != nil {
		return err
	}
	began, used := time.Now(), processTime(op.to)
	costs := newCosts(op.seats)
	var list []*shadow
	stop := func(patience time.Duration) {
		for _, sh := range list {
			sh.leave()
		}
		until := time.Now().Add(patience)
		for _, sh := range list {
			sh.stop(until)
		}
	}
	for _, s := range op.seats {
		sh := newShadow(s, costs)
		list = append(list, sh)
		if err := sh.start(op.ctx, op.drain); err != nil {
			stop(0)
			return op.notShadowed(s, err)
		}
		if st, reason := s.disk.Volume.State(); st != volume.Online {
			op.say(PhaseShadow, s.name(), fmt.Sprintf("is %v (%s): its connections are compared when they are there", st, reason))
		}
	}
	err := op.followShadows(list)
	if err != nil {
		stop(0)
	} else {
		stop(lateWait)
		err = op.shadowsEnd(list, processTime(op.to)-used)
	}
	if err != nil && op.ctx.Err() == nil {
		op.count(func(*UpgradeCounters) { op.line.last = max(op.line.last, op.to.Generation) })
		op.line.history.was(Record{Generation: op.to.Generation, Version: op.to.Version, Hash: op.to.Hash, Path: op.to.Path,
			Volumes: namesOf(op.seats), Since: began, Until: time.Now(), Ended: "never ran: " + err.Error()})
	}
	op.rebase()
	return err
}

// canShadow refuses versions that cannot be compared at all.
func (op *operation) canShadow() error {
	why := ""
	from := op.seats[0].home.plugin
	switch {
	case op.to.Kind != Protocol || from.Kind != Protocol:
		why = "a store does its own I/O, so beside the version that runs it would carry out every write a second time"
	case op.to.module.Manifest().Payload != from.module.Manifest().Payload:
		why = fmt.Sprintf("one version has payload %q and the other one %q, so they are handed other events",
			orDirect(from.module.Manifest().Payload), orDirect(op.to.module.Manifest().Payload))
	default:
		return nil
	}
	return fmt.Errorf("%s cannot be run as a shadow: %s: leave --shadow out, try it with engine plugin test, and upgrade one volume first (--volume), which is watched and goes back by itself",
		describe(op.to), why)
}

func orDirect(p manifest.Payload) manifest.Payload {
	if p == "" {
		return manifest.Direct
	}
	return p
}

// notShadowed says why a shadow could not begin.
func (op *operation) notShadowed(s *seat, err error) error {
	var d *compare.Difference
	switch {
	case op.ctx.Err() != nil:
		return op.givenUp()
	case errors.As(err, &d):
		return fmt.Errorf("volume %q: %s was run as a shadow: %w", s.name(), describe(op.to), err)
	case errors.Is(err, session.ErrNotObserved):
		return fmt.Errorf("volume %q: %s cannot be run as a shadow: %w: leave --shadow out to upgrade without", s.name(), describe(op.to), err)
	}
	return fmt.Errorf("volume %q: %s cannot be run as a shadow: %w", s.name(), describe(op.to), err)
}

// followShadows waits until the time is over or something is found.
func (op *operation) followShadows(list []*shadow) error {
	look, end := time.NewTicker(lookEvery), time.NewTimer(op.shadowed)
	defer look.Stop()
	defer end.Stop()
	for {
		select {
		case <-op.ctx.Done():
			return op.givenUp()
		case <-end.C:
			return nil
		case <-look.C:
			for _, sh := range list {
				if err := op.shadowFound(sh); err != nil {
					return err
				}
			}
		}
	}
}

// shadowFound tells what a shadow has found since it was asked last.
func (op *operation) shadowFound(sh *shadow) error {
	for _, f := range sh.news() {
		if f.note {
			op.say(PhaseShadow, sh.seat.name(), f.text)
			continue
		}
		return fmt.Errorf("%s was run as a shadow and is not taken: volume %q, %s", describe(op.to), sh.seat.name(), f.text)
	}
	return nil
}

// processTime is what the process of a plugin has used, 0 if it has none.
func processTime(p *Plugin) time.Duration {
	s, _ := p.Process()
	return s.CPU
}

// shadowsEnd looks once more when all have stopped, and tells the figures. used is
// what the version's process has used for all of them.
func (op *operation) shadowsEnd(list []*shadow, used time.Duration) error {
	var sum ShadowFigures
	each := make([]ShadowFigures, len(list))
	for i, sh := range list {
		if err := op.shadowFound(sh); err != nil {
			return err
		}
		f := sh.figures()
		if f.Requests == 0 && f.Dropped > 0 {
			return fmt.Errorf("volume %q: no request could be compared: leave --shadow out to upgrade without: %s", sh.seat.name(), strings.Join(sh.said(), "; "))
		}
		sum.add(f)
		each[i] = f
	}
	for i, sh := range list {
		f := &each[i]
		f.Process = time.Duration(float64(used) * float64(f.Requests) / float64(max(sum.Requests, 1)))
		op.tell(Event{Phase: PhaseShadow, Volume: sh.seat.name(), Pause: f.Pause, Shadow: f, Text: f.String()})
	}
	sum.Process = used
	op.figures = &sum
	return nil
}

// rebase has what comes be compared with what the version that runs does alone.
func (op *operation) rebase() {
	op.based = time.Now()
	for _, s := range op.seats {
		s.first = op.u.seams.health(s.home.gen)
	}
}

// noteShadow keeps in the history what the shadow has shown of a version that
// runs now.
func (op *operation) noteShadow() {
	if op.figures == nil {
		return
	}
	text := op.figures.String()
	h := op.line.history
	h.change(func() {
		for i := range slices.Backward(h.records) {
			if r := &h.records[i]; r.Generation == op.to.Generation && r.Ended == "" {
				r.Shadow = text
				return
			}
		}
	})
}
