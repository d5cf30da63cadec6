package reactor

import "time"

// Timer calls Fire once on its reactor. The zero Timer with Fire set is ready
// for use.
type Timer struct {
	Fire func()
	when int64 // ns on the reactor's clock
	at   int   // place in the heap + 1; 0: not running
}

// timerHeap is a binary heap by time.
type timerHeap []*Timer

// StartTimer makes t fire once after d, to the millisecond, never early; a
// running timer is moved.
func (r *Reactor) StartTimer(t *Timer, d time.Duration) {
	r.StopTimer(t)
	t.when = r.now + int64(max(d, 1)) // later than now, so that a timer cannot starve a turn
	r.timers = append(r.timers, t)
	t.at = len(r.timers)
	r.timers.up(t.at - 1)
}

// StopTimer stops t; it does nothing to one that is not running.
func (r *Reactor) StopTimer(t *Timer) {
	if t.at == 0 {
		return
	}
	r.timers.remove(t.at - 1)
	t.at = 0
}

// Running reports whether t has yet to fire.
func (t *Timer) Running() bool { return t.at != 0 }

func (r *Reactor) fireTimers() (fired bool) {
	for len(r.timers) > 0 && r.timers[0].when <= r.now {
		t := r.timers[0]
		r.timers.remove(0)
		t.at = 0
		t.Fire()
		fired = true
	}
	return fired
}

// timeout gives the milliseconds until the first timer is due, rounded up, or
// -1 if there is none.
func (h timerHeap) timeout(now int64) int {
	if len(h) == 0 {
		return -1
	}
	left := h[0].when - now
	if left <= 0 {
		return 0
	}
	return int(min((left+999_999)/1_000_000, 1<<30))
}

func (h timerHeap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i+1, j+1
}

func (h timerHeap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].when <= h[i].when {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h timerHeap) down(i int) {
	for {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < len(h) && h[c].when < h[least].when {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

func (h *timerHeap) remove(i int) {
	last := len(*h) - 1
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}
