package session_test

import (
	"context"
	"errors"
	"slices"
	"sync"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
)

// shop is a disk that outlives the processes that serve it, as a server behind
// them would.
type shop struct {
	mu   sync.Mutex // guards what follows
	mem  []byte
	info block.Info
	held []order            // writes that were taken and are not carried out
	hold func(o order) bool // which ones; nil: none
	open map[*process]int   // links
	both bool               // the disk was open in two processes at once
	seen []block.Op
}

type order struct {
	slot        int
	op          block.Op
	off, length uint64
	data        []byte
	memory      [][]byte // of a request that was lent
}

// fill writes b into a read's memory and reports how much that was.
func (o *order) fill(b []byte) (n uint64) {
	for _, m := range o.memory {
		n += uint64(copy(m, b[n:]))
	}
	return n
}

func newShop(size uint64) *shop {
	return &shop{mem: make([]byte, size), open: map[*process]int{}, info: block.Info{
		Size: size, BlockSize: 512, MaxTransfer: 128 << 10, Caps: block.CapFlush | block.CapBlockStatus, Identity: "shop"}}
}

// apply carries out what modifies. mu is held.
func (s *shop) apply(o order) {
	if o.op == block.OpWrite {
		copy(s.mem[o.off:], o.data)
	}
}

// release carries out what was held, as a server that was slow.
func (s *shop) release() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.held)
	for _, o := range s.held {
		s.apply(o)
	}
	s.held, s.hold = nil, nil
	return n
}

func (s *shop) holdWrites(f func(o order) bool) {
	s.mu.Lock()
	s.hold = f
	s.mu.Unlock()
}

func (s *shop) holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (s *shop) count(op block.Op) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.seen {
		if o == op {
			n++
		}
	}
	return n
}

// process is a guest.Store whose process can be killed.
type process struct {
	shop *shop
	over bool   // FenceOnExit
	slow func() // before a link is closed; may be nil
	lend bool   // it can get at the requests' memory
	// reaped, if set, is waited for before a killed process is told to be gone.
	reaped chan struct{}
	// answer, if set, may change what is said of a finished request.
	answer func(o order, st block.Status, filled uint64) (block.Status, uint64)

	mu    sync.Mutex
	links map[*ringLink]bool
	fail  error // of NewLink
}

func (p *process) Manifest() manifest.Manifest { return manifest.Manifest{Name: "shop", Version: "1"} }
func (p *process) Hash() string                { return "00" }
func (p *process) Runtime() string             { return "process" }
func (p *process) FenceOnExit() bool           { return p.over }
func (p *process) Close() error                { return nil }

func (p *process) NewLink(context.Context, guest.LinkOptions) (guest.Link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return nil, p.fail
	}
	p.shop.mu.Lock()
	defer p.shop.mu.Unlock()
	p.shop.open[p]++
	p.shop.both = p.shop.both || len(p.shop.open) > 1
	l := &ringLink{p: p, info: p.shop.info, slab: make([]byte, 16*128<<10), work: make(chan []order, 64), lent: map[int][][]byte{}}
	if p.links == nil {
		p.links = map[*ringLink]bool{}
	}
	p.links[l] = true
	go l.serve()
	return l, nil
}

// kill ends the process: what it has not carried out is gone, but for what the
// shop holds.
func (p *process) kill() {
	p.mu.Lock()
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for l := range links {
		l.mu.Lock()
		l.dead = true
		r := l.r
		l.mu.Unlock()
		if r != nil {
			r.Post(reactor.MailFunc(func() {
				if !l.closed {
					l.owner.Lost(&guest.Trap{Cause: "exit", Err: errors.New("killed")})
				}
			}))
		}
	}
}

// ringLink is a guest.Link to a goroutine.
type ringLink struct {
	p      *process
	info   block.Info
	slab   []byte
	r      *reactor.Reactor
	owner  guest.LinkOwner
	batch  []order
	out    int // outstanding
	closed bool
	fenced func(bool)
	work   chan []order
	lent   map[int][][]byte

	mu   sync.Mutex
	dead bool
}

func (l *ringLink) Info() block.Info { return l.info }
func (l *ringLink) Depth() int       { return 16 }

func (l *ringLink) Start(r *reactor.Reactor, owner guest.LinkOwner) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r, l.owner = r, owner
	if l.dead { // before there was a reactor to tell
		return &guest.Trap{Cause: "exit", Err: errors.New("killed")}
	}
	return nil
}

func (l *ringLink) Payload(n int) []byte { return l.slab[n*128<<10 : (n+1)*128<<10] }
func (l *ringLink) Lends() bool          { return l.p.lend }

func (l *ringLink) Lend(n int, data [][]byte) bool {
	l.lent[n] = slices.Clone(data)
	return true
}

func (l *ringLink) Submit(n int, op block.Op, _ block.Flags, off, length uint64) {
	o := order{slot: n, op: op, off: off, length: length, memory: l.lent[n]}
	delete(l.lent, n)
	switch {
	case o.memory != nil && op == block.OpWrite:
		o.data = slices.Concat(o.memory...)
	case op == block.OpRead && o.memory == nil:
		o.memory = [][]byte{l.Payload(n)[:length]}
	case op == block.OpWrite:
		o.data = append([]byte(nil), l.Payload(n)[:length]...)
	}
	l.batch = append(l.batch, o)
}

func (l *ringLink) Push() {
	l.out += len(l.batch)
	l.work <- l.batch
	l.batch = nil
}

// Close lets a living process finish, and tells of a dead one at once.
func (l *ringLink) Close(fenced func(bool)) {
	if l.closed {
		panic("closed twice")
	}
	l.closed = true
	l.mu.Lock()
	dead := l.dead
	l.mu.Unlock()
	if dead {
		l.buried(fenced)
		return
	}
	l.fenced = fenced
	close(l.work)
}

// buried tells of a dead process when it is reaped.
func (l *ringLink) buried(fenced func(bool)) {
	reaped := l.p.reaped
	if reaped == nil {
		l.leave()
		fenced(false)
		return
	}
	go func() {
		<-reaped
		l.leave()
		l.r.Post(reactor.MailFunc(func() { fenced(false) }))
	}()
}

func (l *ringLink) leave() {
	s := l.p.shop
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[l.p]--; s.open[l.p] == 0 {
		delete(s.open, l.p)
	}
}

// serve is the process.
func (l *ringLink) serve() {
	for batch := range l.work {
		for _, o := range batch {
			l.mu.Lock()
			if !l.dead {
				l.carryOut(o)
			}
			l.mu.Unlock()
		}
	}
	if f := l.p.slow; f != nil {
		f()
	}
	l.leave()
	if l.r == nil { // it was never started
		l.fenced(true)
		return
	}
	l.r.Post(reactor.MailFunc(func() { l.fenced(true) }))
}

func (l *ringLink) carryOut(o order) {
	s := l.p.shop
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, o.op)
	if s.hold != nil && s.hold(o) {
		s.held = append(s.held, o)
		return
	}
	s.apply(o)
	st, filled, extents := block.OK, uint64(0), []block.Extent(nil)
	switch o.op {
	case block.OpRead:
		filled = o.fill(s.mem[o.off:])
	case block.OpBlockStatus:
		extents = []block.Extent{{Length: o.length / 2, State: block.Hole}, {Length: 1 << 40}}
	}
	if f := l.p.answer; f != nil {
		st, filled = f(o, st, filled)
	}
	l.r.Post(reactor.MailFunc(func() {
		if l.closed {
			return
		}
		l.owner.Finished(o.slot, st, filled, extents)
		if !l.closed {
			l.owner.Turn()
		}
	}))
}
