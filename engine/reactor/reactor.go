package reactor

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/sys"
)

// Handler is told that a descriptor is ready.
type Handler interface {
	// Ready is called on the reactor with sys.Epoll… bits. Sources are edge
	// triggered: it reads or writes until the kernel says EAGAIN or gives
	// less than asked for, or calls Source.Again.
	Ready(events uint32)
}

// Options of a reactor.
type Options struct {
	Index int
	Spin  time.Duration // look for events this long, at most, before sleeping
}

// Reactor is one event loop. Methods are for its own thread unless they say
// otherwise.
type Reactor struct {
	index   int
	spin    int64 // ns, the longest window
	window  int64 // ns to look for events after the last one before sleeping
	behind  bool  // this turn's requests came from a sender that does not wait for us
	ep      int
	wakeFD  int
	now     int64 // ns, monotonic, taken once a turn
	sources []*Source
	free    []uint32  // unused places in sources
	retired []uint32  // freed in this turn, usable from the next
	polled  []*Polled // looked at in every turn; nil: a gap
	asked   int64     // ns, when the kernel was last asked
	again   []*Source
	runs    []*Source // the other buffer of again
	defers  deferList
	timers  timerHeap
	nextGen uint32 // tells a source from its predecessors in the same place
	events  [128]sys.EpollEvent
	shared  map[any]any // by keys of their users' own types

	mail     mailbox
	sleeping atomic.Bool  // in, or about to enter, a call that sleeps
	wakers   atomic.Int32 // who is about to write to wakeFD
	stop     atomic.Bool
	done     chan struct{}

	turns, sleeps atomic.Uint64
}

// New makes a reactor; Start runs it.
func New(o Options) (*Reactor, error) {
	r := &Reactor{index: o.Index, spin: int64(o.Spin), ep: -1, wakeFD: -1, done: make(chan struct{})}
	var err error
	if r.ep, err = sys.EpollCreate(); err != nil {
		return nil, fmt.Errorf("reactor %d: %w (raise the limit on open files: ulimit -n)", o.Index, err)
	}
	if r.wakeFD, err = sys.Eventfd(); err != nil {
		_ = sys.Close(r.ep)
		return nil, fmt.Errorf("reactor %d: %w (raise the limit on open files: ulimit -n)", o.Index, err)
	}
	r.now = sys.Nanotime()
	if _, err = r.Add(r.wakeFD, sys.EpollIn, (*waker)(r)); err != nil {
		_ = sys.Close(r.ep)
		_ = sys.Close(r.wakeFD)
		return nil, err
	}
	return r, nil
}

// Index is the reactor's number, from 0.
func (r *Reactor) Index() int { return r.index }

// Now is the monotonic time in ns at which this turn began.
func (r *Reactor) Now() int64 { return r.now }

// Behind tells that requests have come in this turn from a sender that has not
// yet read the answers to earlier ones. It does not wait for us, so it is no
// reason to spin; sleeping lets more come together for the next turn.
func (r *Reactor) Behind() { r.behind = true }

// Start runs the loop on a thread of its own. Safe from any goroutine, once.
func (r *Reactor) Start() {
	started := make(chan struct{})
	go func() {
		// The thread is never given back: it ends with the goroutine.
		runtime.LockOSThread()
		// A VMM may truncate the memory it shares with us; the fault must
		// be an error of that export (DESIGN chapter 2, rule 9).
		debug.SetPanicOnFault(true)
		close(started)
		r.run()
		close(r.done)
	}()
	<-started
}

// Stop ends the loop after the turn that is running and waits for it. What is
// still registered is left as it is. Safe from any goroutine but the reactor's.
func (r *Reactor) Stop() {
	r.stop.Store(true)
	r.wake()
	<-r.done
	// The loop ends awake, so nobody begins to wake it any more; whoever has
	// begun must not write to a descriptor that is another's by then.
	for r.wakers.Load() != 0 {
		runtime.Gosched()
	}
	_ = sys.Close(r.wakeFD)
	_ = sys.Close(r.ep)
}

func (r *Reactor) run() {
	lastBusy := r.now
	for !r.stop.Load() {
		n := r.wait(lastBusy)
		r.now = sys.Nanotime()
		busy := n > 0
		for i := range n {
			r.dispatch(&r.events[i])
		}
		busy = r.deliver() || busy
		busy = r.fireTimers() || busy
		busy = r.runAgain() || busy
		if len(r.polled) > 0 {
			busy = r.lookAround() || busy
		}
		busy = r.defers.run() || busy
		r.free = append(r.free, r.retired...)
		r.retired = r.retired[:0]
		r.turns.Store(r.turns.Load() + 1)
		if busy {
			r.adapt(r.now - lastBusy)
			lastBusy = r.now
		}
	}
}

