package volume_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// fake is a device over a slice of bytes that judges what it is given. Unless
// it is manual it answers in random order, some at once and some turns later.
type fake struct {
	t      testing.TB
	info   block.Info
	home   *reactor.Reactor
	manual bool // requests stay held until a test finishes them

	// mu guards what follows: channels of several reactors share the disk.
	mu      sync.Mutex
	rng     *rand.Rand
	disk    []byte
	cached  []uint64 // version of each block
	durable []uint64 // version of each block that would survive a power cut
	version uint64
	fail    func(io *volume.IO) block.Status // nil: nothing fails
	failed  map[uint64]failure               // by block: the first failure that touched it
	fails   int                              // failures so far
	status  map[uint64][]block.Extent        // by offset: what block status was answered
	served  [block.MaxOp + 1]int
	chans   map[int]*channel
	closes  int
	openErr error
	shutErr error
}

func newFake(t testing.TB, info block.Info, rng *rand.Rand) *fake {
	f := &fake{
		t: t, info: info, rng: rng,
		failed: map[uint64]failure{}, status: map[uint64][]block.Extent{}, chans: map[int]*channel{},
	}
	if info.Size <= 16<<20 { // beyond that nothing looks at the content
		n := info.Size / uint64(max(info.BlockSize, 1))
		f.disk = make([]byte, info.Size)
		f.cached, f.durable = make([]uint64, n), make([]uint64, n)
	}
	return f
}

func (f *fake) Home() *reactor.Reactor { return f.home }

func (f *fake) OpenChannel(r *reactor.Reactor, done volume.Completer) (volume.Channel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openErr != nil {
		return nil, f.openErr
	}
	if f.chans[r.Index()] != nil {
		f.t.Errorf("a second channel was opened on reactor %d", r.Index())
	}
	c := &channel{f: f, r: r, done: done, cached: make([]uint64, len(f.cached))}
	f.chans[r.Index()] = c
	return c, nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.chans {
		if !c.closed {
			f.t.Errorf("the device was closed before its channel on reactor %d", i)
		}
	}
	f.closes++
	return f.shutErr
}

// channel is a way into the fake on one reactor.
type channel struct {
	f       *fake
	r       *reactor.Reactor
	done    volume.Completer
	held    []held
	cached  []uint64 // version of each block as last modified through here
	flushes int
	pumping bool
	closed  bool
}

// held is a request that the device has not answered. A flush covers what the
// disk's cache held when it came, so it carries the versions of then.
type held struct {
	io   *volume.IO
	snap []uint64
}

func (c *channel) Close() {
	if len(c.held) > 0 {
		c.f.t.Errorf("a channel was closed with %d requests outstanding", len(c.held))
	}
	c.closed = true
}

func (c *channel) Submit(batch []*volume.IO) {
	if c.closed {
		c.f.t.Error("a request came to a closed channel")
	}
	if len(batch) == 0 {
		c.f.t.Error("an empty batch was submitted")
	}
	for _, io := range batch {
		h, now := c.take(io)
		if now {
			c.end(h)
			continue
		}
		c.held = append(c.held, h)
	}
	if len(c.held) > 0 && !c.f.manual && !c.pumping {
		c.pumping = true
		c.r.Post(c)
	}
}

// take judges a request and decides whether it is answered at once.
func (c *channel) take(io *volume.IO) (held, bool) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.judge(io)
	h := held{io: io}
	if io.Op <= block.MaxOp {
		f.served[io.Op]++
	}
	if io.Op == block.OpFlush {
		c.flushes++
		h.snap = append(h.snap, c.cached...)
		if f.info.Has(block.CapFlushCoversAll) {
			copy(h.snap, f.cached)
		}
	}
	return h, !f.manual && f.rng.IntN(3) == 0
}

// Deliver answers some of what is held, in any order.
func (c *channel) Deliver() {
	c.f.mu.Lock()
	var now []held
	for range c.f.rng.IntN(len(c.held) + 1) {
		i := c.f.rng.IntN(len(c.held))
		now = append(now, c.held[i])
		c.held = append(c.held[:i], c.held[i+1:]...)
	}
	c.f.mu.Unlock()
	for _, h := range now {
		c.end(h)
	}
	if c.pumping = len(c.held) > 0; c.pumping {
		c.r.Post(c)
	}
}

// finish answers the i-th held request with st; of a manual fake.
func (c *channel) finish(i int, st block.Status) {
	h := c.held[i]
	c.held = append(c.held[:i:i], c.held[i+1:]...)
	if st == block.OK {
		c.end(h)
		return
	}
	h.io.Status = st
	c.done.Complete(h.io)
}

// end carries a request out and answers it.
func (c *channel) end(h held) {
	f := c.f
	f.mu.Lock()
	st := block.OK
	if f.fail != nil {
		st = f.fail(h.io)
	}
	if st == block.OK {
		f.execute(c, h)
	} else {
		f.noteFailure(h.io, st)
	}
	f.mu.Unlock()
	if st != block.OK {
		h.io.Status = st
	}
	c.done.Complete(h.io)
}

func (f *fake) noteFailure(io *volume.IO, st block.Status) {
	if f.disk == nil {
		return
	}
	f.fails++
	for b := f.block(io.Offset); b < f.block(io.Offset+io.Length); b++ {
		if _, old := f.failed[b]; !old {
			f.failed[b] = failure{f.fails, st}
		}
	}
}

