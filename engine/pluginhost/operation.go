package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"blockengine/engine/session"
)

// kind of an operation, for people.
type kind string

const (
	upgrading   kind = "upgrade"
	rollingBack kind = "rollback"
)

// operation is an upgrade or a rollback under way. It runs on a goroutine of
// its own, so that nobody who follows it slowly can hold it up.
type operation struct {
	u    *Upgrader
	line *line
	kind kind

	since time.Time
	// ctx ends when the caller gives up, or the operator orders to go back, or
	// the engine ends. Once every volume has been taken over only Upgrader.life,
	// which ends with the engine, and ordered count.
	ctx     context.Context
	giveUp  context.CancelCauseFunc
	ordered chan struct{} // closed when the operator orders to go back
	done    chan struct{} // closed when it has ended and the line is free

	// What it is to do; the operation's goroutine's own.
	methods []session.Method
	drain   time.Duration
	watched time.Duration
	based   time.Time // from when on the old generation is looked at, to compare
	// shadowed is how long the new version is to run beside the old one; figures
	// is what came of that.
	shadowed time.Duration
	figures  *ShadowFigures
	seats    []*seat
	to       *Plugin       // nil until it is loaded
	next     *Plugin       // to, once it has its number, until it has its role; Upgrader.mu guards it
	pause    time.Duration // the longest so far

	chosen []string // volumes that the operator named; not changed

	mu      sync.Mutex // guards what follows
	phase   Phase
	until   time.Time // of the watch
	order   *RollbackRequest
	events  []Event
	changed chan struct{} // closed and made anew with each event
	err     error         // how it ended, once done
}

// errOrdered gives up an upgrade because the operator has said so.
var errOrdered = fmt.Errorf("%w by the operator", ErrRolledBack)

func newOperation(ctx context.Context, u *Upgrader, l *line, kind kind, chosen []string) *operation {
	op := &operation{u: u, line: l, kind: kind, since: time.Now(), chosen: slices.Clone(chosen), phase: PhaseLoad,
		ordered: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{})}
	if kind == rollingBack {
		op.phase = PhaseRollback
	}
	op.ctx, op.giveUp = context.WithCancelCause(ctx)
	return op
}

// run carries out the operation and tells of it until it has ended.
func (op *operation) run(f func() error, report func(Event)) error {
	stop := context.AfterFunc(op.u.life, func() { op.giveUp(errEngineEnds) })
	go func() {
		defer stop()
		op.finish(f())
	}()
	op.follow(context.Background(), 0, report)
	return op.err
}

// finish frees the line. err is how the operation ended.
func (op *operation) finish(err error) {
	op.giveUp(nil)
	l, u := op.line, op.u
	unused := op.settle(err == nil || errors.Is(err, ErrNotKept))
	for _, p := range unused {
		if cerr := u.opt.Registry.unload(p); cerr != nil {
			l.log.Warn("unload a plugin", "version", describe(p), "err", cerr)
		}
	}
	switch {
	case err == nil:
		op.say(PhaseDone, "", "")
	case errors.Is(err, ErrNotKept):
		op.say(PhaseDone, "", err.Error())
	default:
		op.say(PhaseFailed, "", err.Error())
	}
	u.mu.Lock()
	l.op = nil
	u.mu.Unlock()
	op.mu.Lock()
	op.err = err
	op.mu.Unlock()
	close(op.done)
}

// settle gives the line's generations their roles and says which plugins are
// of no more use.
func (op *operation) settle(done bool) (unused []*Plugin) {
	l := op.line
	op.u.mu.Lock()
	defer op.u.mu.Unlock()
	list := l.running()
	if len(list) == 0 && done && op.to != nil {
		list = []*Plugin{op.to} // nothing runs it, but what comes would
	}
	old := l.roles
	l.roles, op.next = old.after(list), nil
	op.u.opt.Registry.replace(l.roles.current)
	for _, p := range []*Plugin{old.current, old.previous, old.canary, op.to} {
		if p != nil && !l.roles.has(p) && !slices.Contains(unused, p) {
			unused = append(unused, p)
		}
	}
	return unused
}

