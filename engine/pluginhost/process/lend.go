package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"blockengine/engine/sys"
	calls "blockengine/sdk/process/control"
)

// maxLoans is how many mappings a process is shown at most: each costs it one of
// the mappings that a process may have.
const maxLoans = 8192

// lender shows a process the memory of virtual machines, where the operator trusts
// it with that, and has it forget memory that has gone. A request that meets memory
// for the first time is copied, and so are others until the process has mapped it:
// no reactor waits.
type lender struct {
	log    *slog.Logger
	number func() uint64
	// show has the process map m under a number, and waits until it has. hide is the
	// inverse. An error that is no *refusal means that the process is of no more use,
	// and that its end is under way.
	show func(number uint64, m *sys.Mapping) error
	hide func(number uint64) error

	// known are the loans by their mapping's number. It is never changed in place,
	// so that a look-up takes no lock.
	known atomic.Pointer[map[uint64]*loan]

	mu     sync.Mutex // guards what follows; taken before a mapping's
	jobs   []*loan    // that are to be shown or hidden, in order
	atWork bool       // a goroutine does so
	over   bool       // the process has ended
	warned bool       // that some memory is always copied
}

// loan is a mapping that the process has, is to have, or cannot have.
type loan struct {
	m      *sys.Mapping
	usable atomic.Bool // the process has it mapped
	number uint64      // what the process knows it as; set before usable
	gone   bool        // lender.mu: it is unregistered
	shown  bool        // the job's: the process may have it mapped
}

// refusal is why a process cannot map memory that it was shown.
type refusal struct{ error }

func newLender(log *slog.Logger, number func() uint64) *lender {
	l := &lender{log: log, number: number}
	l.known.Store(&map[uint64]*loan{})
	return l
}

// find gives what the process knows b's memory as, and where in it b starts. false:
// it cannot get at all of b, or not yet. It takes no lock, but for memory that is
// met for the first time. It is called on reactors.
func (l *lender) find(b []byte) (number, at uint64, ok bool) {
	m, at := sys.MappingOf(b)
	if m == nil {
		return 0, 0, false
	}
	a := (*l.known.Load())[m.Number()]
	if a == nil {
		l.meet(m)
		return 0, 0, false
	}
	if !a.usable.Load() {
		return 0, 0, false
	}
	return a.number, at, true
}

// meet notes memory that is new, and has the process shown it.
func (l *lender) meet(m *sys.Mapping) {
	unfit := m.Shareable()
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.known.Load()
	if l.over || known[m.Number()] != nil || len(known) >= maxLoans {
		return
	}
	a := &loan{m: m}
	if !m.Watch(l, func() { l.forget(a) }) {
		return // gone meanwhile
	}
	next := maps.Clone(known)
	next[m.Number()] = a
	l.known.Store(&next)
	if unfit != nil {
		l.warn(m, unfit)
		return
	}
	l.enqueue(a)
}

// forget is called when a mapping is unregistered. No request lies in it any more.
func (l *lender) forget(a *loan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	next := maps.Clone(*l.known.Load())
	delete(next, a.m.Number())
	l.known.Store(&next)
	a.gone = true
	l.enqueue(a)
}

// enqueue has a goroutine see to a. l.mu is held.
func (l *lender) enqueue(a *loan) {
	l.jobs = append(l.jobs, a)
	if !l.atWork {
		l.atWork = true
		go l.work()
	}
}

// work does the jobs one by one, so that what is shown is hidden after that, and
// the socket for descriptors never holds many.
func (l *lender) work() {
	for {
		l.mu.Lock()
		if len(l.jobs) == 0 || l.over {
			l.jobs, l.atWork = nil, false
			l.mu.Unlock()
			return
		}
		a := l.jobs[0]
		l.jobs = l.jobs[1:]
		gone := a.gone
		l.mu.Unlock()
		l.do(a, gone)
	}
}

func (l *lender) do(a *loan, gone bool) {
	switch {
	case !gone && !a.shown:
		a.shown, a.number = true, l.number()
		err := l.show(a.number, a.m)
		var no *refusal
		if errors.As(err, &no) {
			a.shown = false
			if !errors.Is(err, sys.ErrUnregistered) {
				l.mu.Lock()
				l.warn(a.m, err)
				l.mu.Unlock()
			}
		}
		a.usable.Store(err == nil)
	case gone && a.shown:
		a.shown = false
		_ = l.hide(a.number) // else the process ends
	}
}

// warn tells once that memory is copied though the operator wants it shared. l.mu
// is held.
func (l *lender) warn(m *sys.Mapping, why error) {
	if !l.warned {
		l.log.Warn("the plugin's process cannot have this memory: payload there is copied", "memory", m.Name(), "why", why)
		l.warned = true
	}
}

// end lets go of everything: the process has been reaped.
func (l *lender) end() {
	l.mu.Lock()
	l.over = true
	known := *l.known.Load()
	l.known.Store(&map[uint64]*loan{})
	l.mu.Unlock()
	for _, a := range known {
		a.m.Unwatch(l)
	}
}

// ErrNoPayload: guests' memory is for processes that get payload.
var ErrNoPayload = errors.New("it encapsulates a protocol: its payload never leaves the engine, and guests' memory is of no use to it")

// lends tells whether this version of the plugin may have guests' memory.
func (h *host) lends() bool {
	return h.opt.GuestMemory && h.said.Kind == calls.Store && h.said.Version&0xffff >= calls.MapMemoryMinor
}

// showMemory passes the file behind m to the process and has it mapped there.
func (p *proc) showMemory(number uint64, m *sys.Mapping) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	call := calls.MapMemory{Memory: number, Size: uint64(m.Size())}
	err := m.File(func(fd int, offset uint64) error {
		call.Offset = offset
		return p.pass(number, []int{fd})
	})
	if err != nil {
		return &refusal{err}
	}
	if err = p.calls.MapMemory(ctx, &call); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		p.kill(p.hung("does not map the memory of a virtual machine"))
	}
	if err = p.orEnd(err); p.isEnding() {
		return err
	}
	return &refusal{err}
}

// hideMemory has the process unmap memory. One that does not is ended: it must not
// keep the memory of a virtual machine that is gone.
func (p *proc) hideMemory(number uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := p.calls.ForgetMemory(ctx, &calls.ForgetMemory{Memory: number})
	if err != nil && !p.isOver() {
		p.kill(p.hung(fmt.Sprintf("keeps the memory of a virtual machine that is gone: %v", plain(err))))
	}
	return err
}

// isEnding tells whether the process has ended, or is being killed.
func (p *proc) isEnding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why != nil || p.isOver()
}

// traffic counts requests with payload, and its bytes.
type traffic struct{ requests, bytes atomic.Uint64 }

// Traffic is what traffic has counted.
type Traffic struct{ Requests, Bytes uint64 }

func (t *traffic) add(c Traffic) {
	if c.Requests > 0 {
		t.requests.Add(c.Requests)
		t.bytes.Add(c.Bytes)
	}
}

func (t *traffic) load() Traffic { return Traffic{t.requests.Load(), t.bytes.Load()} }

// payloads counts what has gone to processes of a plugin that may have guests'
// memory.
type payloads struct{ lent, copied traffic }