// adapt chooses how long to spin after a turn, from how long the turn had to be
// waited for. If spinning for as long as is allowed would have met it, it may
// meet the next; else ever less is spent on trying, until nothing is. What was
// met asleep would have come sooner by what waking took, here and at the other
// end: hence twice the time.
func (r *Reactor) adapt(gap int64) {
	switch {
	case r.behind:
		r.window, r.behind = 0, false
	case gap <= 2*r.spin:
		r.window = r.spin
	default:
		r.window /= 2
	}
}

// wait gives the number of events that have come, sleeping only when the
// reactor has been idle for its spin time and nothing is due.
func (r *Reactor) wait(lastBusy int64) int {
	if len(r.again) > 0 || !r.defers.empty() || r.now-lastBusy < r.window {
		return r.glance()
	}
	if len(r.polled) > 0 && r.armAll() {
		return r.glance()
	}
	ms := r.timers.timeout(r.now)
	if ms == 0 {
		n, _ := sys.EpollPoll(r.ep, r.events[:])
		return n
	}
	// Whoever posts mail looks at sleeping after having put the mail down; we
	// look for mail after having set sleeping. One of the two sees the other.
	r.sleeping.Store(true)
	if r.mail.pending.Load() || r.stop.Load() {
		r.sleeping.Store(false)
		n, _ := sys.EpollPoll(r.ep, r.events[:])
		return n
	}
	r.sleeps.Store(r.sleeps.Load() + 1)
	n, _ := sys.EpollWait(r.ep, r.events[:], ms)
	r.sleeping.Store(false)
	return n
}

// glance looks for events without sleeping, though not in every turn if there
// are things to look at that cost less.
func (r *Reactor) glance() int {
	if len(r.polled) > 0 && r.now-r.asked < kernelEvery {
		return 0
	}
	r.asked = r.now
	n, _ := sys.EpollPoll(r.ep, r.events[:])
	return n
}

// dispatch calls the handler of an event, unless its source was closed earlier
// in this turn.
func (r *Reactor) dispatch(ev *sys.EpollEvent) {
	data := sys.EpollData(ev)
	slot, gen := uint32(data), uint32(data>>32)
	if int(slot) >= len(r.sources) {
		return
	}
	if s := r.sources[slot]; s != nil && s.gen == gen {
		s.handler.Ready(ev.Events)
	}
}

func (r *Reactor) runAgain() bool {
	if len(r.again) == 0 {
		return false
	}
	r.again, r.runs = r.runs[:0], r.again
	for i, s := range r.runs {
		r.runs[i] = nil
		s.queued = false
		if s.reactor != nil {
			s.handler.Ready(sys.EpollIn | sys.EpollOut)
		}
	}
	return true
}

func (r *Reactor) wake() { sys.EventfdSignal(r.wakeFD) }

// waker clears the wake-up event.
type waker Reactor

func (w *waker) Ready(uint32) { sys.EventfdClear(w.wakeFD) }

// Load says how often the loop has turned and slept. Safe from any goroutine.
func (r *Reactor) Load() (turns, sleeps uint64) { return r.turns.Load(), r.sleeps.Load() }

// Mail is something to be done on another reactor.
type Mail interface {
	// Deliver is called on the reactor that the mail was posted to.
	Deliver()
}

// MailFunc makes a Mail of a function, for the control path.
type MailFunc func()

// Deliver calls f.
func (f MailFunc) Deliver() { f() }

// mailbox is what other threads hand to the reactor. mu guards in and is the
// innermost lock of the engine: nothing is called while it is held.
type mailbox struct {
	mu      sync.Mutex
	in, out []Mail
	pending atomic.Bool
}

// Post hands m to the reactor. Safe from any goroutine. The number of mails
// under way is bounded by their senders: each data-path object posts itself at
// most once until it is delivered.
func (r *Reactor) Post(m Mail) {
	r.mail.mu.Lock()
	r.mail.in = append(r.mail.in, m)
	r.mail.pending.Store(true)
	r.mail.mu.Unlock()
	if r.sleeping.Load() {
		r.wakers.Add(1)
		if r.sleeping.CompareAndSwap(true, false) {
			r.wake()
		}
		r.wakers.Add(-1)
	}
}

// Do runs f on the reactor and waits for it, or until the reactor has stopped;
// it reports whether f ran.
// Safe from any goroutine but a reactor's.
func (r *Reactor) Do(f func()) bool {
	ran := make(chan struct{})
	r.Post(MailFunc(func() { f(); close(ran) }))
	select {
	case <-ran:
		return true
	case <-r.done:
	}
	select {
	case <-ran: // both were so, and f is done
		return true
	default:
		return false
	}
}

func (r *Reactor) deliver() bool {
	if !r.mail.pending.Load() {
		return false
	}
	r.mail.mu.Lock()
	r.mail.in, r.mail.out = r.mail.out[:0], r.mail.in
	r.mail.pending.Store(false)
	r.mail.mu.Unlock()
	for i, m := range r.mail.out {
		r.mail.out[i] = nil
		m.Deliver()
	}
	return true
}
