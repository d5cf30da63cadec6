package pluginhost

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
)

// maxShare is the part of a reactor's time that shadows may take. Beyond it a
// connection is let go rather than guests slowed down.
const maxShare = 0.25

// costWindow is how long a reactor's time is looked at, in ns.
const costWindow = int64(500 * time.Millisecond)

// cost is what the shadows take of one reactor. It is that reactor's own.
type cost struct {
	since, spent int64        // ns
	room         compare.Room // for calls that wait for a process
	_            [16]byte
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

// follower is compare.Follower, or compare.Late.
type follower interface {
	Events(b []byte)
	Actions(b []byte, more bool, err error)
	Requests() uint64
	Calls() uint64
	Notes() []*compare.Difference
	Err() error
	Give(text string)
}

// shadowTap follows one connection. It is a guest.Tap.
type shadowTap struct {
	sh     *shadow
	inst   guest.Instance
	f      follower
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
	if err := t.account(began); err != nil {
		t.over(err)
		t.end()
	}
}

// Closed ends it with its connection.
func (t *shadowTap) Closed() {
	if t.inst != nil {
		t.end()
	}
}

// account notes what has been done since began and what it has cost. It gives
// why the connection is not followed any more.
func (t *shadowTap) account(began int64) error {
	t.spend(began)
	t.requests.Store(t.f.Requests())
	t.calls.Store(t.f.Calls())
	for _, n := range t.f.Notes()[t.notes:] {
		t.notes++
		t.sh.say(true, fmt.Sprintf("connection %d: not held against it: %v", t.number, n))
	}
	return t.f.Err()
}

// spend counts the time since began.
func (t *shadowTap) spend(began int64) {
	now := sys.Nanotime()
	t.spent.Store(t.spent.Load() + uint64(now-began))
	if t.cost.add(now, now-began) {
		t.f.Give(fmt.Sprintf("it takes more than %.0f %% of a reactor's time", 100*maxShare))
	}
}

// over tells why the connection is not followed any more.
func (t *shadowTap) over(err error) {
	var limit *compare.Limit
	if !errors.As(err, &limit) {
		t.sh.say(false, fmt.Sprintf("connection %d: %v", t.number, err))
		return
	}
	t.dropped.Store(true)
	t.sh.say(true, fmt.Sprintf("connection %d is not compared any further after %d requests: %v", t.number, t.f.Requests(), err))
}

func (t *shadowTap) end() {
	t.inst.Close()
	t.inst, t.f = nil, nil
}
