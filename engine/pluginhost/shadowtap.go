package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/session"
	"blockengine/engine/sys"
)

// maxShare is the part of a reactor's time that shadows may take. Beyond it a
// connection is let go rather than guests slowed down.
const maxShare = 0.25

// costWindow is how long a reactor's time is looked at, in ns.
const costWindow = int64(500 * time.Millisecond)

// cost is what the shadows take of one reactor's time. It is that reactor's own.
type cost struct {
	since, spent int64 // ns
	_            [48]byte
}

func newCosts(seats []*seat) []cost {
	n := 0
	for _, s := range seats {
		n = max(n, len(s.disk.reactors))
	}
	return make([]cost, max(n, 1))
}

// add takes in what a call has cost and tells whether it is too much.
func (c *cost) add(now, ns int64) (over bool) {
	if c.since == 0 {
		c.since = now - ns
	}
	c.spent += ns
	if lasted := now - c.since; lasted >= costWindow {
		over = float64(c.spent) > maxShare*float64(lasted)
		c.since, c.spent = now, 0
	}
	return over
}

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

// stop ends it. Nothing runs on a reactor any more afterwards.
func (sh *shadow) stop() {
	sh.cancel()
	if sh.seen != nil {
		sh.seen.Stop()
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
	f, err := compare.Follow(inst, compare.Start{Opened: o.Opened, Resumed: o.Resumed, Limits: o.Limits, Judge: o.Judge,
		Tolerate: []compare.Class{compare.Limits, compare.Timers}})
	if err != nil {
		inst.Close()
		sh.say(false, fmt.Sprintf("connection %d: %v", o.Number, err))
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

// shadowTap follows one connection. It is a guest.Tap.
type shadowTap struct {
	sh     *shadow
	inst   guest.Instance
	f      *compare.Follower
	number uint32
	cost   *cost
	notes  int // that were told

	// Of who looks from elsewhere; only the reactor writes.
	requests, calls, spent atomic.Uint64
	dropped                atomic.Bool
}

// Events takes the events of a call.
func (t *shadowTap) Events(b []byte) {
	if t.inst != nil {
		t.f.Events(b)
	}
}

// Actions takes what the running version has answered, and has the new one
// answer.
func (t *shadowTap) Actions(b []byte, more bool, err error) {
	if t.inst == nil {
		return
	}
	began := sys.Nanotime()
	t.f.Actions(b, more, err)
	now := sys.Nanotime()
	t.requests.Store(t.f.Requests())
	t.calls.Store(t.f.Calls())
	t.spent.Store(t.spent.Load() + uint64(now-began))
	if t.cost.add(now, now-began) {
		t.f.Give(fmt.Sprintf("it takes more than %.0f %% of a reactor's time", 100*maxShare))
	}
	for _, n := range t.f.Notes()[t.notes:] {
		t.notes++
		t.sh.say(true, fmt.Sprintf("connection %d: not held against it: %v", t.number, n))
	}
	if err := t.f.Err(); err != nil {
		t.over(err)
	}
}

// over tells why the connection is not followed any more.
func (t *shadowTap) over(err error) {
	var limit *compare.Limit
	note := errors.As(err, &limit)
	if note {
		t.dropped.Store(true)
		t.sh.say(true, fmt.Sprintf("connection %d is not compared any further after %d requests: %v", t.number, t.f.Requests(), err))
	} else {
		t.sh.say(false, fmt.Sprintf("connection %d: %v", t.number, err))
	}
	t.end()
}

func (t *shadowTap) end() {
	t.inst.Close()
	t.inst = nil
}

// Closed ends it with its connection.
func (t *shadowTap) Closed() {
	if t.inst != nil {
		t.end()
	}
}
