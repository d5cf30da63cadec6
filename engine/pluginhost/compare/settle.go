package compare

import (
	"errors"
	"fmt"

	"blockengine/sdk/abi"
)

// maxLag is for how many calls of the old version the new one may be behind it
// with the end of a request while others are outstanding.
const maxLag = 256

// lagEvery is how many calls of the old version lie between two looks for that.
const lagEvery = 64

// settle looks at what both versions have done by the end of a call. quiet says
// that the new one has seen all that the old one has: when the latter then holds
// nothing, both must have said the same.
func (c *Comparison) settle(quiet bool) error {
	if err := c.look(quiet); err != nil {
		return c.cause(err)
	}
	return nil
}

// cause looks behind what a difference shows itself in: a version that has not
// sent a request stumbles over its answer.
func (c *Comparison) cause(err error) error {
	var d *Difference
	l := &c.sides[Old].lanes[laneSent]
	if !errors.As(err, &d) || d.Class != Received && d.Class != End || l.empty() || c.tolerate[Sent] {
		return err
	}
	s := c.lacks(laneSent, l)
	s.Old = l.tokens[l.head].text(l.bytes[l.at:])
	s.What += "; then " + d.What
	if d.Class == End {
		s.What += " (" + d.New + ")"
	}
	return s
}

func (c *Comparison) look(quiet bool) error {
	for i := range lanes {
		if err := c.lane(i); err != nil {
			return err
		}
	}
	if err := c.results(); err != nil {
		return err
	}
	if err := c.timers(); err != nil {
		return err
	}
	a, b := &c.sides[Old], &c.sides[New]
	if b.failed != a.failed {
		return c.ends(a, b)
	}
	if quiet && a.held == 0 && !a.failed {
		return c.quiet()
	}
	if c.oldOnly > 0 && c.calls >= c.lagAt {
		c.lagAt = c.calls + lagEvery
		return c.lag()
	}
	return nil
}

// lane compares what there is in a lane on both sides.
func (c *Comparison) lane(i int) error {
	a, b := &c.sides[Old].lanes[i], &c.sides[New].lanes[i]
	for {
		m := match(a, b)
		if m == nil {
			break
		}
		d := c.parted(i, m)
		if err := c.judge(d); err != nil {
			return err
		}
		a.pop(a.tokens[a.head].n)
		b.pop(b.tokens[b.head].n)
	}
	if a.full() || b.full() {
		return &Limit{fmt.Sprintf("one version is too far ahead of the other one with %s", c.what(i))}
	}
	return nil
}

func (c *Comparison) what(i int) string {
	return [lanes]string{"what it sends", "what it does with the bytes that it receives", "its limits",
		"what it tells the session", "the end of the connection"}[i]
}

// judge notes a difference of a tolerated class; others it gives back.
func (c *Comparison) judge(d *Difference) error {
	if !c.tolerate[d.Class] {
		return d
	}
	for _, n := range c.notes {
		if n.Class == d.Class {
			return nil
		}
	}
	c.notes = append(c.notes, d)
	return nil
}

func (c *Comparison) parted(i int, m *mismatch) *Difference {
	d := &Difference{Class: laneClass[i], Call: c.calls, Old: m.old.text(m.oldBytes), New: m.new.text(m.newBytes)}
	switch i {
	case laneSent:
		d.What = fmt.Sprintf("they differ from byte %d of what is sent on", m.at)
		call, r, of := c.log.at(m.at, c.sides[Old].sent)
		if call > 0 {
			d.Call, d.Request, d.Of = call, r, of
		}
	case laneReceived:
		d.What = fmt.Sprintf("they do not do the same with the bytes that are received, %d bytes after the comparison began", m.at)
		for _, t := range []*token{&m.old, &m.new} {
			if e := c.requests.find(t.tag); t.kind == abi.ActReceive && e != nil && d.Of == 0 {
				d.Request, d.Of = e.Request, 1
			}
		}
	default:
		d.What = "they differ in " + c.what(i)
	}
	return d
}

// results compares the requests that both have ended by now.
func (c *Comparison) results() error {
	for _, e := range c.both {
		if err := c.result(e); err != nil {
			return err
		}
	}
	c.both = c.both[:0]
	return nil
}

