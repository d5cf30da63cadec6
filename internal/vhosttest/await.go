package vhosttest

import (
	"fmt"
	"time"

	"blockengine/engine/sys"
)

// spins between looks at the clock, when polling.
const spins = 1 << 12

// sleepFor is how long a wait for a call lasts at most, in ms: then the worker
// looks whether something is hung.
const sleepFor = 20

// awayPause is how often a ring is looked at while there is no back-end.
const awayPause = 100 * time.Microsecond

// await returns when there may be completions. It is an error if there will be
// none.
func (w *worker) await() error {
	if w.l.o.Poll {
		return w.spin()
	}
	for !w.ring.Arm() {
		w.counts.sleeps++
		called, err := w.waiter.wait(sleepFor)
		if err != nil {
			return err
		}
		if w.ring.UsedIdx() != w.ring.lastUsed {
			if called {
				w.counts.calls++
			} else if err := w.lateCall(); err != nil {
				return err
			}
			break
		}
		if err := w.checkHung(); err != nil {
			return err
		}
	}
	w.ring.Quiet()
	return nil
}

// callGrace is how long a call may come after its completion.
const callGrace = int64(time.Second)

// lateCall waits for the call that must come with a completion that is there: a
// guest would wait for it too. Time without a back-end does not count; one that
// was killed between completion and call owes the call after its return.
func (w *worker) lateCall() error {
	for from := sys.Nanotime(); ; {
		called, err := w.waiter.wait(sleepFor)
		if called || err != nil || takeEvent(w.ring.masked) {
			return err
		}
		now := sys.Nanotime()
		if w.l.down.Load() {
			if w.l.stop.Load() && w.redialFailed() {
				return nil
			}
			from = now
		}
		if now-max(from, w.l.resumed.Load()) > callGrace {
			w.counts.missed++
			return nil
		}
	}
}

func (w *worker) spin() error {
	last := w.ring.lastUsed
	for {
		for range spins {
			if w.ring.UsedIdx() != last {
				w.ring.Quiet()
				return nil
			}
		}
		if err := w.checkHung(); err != nil {
			return err
		}
	}
}

// checkHung ends a load that waits for what will not come: the back-end is lost
// and nobody redials, or requests are older than the timeout. The time without a
// back-end does not count.
func (w *worker) checkHung() error {
	l := w.l
	if l.down.Load() {
		if l.stop.Load() && w.redialFailed() {
			return w.giveUp(fmt.Errorf("vhosttest: %w", ErrLost))
		}
		time.Sleep(awayPause) // leave the processor to who starts the back-end
		return nil
	}
	oldest := w.oldest()
	since := max(oldest, l.resumed.Load())
	if sys.Nanotime()-since < int64(l.o.Timeout) {
		return nil
	}
	return w.giveUp(fmt.Errorf("vhosttest: requests %w within %v", ErrHung, l.o.Timeout))
}

// redialFailed says whether there will be no other back-end.
func (w *worker) redialFailed() bool {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

func (w *worker) oldest() int64 {
	oldest := sys.Nanotime()
	for i := range w.slots {
		if s := &w.slots[i]; s.live {
			oldest = min(oldest, s.at)
		}
	}
	return oldest
}

// giveUp names what is outstanding.
func (w *worker) giveUp(why error) error {
	now := sys.Nanotime()
	w.noteGap(now)
	var some []string
	for i := range w.slots {
		if s := &w.slots[i]; s.live && len(some) < maxExamples {
			some = append(some, fmt.Sprintf("head %d, operation %d at block %d, %v old", s.first, s.op, w.first+uint64(s.block), time.Duration(now-s.at)))
		}
	}
	return fmt.Errorf("%w: %d outstanding, available index %d, used index %d: %q", why, w.ring.Outstanding(), w.ring.AvailIdx(), w.ring.UsedIdx(), some)
}

// abandon ends what was never finished, whose outcome is unknown.
func (w *worker) abandon() {
	for i := range w.slots {
		s := &w.slots[i]
		if !s.live {
			continue
		}
		w.counts.hung++
		if s.note != nil {
			s.note.End(nil, ErrHung)
			s.note = nil
		}
	}
}

// noteGap keeps a time without completions that ends now.
func (w *worker) noteGap(now int64) {
	g := Gap{w.queue, time.Duration(w.lastDone - w.l.epoch), time.Duration(now - w.l.epoch)}
	if len(w.counts.gaps) < maxGaps {
		w.counts.gaps = append(w.counts.gaps, g)
		return
	}
	least := 0
	for i := range w.counts.gaps {
		if w.counts.gaps[i].Length() < w.counts.gaps[least].Length() {
			least = i
		}
	}
	if g.Length() > w.counts.gaps[least].Length() {
		w.counts.gaps[least] = g
	}
}