// count changes the line's counters.
func (op *operation) count(f func(c *UpgradeCounters)) {
	op.u.mu.Lock()
	defer op.u.mu.Unlock()
	f(&op.line.counters)
}

// enter begins a phase.
func (op *operation) enter(p Phase, text string) {
	op.mu.Lock()
	op.phase = p
	op.mu.Unlock()
	op.say(p, "", text)
}

// now is the phase that the operation is in.
func (op *operation) now() Phase {
	p, _ := op.progress()
	return p
}

func (op *operation) progress() (Phase, time.Time) {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.phase != PhaseWatch {
		return op.phase, time.Time{}
	}
	return op.phase, op.until
}

// say tells followers and the log. volume is "" if it is of all.
func (op *operation) say(p Phase, volume, text string) {
	op.tell(Event{Phase: p, Volume: volume, Text: text})
}

func (op *operation) tell(e Event) {
	e.Time, e.Plugin = time.Now(), op.line.name
	args := []any{"phase", string(e.Phase)}
	if e.Volume != "" {
		args = append(args, "volume", e.Volume)
	}
	if e.Method != "" {
		args = append(args, "method", e.Method, "pause", e.Pause)
	}
	if e.Text != "" {
		args = append(args, "text", e.Text)
	}
	level := slog.LevelInfo
	if e.Phase == PhaseFailed {
		level = slog.LevelWarn
	}
	op.line.log.Log(context.Background(), level, "plugin "+string(op.kind), args...)
	op.mu.Lock()
	op.events = append(op.events, e)
	close(op.changed)
	op.changed = make(chan struct{})
	op.mu.Unlock()
}

// follow tells report of the events from the one numbered from on, until the
// operation has ended or ctx does.
func (op *operation) follow(ctx context.Context, from int, report func(Event)) {
	for {
		over := isClosed(op.done) // the last event came before
		op.mu.Lock()
		news, changed := op.events[from:], op.changed
		op.mu.Unlock()
		from += len(news)
		for _, e := range news {
			if report != nil {
				report(e)
			}
		}
		if over {
			return
		}
		select {
		case <-changed:
		case <-op.done:
		case <-ctx.Done():
			return
		}
	}
}

// endBy has the operator end an upgrade: what it has done so far is undone.
// over is false if it had come to its end well before it heard of that.
func (op *operation) endBy(ctx context.Context, r RollbackRequest, report func(Event)) (over bool, err error) {
	if len(r.Volumes) > 0 && !sameNames(r.Volumes, op.chosen) {
		return true, fmt.Errorf("an upgrade of plugin %q is under way, which goes back as a whole: roll it back without naming volumes", op.line.name)
	}
	op.mu.Lock()
	if op.order == nil {
		op.order = &r
		close(op.ordered)
		op.giveUp(errOrdered)
	}
	from := len(op.events)
	op.mu.Unlock()
	op.follow(ctx, from, report)
	if !isClosed(op.done) {
		return true, fmt.Errorf("the rollback goes on, nobody waits for it: %w", context.Cause(ctx))
	}
	return op.err != nil && !errors.Is(op.err, ErrNotKept), nil
}

// isOrdered says whether the operator wants the upgrade to go back.
func (op *operation) isOrdered() bool { return isClosed(op.ordered) }

// asOrdered goes back in the way that the operator has ordered.
func (op *operation) asOrdered() {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.methods, _ = methodsOf(op.order.Method) // checked by Rollback
	if op.drain = op.order.Drain; op.drain <= 0 {
		op.drain = DefaultDrain
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func sameNames(a, b []string) bool {
	return slices.Equal(unique(a), unique(b))
}

// unique gives names sorted and without doubles.
func unique(names []string) []string {
	list := slices.Clone(names)
	slices.Sort(list)
	return slices.Compact(list)
}

// methodsOf gives the methods that a request allows, none for all.
func methodsOf(name string) ([]session.Method, error) {
	if name == "" {
		return nil, nil
	}
	m, ok := session.ParseMethod(name)
	if !ok {
		return nil, fmt.Errorf("%.80q is no method of going over to another version: leave it out, or write handover, second-session or serial", name)
	}
	return []session.Method{m}, nil
}
