package reactor

// Polled is a place in memory that somebody else writes to, such as a ring that
// is shared with a virtual machine: to look there is cheaper than to be woken.
// It is looked at in every turn for as long as that pays, and then armed, so
// that whoever writes there makes an event instead. It belongs to one reactor.
type Polled struct {
	// Look does what there is to do and reports whether there was anything. It
	// must be quick when there is not.
	Look func() bool
	// Arm asks to be told by an event from now on. It reports whether something
	// has come in the meantime that nobody will be told of.
	Arm func() bool

	last   int64 // ns, when there was something
	active bool
}

// Poll looks at p from the next turn on. It is called when an event has come
// for p, and does nothing if p is being looked at already.
func (r *Reactor) Poll(p *Polled) {
	p.last = r.now
	if !p.active {
		p.active = true
		r.polled = append(r.polled, p)
	}
}

// StopPolling forgets p. It is not armed.
func (r *Reactor) StopPolling(p *Polled) {
	if !p.active {
		return
	}
	p.active = false
	for i, q := range r.polled {
		if q == p {
			r.polled[i] = nil // the list may be being walked; lookAround closes the gap
			return
		}
	}
}

// lookAround looks at everything that is polled. What has had nothing for the
// spin time is armed: others may keep this reactor busy for ever.
func (r *Reactor) lookAround() (found bool) {
	gaps := false
	for i := 0; i < len(r.polled); i++ {
		p := r.polled[i]
		if p == nil {
			gaps = true
			continue
		}
		switch {
		case p.Look():
			p.last = r.now
			found = true
		case r.now-p.last >= r.spin && p.active && !p.Arm():
			p.active, r.polled[i] = false, nil
			gaps = true
		}
	}
	if gaps {
		r.closeGaps()
	}
	return found
}

// armAll arms everything before the reactor sleeps. If something has come in the
// meantime the rest stays as it is, and there is no sleep.
func (r *Reactor) armAll() (come bool) {
	for i, p := range r.polled {
		if p == nil {
			continue
		}
		if p.Arm() {
			come = true
			break
		}
		p.active, r.polled[i] = false, nil
	}
	r.closeGaps()
	return come
}

func (r *Reactor) closeGaps() {
	kept := r.polled[:0]
	for _, p := range r.polled {
		if p != nil {
			kept = append(kept, p)
		}
	}
	clear(r.polled[len(kept):])
	r.polled = kept
}

// kernelEvery is for how long, in ns, turns may look at what is polled only: to
// ask the kernel costs as much as a request.
const kernelEvery = 10_000