// result compares what has become of a request, and forgets it.
func (c *Comparison) result(e *entry) error {
	a, b := &e.sides[Old], &e.sides[New]
	what := ""
	switch {
	case !a.same(b):
		what = "a request ends otherwise"
	case a.step < a.at && b.at <= a.step:
		what = fmt.Sprintf("the new version ends a request before it has looked at the bytes from %d on of the received stream, for which the other one has waited", a.step)
	}
	if what != "" {
		return &Difference{Class: Result, Call: a.call, Request: e.Request, Of: 1, What: what, Old: a.text(), New: b.text()}
	}
	c.ended++
	c.requests.remove(e)
	return nil
}

// timers compares the timers that were set in this call.
func (c *Comparison) timers() error {
	a, b := &c.sides[Old], &c.sides[New]
	if a.setNow == 0 && b.setNow == 0 || c.resumed && c.calls == 1 {
		return nil
	}
	for id := range uint32(abi.MaxTimers) {
		bit := uint32(1) << id
		if a.setNow&bit == b.setNow&bit && (a.setNow&bit == 0 || a.after[id] == b.after[id]) {
			continue
		}
		d := &Difference{Class: Timers, Call: c.calls, What: fmt.Sprintf("they set timer %d otherwise", id),
			Old: a.timerText(id), New: b.timerText(id)}
		if err := c.judge(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) timerText(id uint32) string {
	switch {
	case s.setNow&(1<<id) == 0:
		return "is left as it is"
	case s.after[id] == 0:
		return "is cancelled"
	}
	return fmt.Sprintf("in %d ns", s.after[id])
}

// ends tells that one version gives the connection up and the other one goes on.
func (c *Comparison) ends(a, b *side) error {
	d := &Difference{Class: End, Call: c.calls, What: "the new version gives the connection up", Old: "goes on", New: fmt.Sprintf("%.200q", b.why)}
	if a.failed {
		d.What, d.Old, d.New = "the version that ran gives the connection up", fmt.Sprintf("%.200q", a.why), "goes on"
	}
	return c.judge(d)
}

// quiet looks for what one version alone has said, at a moment when the old one
// holds no request.
func (c *Comparison) quiet() error {
	if c.oldOnly > 0 {
		return c.behind(0)
	}
	for _, i := range []int{laneSent, laneLimits, laneSession, laneEnd} {
		a, b := &c.sides[Old].lanes[i], &c.sides[New].lanes[i]
		var d *Difference
		switch {
		case !a.empty():
			d = c.lacks(i, a)
			d.Old = a.tokens[a.head].text(a.bytes[a.at:])
		case !b.empty():
			d = c.lacks(i, b)
			d.New = b.tokens[b.head].text(b.bytes[b.at:])
		default:
			continue
		}
		if err := c.judge(d); err != nil {
			return err
		}
		for _, l := range []*lane{a, b} {
			for !l.empty() {
				l.pop(l.tokens[l.head].n)
			}
		}
	}
	return nil
}

func (c *Comparison) lacks(i int, l *lane) *Difference {
	d := &Difference{Class: laneClass[i], Call: c.calls, What: "they differ in " + c.what(i)}
	if i == laneSent {
		d.What = fmt.Sprintf("one sends %d bytes from byte %d on that the other one does not send", l.ahead(), l.passed)
		if call, r, of := c.log.at(l.passed, c.sides[Old].sent); call > 0 {
			d.Call, d.Request, d.Of = call, r, of
		}
	}
	return d
}

// lag looks for requests that the old version has ended long ago.
func (c *Comparison) lag() error { return c.behind(maxLag) }

func (c *Comparison) behind(calls uint64) error {
	for i := range c.requests.slots {
		e := &c.requests.slots[i]
		a, b := &e.sides[Old], &e.sides[New]
		if e.used && a.done && !b.done && c.calls-a.call >= calls {
			return &Difference{Class: Result, Call: a.call, Request: e.Request, Of: 1,
				What: "the new version does not end a request", Old: a.text(), New: b.text()}
		}
	}
	return nil
}
