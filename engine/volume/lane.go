package volume

import (
	"fmt"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// lane is a volume on one reactor: the channel into the device, and the
// requests on their way there. All of it belongs to that reactor.
type lane struct {
	v       *Volume
	r       *reactor.Reactor
	ch      Channel
	batch   []*IO // to be handed down by push
	spare   []*IO
	pushing bool
	freeIO  *IO
	plans   []*plan // unused ones
	stats   Stats
	// fixedMax is the answer to the latest Queue.FixedMax, bytes.
	fixedMax uint64
}

// lane gives the volume's lane on r, which it is called on, and makes it when
// it is first asked for.
func (v *Volume) lane(r *reactor.Reactor) (*lane, error) {
	if l := v.lanes[r.Index()].Load(); l != nil {
		return l, nil
	}
	d := v.device.Load()
	if d == nil {
		return nil, ErrNotOpen
	}
	if home := (*d).Home(); home != nil && home != r {
		return nil, ErrWrongReactor
	}
	l := &lane{v: v, r: r}
	ch, err := (*d).OpenChannel(r, l)
	if err != nil {
		return nil, fmt.Errorf("volume %q: open a channel on reactor %d: %w", v.name, r.Index(), err)
	}
	l.ch = ch
	v.lanes[r.Index()].Store(l)
	return l, nil
}

// begin decides what a guest's request needs: it is refused, answered,
// planned in parts, or put into the batch for the device.
func (l *lane) begin(io *IO) {
	info := l.v.info.Load()
	if st := l.refuse(io, info); st != block.OK {
		io.Status = st
		io.queue.finish(io)
		return
	}
	switch io.Op {
	case block.OpRead, block.OpCache:
		l.sized(io, uint64(info.MaxTransfer))
	case block.OpWrite:
		l.modify(io, info, uint64(info.MaxTransfer))
	case block.OpWriteZeroes:
		l.modify(io, info, info.MaxZeroes)
	case block.OpDiscard:
		l.modify(io, info, info.MaxDiscard)
	case block.OpBlockStatus:
		l.blockStatus(io, info)
	case block.OpFlush:
		io.stage = stageGuestFlush
		l.flush(io, info)
	}
}

// push hands the batch down. The device may complete requests at once, and
// that may add to the batch.
func (l *lane) push() {
	if l.pushing {
		return
	}
	l.pushing = true
	for len(l.batch) > 0 {
		b := l.batch
		l.batch = l.spare[:0]
		l.ch.Submit(b)
		clear(b)
		l.spare = b[:0]
	}
	l.pushing = false
}

// Complete takes a request back from the device.
func (l *lane) Complete(io *IO) {
	if io.Status == block.OK && io.Op == block.OpRead && io.Filled != io.Length {
		// Rule 5: a gap would show the guest what the buffer held before.
		l.v.log.Error("device completed a read that it did not fill", "volume", l.v.name,
			"offset", io.Offset, "length", io.Length, "filled", io.Filled)
		io.Status = block.EIO
	}
	if io.Status > block.MaxStatus {
		io.Status = block.EIO
	}
	l.settle(io)
	if len(l.batch) > 0 {
		l.push()
	}
}

// settle brings a finished request to whoever waits for it.
func (l *lane) settle(io *IO) {
	switch {
	case io.stage == stageRemote:
		io.remote.home()
	case io.parent != nil:
		parent, st := io.parent, io.Status
		l.recycle(io)
		l.partDone(parent, st)
	case io.stage == stageThenFlush && io.Status == block.OK:
		io.stage = stageFlushing
		l.flush(io, l.v.info.Load())
	default:
		l.finish(io)
	}
}

// finish ends a guest's request.
func (l *lane) finish(io *IO) {
	switch io.stage {
	case stageGuestFlush:
		io.Status = l.v.flush.answer(io.queue, io.Status)
	case stageFlushing:
		// The write is known to have failed to become durable, but that flush
		// also stood for every other acknowledged write.
		if io.Status != block.OK {
			l.v.flush.fail(io.Status)
		}
	}
	if io.Op == block.OpRead && io.Status == block.OK {
		io.Filled = io.Length
	}
	io.Owner = nil
	io.queue.finish(io)
}

// part takes an IO out of the pool for a part of parent.
func (l *lane) part(parent *IO, op block.Op) *IO {
	p := l.freeIO
	if p == nil {
		p = &IO{}
	} else {
		l.freeIO = p.next
	}
	p.lane, p.parent, p.queue, p.plan, p.next = l, parent, nil, nil, nil
	p.stage, p.errs, p.start = stageWhole, block.OK, parent.start
	p.Request = block.Request{Op: op, Owner: p}
	p.Again, p.Fixed = parent.Again, false // a request with a fixed buffer has no parts with payload
	return p
}

func (l *lane) recycle(p *IO) {
	clear(p.segs[:])
	p.Data, p.parent, p.Owner = nil, nil, nil
	p.next, l.freeIO = l.freeIO, p
}
