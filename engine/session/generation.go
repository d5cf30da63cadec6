package session

import (
	"sync/atomic"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
)

// Generation is a version of a volume's plugin as its session runs it. It is
// not changed once it is made, but for what it counts. Its methods are safe
// from any goroutine.
type Generation struct {
	number   int
	module   guest.Module // of a protocol plugin
	store    guest.Store  // or of a store in another process
	options  []byte
	copies   bool        // the plugin transforms payload
	parity   byte        // in SessionID, so that a session is not taken for the one beside it
	strict   bool        // the disk must be exactly as the version before shows it
	proven   atomic.Bool // it has been online
	members  members
	counters genCounters
	loads    []genLoad // by reactor, each written by that reactor alone
}

// NewGeneration makes a generation for one session. options are "name=value\0"
// in the order of the module's manifest and may hold secrets; reactors is how
// many there are.
func NewGeneration(number int, m guest.Module, options []byte, reactors int) *Generation {
	return &Generation{number: number, module: m, options: options,
		copies: m.Manifest().Payload == manifest.Copy, loads: make([]genLoad, reactors)}
}

// NewStoreGeneration makes a generation of a store that runs in a process of its
// own, for one volume's session.
func NewStoreGeneration(number int, st guest.Store, options []byte, reactors int) *Generation {
	return &Generation{number: number, store: st, options: options, loads: make([]genLoad, reactors)}
}

// name is what the plugin calls itself.
func (g *Generation) name() string {
	if g.store != nil {
		return g.store.Manifest().Name
	}
	return g.module.Manifest().Name
}

// Number tells a plugin's generations apart; a later one has a greater number.
func (g *Generation) Number() int { return g.number }

// Health is what has become of a generation's connections and requests since it
// was made.
type Health struct {
	Traps      uint64 // ends of an instance by the plugin's own fault
	Violations uint64 // breaches of the contract
	Refused    uint64 // connections that the plugin was told of and that never got online
	Lost       uint64 // connections that were online, whoever ended them
	Reads      Load
	Writes     Load // all that modifies, and flush
	// Oldest is for how long the request that has been outstanding longest has
	// waited for its answer, as seen at the last tick (a tenth of the volume's
	// timeout, at most a second).
	Oldest time.Duration
}

// Load counts requests that a plugin has finished.
type Load struct {
	Requests uint64
	Errors   uint64 // of them
	NS       uint64 // sum of their times from offer to end
}

// Since gives what has come to pass after an earlier Health.
func (h Health) Since(old Health) Health {
	return Health{
		Traps: h.Traps - old.Traps, Violations: h.Violations - old.Violations,
		Refused: h.Refused - old.Refused, Lost: h.Lost - old.Lost,
		Reads: h.Reads.since(old.Reads), Writes: h.Writes.since(old.Writes),
		Oldest: h.Oldest, // is as it is
	}
}

func (l Load) since(old Load) Load {
	return Load{l.Requests - old.Requests, l.Errors - old.Errors, l.NS - old.NS}
}

type genCounters struct{ traps, violations, refused, lost atomic.Uint64 }

// genLoad is what a reactor counts. The atomics are for who reads: only one
// thread writes, so it need not lock the bus.
type genLoad struct {
	of     [2]struct{ requests, errors, ns atomic.Uint64 } // reads, writes
	oldest atomic.Int64                                    // ns
	_      [64]byte                                        // the next reactor's is on another cache line
}

// Health gives a snapshot.
func (g *Generation) Health() Health {
	h := Health{Traps: g.counters.traps.Load(), Violations: g.counters.violations.Load(),
		Refused: g.counters.refused.Load(), Lost: g.counters.lost.Load()}
	for i := range g.loads {
		for j, to := range []*Load{&h.Reads, &h.Writes} {
			from := &g.loads[i].of[j]
			to.Requests += from.requests.Load()
			to.Errors += from.errors.Load()
			to.NS += from.ns.Load()
		}
		h.Oldest = max(h.Oldest, time.Duration(g.loads[i].oldest.Load()))
	}
	return h
}

// tally is what a connection has counted since it last told its generation:
// reads, writes.
type tally [2]Load

// count notes that a request has ended after ns.
func (t *tally) count(op block.Op, st block.Status, ns int64) {
	l := &t[0]
	if op.Modifies() || op == block.OpFlush {
		l = &t[1]
	}
	l.Requests++
	l.NS += uint64(max(ns, 0))
	if st != block.OK {
		l.Errors++
	}
}

// add takes in what a connection on reactor r has counted.
func (g *Generation) add(r int, t *tally) {
	for i := range t {
		if t[i].Requests == 0 {
			continue
		}
		l := &g.loads[r].of[i]
		l.requests.Store(l.requests.Load() + t[i].Requests)
		l.errors.Store(l.errors.Load() + t[i].Errors)
		l.ns.Store(l.ns.Load() + t[i].NS)
	}
	*t = tally{}
}