// failure is what the device answered, and the how many-th failure it was.
type failure struct {
	seq    int
	status block.Status
}

func (f *fake) block(at uint64) uint64 { return at / uint64(f.info.BlockSize) }

func (f *fake) execute(c *channel, h held) {
	io := h.io
	if f.disk == nil {
		io.Filled = io.Length
		return
	}
	at, end := io.Offset, io.Offset+io.Length
	switch io.Op {
	case block.OpRead:
		for _, seg := range io.Data {
			at += uint64(copy(seg, f.disk[at:end]))
		}
		io.Filled = io.Length
	case block.OpWrite:
		f.modify(c, io, bytes.Join(io.Data, nil))
	case block.OpWriteZeroes:
		f.modify(c, io, make([]byte, io.Length))
	case block.OpDiscard:
		f.modify(c, io, bytes.Repeat([]byte{discarded}, int(io.Length)))
	case block.OpFlush:
		for b, v := range h.snap {
			f.durable[b] = max(f.durable[b], v)
		}
	case block.OpBlockStatus:
		f.describe(io)
	}
}

// discarded is what the fake leaves in a discarded range.
const discarded = 0x5d

func (f *fake) modify(c *channel, io *volume.IO, b []byte) {
	copy(f.disk[io.Offset:io.Offset+io.Length], b)
	f.version++
	for b := f.block(io.Offset); b < f.block(io.Offset+io.Length); b++ {
		f.cached[b], c.cached[b] = f.version, f.version
		if io.Flags&block.FUA != 0 || !f.info.Has(block.CapFlush) {
			f.durable[b] = f.version
		}
	}
}

// describe answers for a part of the range at least.
func (f *fake) describe(io *volume.IO) {
	left := io.Length
	for left > 0 && len(io.Extents) < cap(io.Extents) {
		n := min(left, uint64(f.info.BlockSize)*uint64(1+f.rng.IntN(9)))
		io.Extents = append(io.Extents, block.Extent{Length: n, State: block.ExtentState(f.rng.IntN(4))})
		left -= n
		if f.rng.IntN(4) == 0 {
			break
		}
	}
	f.status[io.Offset] = append([]block.Extent(nil), io.Extents...)
}

// judge checks what Channel promises its device.
func (f *fake) judge(io *volume.IO) {
	bad := func(what string) {
		f.t.Errorf("the device was given a request that %s: %v flags %b [%d,+%d) of a disk %+v", what, io.Op, io.Flags, io.Offset, io.Length, f.info)
	}
	i := &f.info
	needs := map[block.Op]block.Caps{
		block.OpFlush: block.CapFlush, block.OpDiscard: block.CapDiscard, block.OpWriteZeroes: block.CapWriteZeroes,
		block.OpBlockStatus: block.CapBlockStatus, block.OpCache: block.CapCache,
	}
	switch {
	case !io.Op.Valid():
		bad("is of no kind")
	case !i.Has(needs[io.Op]):
		bad("it cannot do")
	case io.Op == block.OpFlush && (io.Offset != 0 || io.Length != 0 || io.Flags != 0):
		bad("is a flush of a range")
	case io.Op != block.OpFlush && io.Length == 0:
		bad("is empty")
	case io.Offset > i.Size || io.Length > i.Size-io.Offset:
		bad("lies beyond its end")
	case (io.Offset|io.Length)%uint64(i.BlockSize) != 0:
		bad("is not aligned")
	case io.Op.Modifies() && i.Has(block.CapReadOnly):
		bad("modifies a read-only disk")
	case io.Flags&block.FUA != 0 && (!io.Op.Modifies() || !i.Has(block.CapFUA)):
		bad("wants FUA, which it lacks")
	case io.Flags&block.FastZero != 0 && (io.Op != block.OpWriteZeroes || !i.Has(block.CapFastZero)):
		bad("wants fast zeroes, which it lacks")
	case io.Flags&block.NoHole != 0 && io.Op != block.OpWriteZeroes:
		bad("has a flag that means nothing")
	case over(io.Length, uint64(i.MaxTransfer)) && (io.Op.HasPayload() || io.Op == block.OpCache):
		bad("is longer than MaxTransfer")
	case over(io.Length, i.MaxZeroes) && io.Op == block.OpWriteZeroes:
		bad("is longer than MaxZeroes")
	case over(io.Length, i.MaxDiscard) && io.Op == block.OpDiscard:
		bad("is longer than MaxDiscard")
	case io.Op.HasPayload() && sum(io.Data) != io.Length:
		bad("has a payload of another length")
	case !io.Op.HasPayload() && io.Data != nil:
		bad("has a payload that means nothing")
	case io.Op == block.OpBlockStatus && (cap(io.Extents) == 0 || len(io.Extents) != 0):
		bad("has no room for extents, or some already")
	case io.Status != block.OK || io.Filled != 0:
		bad("carries an old result")
	}
}

func over(n, most uint64) bool { return most != 0 && n > most }

func sum(segs [][]byte) (n uint64) {
	for _, s := range segs {
		n += uint64(len(s))
	}
	return n
}

// lent reports whether the device still holds memory of b.
func (c *channel) lent(b []byte) bool {
	from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	to := from + uintptr(len(b))
	for _, h := range c.held {
		for _, s := range h.io.Data {
			if p := uintptr(unsafe.Pointer(unsafe.SliceData(s))); len(s) > 0 && p < to && from < p+uintptr(len(s)) {
				return true
			}
		}
	}
	return false
}
