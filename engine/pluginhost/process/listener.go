package process

import (
	"errors"
	"fmt"
	"sync"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/sdk/process/ring"
)

// maxRings is how often a process may wake the engine for nothing. Being woken
// while it was looking already happens now and then; who does nothing else keeps a
// reactor from its work.
const maxRings = 10_000

// listener is what a link and an instance have in common: a reactor that looks at
// a region, is woken by the process, and is told when that has died or hangs.
type listener struct {
	region *region
	c      hooks
	look   func() bool     // takes what has come
	ended  func(err error) // nothing more comes; called at most once, on the reactor
	done   func() uint32   // how much of what was given the process has dealt with, for hang

	r      *reactor.Reactor
	source *reactor.Source
	polled reactor.Polled
	armed  bool   // CompArmed may ask for an event
	seen   uint32 // completions, or answers, that have been taken
	given  uint32 // submissions, or calls, that have been published
	rings  int    // since the last completion
	over   bool   // ended has been called, or is not wanted any more

	hang   reactor.Timer
	doneAt uint32 // done when hang was started

	// mu guards dead and on: the process may die before there is a reactor.
	mu   sync.Mutex
	dead error
	on   *reactor.Reactor
}

func (l *listener) init(r *region, c hooks, look func() bool, ended func(error), done func() uint32) {
	l.region, l.c, l.look, l.ended, l.done = r, c, look, ended, done
	l.polled = reactor.Polled{Look: l.lookAround, Arm: l.arm}
	l.hang.Fire = l.looksHung
}

// start begins to look, on r.
func (l *listener) start(r *reactor.Reactor) error {
	if l.r != nil {
		return errors.New("it has been started before")
	}
	if l.over {
		return errors.New("it is closed")
	}
	source, err := r.Add(l.region.bell, sys.EpollIn, l)
	if err != nil {
		return err
	}
	l.r, l.source = r, source
	l.attend()
	l.mu.Lock()
	l.on = r
	dead := l.dead
	l.mu.Unlock()
	if dead != nil {
		r.Post(reactor.MailFunc(l.deliverDeath))
	}
	return nil
}

// died tells that the process is gone, and has been reaped. Safe from any goroutine.
func (l *listener) died(err error) {
	l.mu.Lock()
	first := l.dead == nil
	if first {
		l.dead = err
	}
	on := l.on
	l.mu.Unlock()
	if first && on != nil {
		on.Post(reactor.MailFunc(l.deliverDeath))
	}
}

// deliverDeath takes what the process has still finished: nobody changes it any
// more.
func (l *listener) deliverDeath() {
	if l.over {
		return
	}
	l.look()
	l.end(l.deathCause())
}

func (l *listener) deathCause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// Ready is called when the process has rung. The counter is not read: whoever
// shares it could make the reactor wait.
func (l *listener) Ready(uint32) {
	if l.rings++; l.rings > maxRings {
		l.broken("output", fmt.Errorf("it has woken the engine %d times and given it nothing", maxRings))
		return
	}
	l.attend()
}

// attend has the reactor look at the region in its turns.
func (l *listener) attend() {
	if l.armed {
		l.armed = false
		l.region.CompArmed.Store(ring.Awake)
	}
	l.r.Poll(&l.polled)
}

// arm asks to be woken from now on.
func (l *listener) arm() (come bool) {
	l.armed = true
	l.region.CompArmed.Swap(ring.WakeEvent) // see ring: not Store
	if l.region.CompTail.Load() == l.seen {
		return false
	}
	l.armed = false
	l.region.CompArmed.Store(ring.Awake)
	return true
}

func (l *listener) lookAround() bool { return !l.over && l.look() }

// publish makes n submissions, or calls, visible.
func (l *listener) publish(n uint32) {
	l.given += n
	l.region.SubTail.Swap(l.given) // see ring: not Store
	l.region.wakeProcess()
}

// watch looks from time to time whether the process deals with what it is given.
func (l *listener) watch() {
	if !l.hang.Running() && l.c.hang > 0 {
		l.doneAt = l.done()
		l.r.StartTimer(&l.hang, l.c.hang)
	}
}

// looksHung is called when something has been with the process for so long.
func (l *listener) looksHung() {
	done := l.done()
	switch {
	case l.over || done == l.given:
	case done == l.doneAt:
		l.broken("hang", fmt.Errorf("it has not dealt with what it was given for %v", l.c.hang))
	default:
		l.doneAt = done
		l.r.StartTimer(&l.hang, l.c.hang)
	}
}

// broken ends it because of what the process has done.
func (l *listener) broken(cause string, err error) {
	trap := &guest.Trap{Cause: cause, Err: err}
	l.c.broke(trap)
	l.end(trap)
}

func (l *listener) end(err error) {
	if l.stop() {
		l.ended(err)
	}
}

// stop ends the looking, and reports whether it was the first to.
func (l *listener) stop() bool {
	if l.over {
		return false
	}
	l.over = true
	if l.r != nil {
		l.r.StopPolling(&l.polled)
		l.r.StopTimer(&l.hang)
		l.source.Close()
	}
	return true
}
