package pluginhost

import (
	"context"
	"fmt"
	"sync"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/session"
)

// spares holds an instance for the next connection of a reactor.
type spares chan guest.Instance

// shadow is the new version beside the one that runs, for one volume.
type shadow struct {
	seat   *seat
	costs  []cost
	ctx    context.Context
	cancel context.CancelFunc
	seen   *session.Observed
	began  time.Time
	spare  []spares // by reactor
	making sync.WaitGroup

	mu    sync.Mutex // guards what follows; held for short copies only
	taps  []*shadowTap
	lates []*lateTap // of them, those whose version runs in a process
	found []found
	told  int // of found
	ended time.Time
}

// found is what a shadow has to say.
type found struct {
	text string
	note bool // it does not speak against the version
}

func newShadow(s *seat, costs []cost) *shadow {
	sh := &shadow{seat: s, costs: costs, began: time.Now()}
	sh.ctx, sh.cancel = context.WithCancel(context.Background())
	for range max(len(s.disk.reactors), 1) {
		sh.spare = append(sh.spare, make(spares, 1))
	}
	return sh
}

// start makes an instance for each reactor and joins the connections.
func (sh *shadow) start(ctx context.Context, drain time.Duration) error {
	run, ok := sh.seat.run.(observable)
	if !ok {
		return fmt.Errorf("%w: it has no connections", session.ErrNotObserved)
	}
	for i := range sh.spare {
		inst, err := sh.seat.next.plugin.module.NewInstance(ctx)
		if err != nil {
			return err
		}
		sh.spare[i] <- inst
	}
	seen, err := run.Observe(ctx, session.Observer{With: sh.seat.next.gen, Drain: drain, Join: sh.join})
	sh.seen = seen
	return err
}

// leave has nothing more come to it. What was there is followed to its end.
func (sh *shadow) leave() {
	sh.cancel()
	if sh.seen != nil {
		sh.seen.Stop()
	}
}

// stop ends it, after leave, and waits for processes that have yet to answer
// until then. Nothing runs on a reactor any more afterwards.
func (sh *shadow) stop(until time.Time) {
	sh.mu.Lock()
	lates := sh.lates
	sh.mu.Unlock()
	for _, t := range lates {
		t.wait(until)
	}
	sh.making.Wait()
	for _, c := range sh.spare {
		select {
		case inst := <-c:
			inst.Close()
		default:
		}
	}
	sh.mu.Lock()
	sh.ended = time.Now()
	sh.mu.Unlock()
}

// join has an instance follow a connection, on its reactor.
func (sh *shadow) join(o session.ConnOpening) (guest.Tap, error) {
	c := sh.spare[o.Reactor]
	var inst guest.Instance
	select {
	case inst = <-c:
	default:
		sh.say(true, fmt.Sprintf("connection %d is not compared: no instance was at hand", o.Number))
		return nil, nil
	}
	sh.making.Add(1)
	go sh.refill(c)
	tap, err := sh.follow(inst, o)
	if err != nil {
		inst.Close()
		sh.say(false, fmt.Sprintf("connection %d: %v", o.Number, err))
		return nil, err
	}
	return tap, nil
}

// follow has inst go on beside the version that runs.
func (sh *shadow) follow(inst guest.Instance, o session.ConnOpening) (guest.Tap, error) {
	start := compare.Start{Opened: o.Opened, Resumed: o.Resumed, Limits: o.Limits, Judge: o.Judge,
		Tolerate: []compare.Class{compare.Limits, compare.Timers}}
	if a, ok := inst.(guest.Apart); ok {
		return sh.followLate(a, start, o)
	}
	f, err := compare.Follow(inst, start)
	if err != nil {
		return nil, err
	}
	t := &shadowTap{sh: sh, inst: inst, f: f, number: o.Number, cost: &sh.costs[o.Reactor]}
	sh.mu.Lock()
	sh.taps = append(sh.taps, t)
	sh.mu.Unlock()
	return t, nil
}

// refill makes the instance for the next connection of a reactor.
func (sh *shadow) refill(c spares) {
	defer sh.making.Done()
	inst, err := sh.seat.next.plugin.module.NewInstance(sh.ctx)
	if err != nil {
		return
	}
	select {
	case c <- inst:
	default:
		inst.Close()
	}
}

func (sh *shadow) say(note bool, text string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.found) < maxFound {
		sh.found = append(sh.found, found{text, note})
	}
}

// maxFound bounds what is kept of what a shadow has to say: connections may come
// and go all the time.
const maxFound = 100

// news gives what was not told yet.
func (sh *shadow) news() []found {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := sh.found[sh.told:]
	sh.told = len(sh.found)
	return list
}

// said gives all notes.
func (sh *shadow) said() (list []string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, f := range sh.found {
		list = append(list, f.text)
	}
	return list
}

// figures sums the connections up, once it has ended.
func (sh *shadow) figures() ShadowFigures {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := ShadowFigures{Connections: len(sh.taps), Lasted: sh.ended.Sub(sh.began)}
	if sh.seen != nil {
		f.Pause = sh.seen.Pause
	}
	for _, t := range sh.taps {
		f.Requests += t.requests.Load()
		f.Calls += t.calls.Load()
		f.Spent += time.Duration(t.spent.Load())
		if t.dropped.Load() {
			f.Dropped++
		}
	}
	return f
}
