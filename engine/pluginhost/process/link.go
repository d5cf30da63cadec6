package process

import (
	"context"
	"fmt"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// link is the engine's end of a store region: a guest.Link. All of it belongs to
// one reactor, but for died.
type link struct {
	listener
	transfer uint32 // bytes that a slot's payload may have
	disk     *device
	rescan   func(ctx context.Context) error // asks the process; safe from any goroutine
	latest   block.Info                      // what the disk is like; listener.mu guards it

	owner  guest.LinkOwner
	mask   uint32
	slots  []linkSlot
	tail   uint32 // submissions, published or not
	closed bool

	lending lending

	pushed int64  // ns: when the link was idle and something was submitted
	skip   uint32 // so many times the reactor sleeps rather than looks
	skips  uint32 // when it last looked for too long, so many were to be skipped

	extents []block.Extent // of the block status that is being told
}

// linkSlot is what has been asked of the process, in memory that it cannot change.
type linkSlot struct {
	at     uint32 // which submission it was
	busy   bool
	op     block.Op
	pieces uint16 // that the payload of the next submission lies in; 0: in the buffer
	length uint64
}

// newLink makes the engine's end of r, which is the link's from now on. What the
// process says of the disk has been checked; MaxTransfer becomes at most a slot's.
func newLink(r *region, info block.Info, c hooks) *link {
	depth := r.Layout.Depth
	if info.MaxTransfer == 0 || info.MaxTransfer > r.Layout.Transfer {
		info.MaxTransfer = r.Layout.Transfer
	}
	l := &link{transfer: info.MaxTransfer, latest: info, mask: depth - 1, slots: make([]linkSlot, depth)}
	l.listener.init(r, c, l.completions, func(err error) { l.owner.Lost(err) }, r.SubHead.Load)
	return l
}

// Depth implements guest.Link.
func (l *link) Depth() int { return len(l.slots) }

// Start implements guest.Link.
func (l *link) Start(r *reactor.Reactor, owner guest.LinkOwner) error {
	l.owner = owner
	if err := l.start(r); err != nil {
		return fmt.Errorf("link to a plugin process: %w", err)
	}
	return nil
}

// Payload implements guest.Link.
func (l *link) Payload(slot int) []byte {
	n := int(l.transfer)
	return l.region.Buffer(slot)[:n:n]
}

// Submit implements guest.Link.
func (l *link) Submit(slot int, op block.Op, flags block.Flags, offset, length uint64) {
	if l.over {
		return // the owner has been told, or has closed it
	}
	s := &l.slots[slot]
	if s.busy {
		panic(fmt.Sprintf("slot %d of a link is submitted and has not been finished", slot))
	}
	pieces := s.pieces
	*s = linkSlot{at: l.tail, busy: true, op: op, length: length}
	l.region.Submissions[l.tail&l.mask] = ring.Submission{Slot: uint16(slot), Op: uint8(op), Flags: uint16(flags), Pieces: pieces, Offset: offset, Length: length}
	l.tail++
	l.lending.count(op, length, pieces)
}

// Push implements guest.Link.
func (l *link) Push() {
	n := l.tail - l.given
	if n == 0 || l.over {
		return
	}
	if l.given == l.seen {
		l.pushed = l.r.Now()
	}
	l.lending.publish()
	l.attend() // the answers are looked for: no need to be woken
	l.publish(n)
	l.watch()
	l.rest()
}

// many outstanding requests keep the process busy for longer than it takes to be
// woken: to look meanwhile costs more than it gains, and less comes at a time.
const many = 8

// quick is how soon a process answers, in ns, that is worth being looked for. One
// that shares its processor with the reactor, or with the client, does not: to look
// keeps it from running.
const (
	quick    = 15_000
	maxSkips = 1024
)

// rest has the reactor sleep rather than look if much is outstanding, or if looking
// has not paid lately.
func (l *link) rest() {
	if l.given-l.seen > many || l.skip > 0 {
		l.r.Behind()
	}
}

// judge learns from the first answer after a pause whether it pays to look: each
// look that was too long is followed by twice as many sleeps.
func (l *link) judge() {
	switch {
	case l.pushed == 0:
	case l.skip > 0:
		l.skip--
	case l.r.Now()-l.pushed > quick:
		l.skips = min(2*l.skips+1, maxSkips)
		l.skip = l.skips
	default:
		l.skips = 0
	}
	l.pushed = 0
}

// completions takes what the process has finished. It may end the link.
func (l *link) completions() bool {
	n := l.region.CompTail.Load() - l.seen
	if n == 0 {
		return false
	}
	if with := l.given - l.seen; n > with {
		l.broken("output", fmt.Errorf("it has completed %d requests and %d are with it", n, with))
		return true
	}
	l.rings = 0
	l.judge()
	for ; n > 0 && !l.over; n-- {
		c := l.region.Completions[l.seen&l.mask].Load()
		l.seen++
		if err := l.finish(&c); err != nil {
			l.broken("output", err)
			return true
		}
	}
	if !l.over {
		l.owner.Turn()
		l.rest()
	}
	return true
}

// finish checks a completion and tells the owner.
func (l *link) finish(c *ring.Completion) error {
	if int(c.Slot) >= len(l.slots) {
		return fmt.Errorf("it has completed slot %d of %d", c.Slot, len(l.slots))
	}
	s := &l.slots[c.Slot]
	if !s.busy || int32(s.at-l.given) >= 0 {
		return fmt.Errorf("it has completed slot %d, which is not with it", c.Slot)
	}
	st, filled := block.Status(c.Status), uint64(0)
	if st > block.MaxStatus {
		st = block.EIO
	}
	var extents []block.Extent
	switch s.op {
	case block.OpRead:
		if filled = c.Filled; filled > s.length {
			return fmt.Errorf("it has filled %d bytes of a read of %d", filled, s.length)
		}
	case block.OpBlockStatus:
		var err error
		if extents, err = l.copyExtents(int(c.Slot), int(c.Extents), s.length); err != nil {
			return err
		}
	}
	s.busy = false
	l.owner.Finished(int(c.Slot), st, filled, extents)
	return nil
}

// copyExtents reads n extents of a slot's buffer once. Those without length are
// left out, and so is what goes beyond the request.
func (l *link) copyExtents(slot, n int, length uint64) ([]block.Extent, error) {
	shared := l.region.Extents(slot)
	if n > len(shared) {
		return nil, fmt.Errorf("it has given %d extents: %d at most", n, len(shared))
	}
	if l.extents == nil {
		l.extents = make([]block.Extent, 0, len(shared))
	}
	ext := l.extents[:0]
	for i := range shared[:n] {
		e := shared[i].Load()
		if run := min(e.Length, length); run > 0 {
			ext = append(ext, block.Extent{Length: run, State: block.ExtentState(e.State) & (block.Hole | block.Zero)})
			length -= run
		}
	}
	return ext, nil
}

// Close implements guest.Link. Without a Start there is no reactor that fenced
// could be called on; then it is called from any goroutine.
func (l *link) Close(fenced func(finished bool)) {
	if l.closed {
		panic("a link is closed twice")
	}
	l.closed = true
	l.stop()
	on := l.r
	l.c.release(func(finished bool) {
		end := func() {
			l.region.close()
			fenced(finished)
		}
		if on == nil {
			end()
			return
		}
		on.Post(reactor.MailFunc(end))
	})
}
