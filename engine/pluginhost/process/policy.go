package process

import (
	"fmt"
	"time"
)

// policy says when a plugin whose process has died gets another one. A process
// that has served for a while is replaced at once, however often that happens;
// one that dies soon again and again waits longer each time, and after too many
// deaths it is left alone for a while.
type policy struct {
	steady  time.Duration // who lived as long has not died soon
	free    int           // soon deaths in a row that cost nothing
	first   time.Duration // the wait after those, doubled each time
	last    time.Duration // the longest wait
	budget  int           // soon deaths within window
	window  time.Duration
	penalty time.Duration // for how long the plugin is left alone

	deaths  []time.Time // soon ones within window
	row     int         // of them in a row
	next    time.Time   // no process before that
	blocked bool        // next is the penalty's end
	lastWas string      // how the last one died
}

func newPolicy() policy {
	return policy{steady: 500 * time.Millisecond, free: 2, first: 50 * time.Millisecond, last: 5 * time.Second,
		budget: 10, window: time.Minute, penalty: 30 * time.Second}
}

// died notes a death after a life of lived (0: it never served), and tells
// whether the plugin is left alone from now on.
func (p *policy) died(now time.Time, lived time.Duration, how string) (leftAlone bool) {
	p.lastWas = how
	if lived >= p.steady {
		p.row = 0
		return false
	}
	for len(p.deaths) > 0 && now.Sub(p.deaths[0]) > p.window {
		p.deaths = p.deaths[1:]
	}
	p.deaths = append(p.deaths, now)
	p.row++
	if len(p.deaths) >= p.budget {
		p.deaths, p.row = nil, p.free // back-off begins anew, and not for free
		p.next, p.blocked = now.Add(p.penalty), true
		return true
	}
	if over := p.row - p.free; over > 0 {
		wait := p.last
		if over <= 16 {
			wait = min(p.first<<(over-1), p.last)
		}
		p.next, p.blocked = now.Add(wait), false
	}
	return false
}

// admit says how long to wait before a process may be started. An error means
// that the plugin is left alone.
func (p *policy) admit(now time.Time) (time.Duration, error) {
	wait := p.next.Sub(now)
	if wait <= 0 {
		p.blocked = false
		return 0, nil
	}
	if p.blocked {
		return 0, fmt.Errorf("its process has died %d times within %v, the last time: %s; it is started again in %v",
			p.budget, p.window, p.lastWas, wait.Round(time.Second))
	}
	return wait, nil
}
