package virtqueue

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"
)

// headState is a private copy of a head's entry in the region.
type headState struct {
	inflight uint8
	next     uint16
	counter  uint64
}

// regionHead is a private copy of the region's first fields.
type regionHead struct {
	features  uint64
	version   uint16
	descNum   uint16
	batchHead uint16
	usedIdx   uint16
}

// Recover repairs the region after the process that wrote it has died, and gives
// the heads that are to be resubmitted, in order; usedIdx is the used ring's
// index. The next chain of the available ring is usedIdx + len(heads).
//
// A new region (version 0) is prepared; it says nothing of the past, so that the
// ring's used index is where to go on. The content is the front-end's to forge:
// it is read once, and one that contradicts itself is ErrInflight and left as it
// is. New calls Recover.
func (f *Inflight) Recover(usedIdx uint16) (heads []uint16, err error) {
	head := f.readHead()
	if head.version == 0 {
		f.prepare(usedIdx)
		return nil, nil
	}
	if err := head.check(f.size); err != nil {
		return nil, err
	}
	states, marked, err := f.readStates()
	if err != nil {
		return nil, err
	}
	batch, err := head.lastBatch(states, marked, usedIdx)
	if err != nil {
		return nil, err
	}
	f.repair(batch, usedIdx)
	for _, h := range batch {
		states[h].inflight = 0
	}
	f.lastHead = head.batchHead
	if f.lastHead >= f.size { // it is only ever looked at with what we write after it
		f.lastHead = 0
	}
	return f.resubmission(states), nil
}

func (f *Inflight) readHead() regionHead {
	rest := atomic.LoadUint64((*uint64)(unsafe.Add(f.base, offVersion)))
	return regionHead{
		features: atomic.LoadUint64((*uint64)(f.base)), version: uint16(rest),
		descNum: uint16(rest >> 16), batchHead: uint16(rest >> 32), usedIdx: uint16(rest >> 48),
	}
}

func (r *regionHead) check(size uint16) error {
	switch {
	case r.version != inflightVersion:
		return fmt.Errorf("%w: its version is %d, known is %d", ErrInflight, r.version, inflightVersion)
	case r.features != 0:
		return fmt.Errorf("%w: its features are %#x, known are none", ErrInflight, r.features)
	case r.descNum != size:
		return fmt.Errorf("%w: it was written for %d descriptors, the front-end says %d", ErrInflight, r.descNum, size)
	}
	return nil
}

// readStates copies the array and counts its marks.
func (f *Inflight) readStates() ([]headState, int, error) {
	states, marked := make([]headState, f.size), 0
	for h := range states {
		p := f.at(uint16(h))
		word := atomic.LoadUint64((*uint64)(p))
		s := headState{inflight: uint8(word), next: uint16(word >> 48), counter: atomic.LoadUint64((*uint64)(unsafe.Add(p, offCounter)))}
		if s.inflight > 1 {
			return nil, 0, fmt.Errorf("%w: descriptor %d has the mark %d, neither 0 nor 1", ErrInflight, h, s.inflight)
		}
		marked += int(s.inflight)
		states[h] = s
	}
	return states, marked, nil
}

// lastBatch gives the heads of the batch that was published last and may not be
// cleared: as many as the ring's used index is ahead, from last_batch_head on.
// Where nothing is marked there is nothing to clear, and the list does not
// matter: so it is after a reset of the ring under a region that is kept.
func (r *regionHead) lastBatch(states []headState, marked int, usedIdx uint16) ([]uint16, error) {
	n := int(usedIdx - r.usedIdx)
	if n == 0 || marked == 0 {
		return nil, nil
	}
	if n > len(states) {
		return nil, fmt.Errorf("%w: the ring's used index %d is %d ahead of the region's, with %d descriptors", ErrInflight, usedIdx, n, len(states))
	}
	batch, seen := make([]uint16, 0, n), make([]bool, len(states))
	for h := r.batchHead; len(batch) < n; h = states[h].next {
		if int(h) >= len(states) {
			return nil, fmt.Errorf("%w: the last batch goes on at descriptor %d, there are %d", ErrInflight, h, len(states))
		}
		if seen[h] {
			return nil, fmt.Errorf("%w: the last batch comes to descriptor %d twice", ErrInflight, h)
		}
		seen[h] = true
		batch = append(batch, h)
	}
	return batch, nil
}

// repair does what the dead process may not have come to: stores g and h.
func (f *Inflight) repair(batch []uint16, usedIdx uint16) {
	hook := Failpoint
	for _, h := range batch {
		*(*uint8)(f.at(h)) = 0
		if hook != nil {
			hook(StepCleared)
		}
	}
	order()
	f.put16(offUsedIdx, usedIdx)
	if hook != nil {
		hook(StepSettled)
	}
}

// resubmission gives the marked heads in the order of their counters, and sets
// the counter to go on from. Counters wrap: they are ordered by their distance
// from one of them. Equal ones, which only a forger writes, go by head.
func (f *Inflight) resubmission(states []headState) []uint16 {
	var heads []uint16
	for h := range states {
		if states[h].inflight != 0 {
			heads = append(heads, uint16(h))
		}
	}
	f.counter = 0
	if len(heads) == 0 {
		return nil
	}
	base := states[heads[0]].counter
	slices.SortFunc(heads, func(a, b uint16) int {
		if c := cmp.Compare(int64(states[a].counter-base), int64(states[b].counter-base)); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	f.counter = states[heads[len(heads)-1]].counter + 1
	return heads
}

// prepare fills in a new region. used_idx is the ring's, not zero: the ring may
// have been used before there was a region.
func (f *Inflight) prepare(usedIdx uint16) {
	clear(unsafe.Slice((*uint64)(f.base), (inflightHeader+inflightState*int(f.size))/8))
	f.put16(offDescNum, f.size)
	f.put16(offUsedIdx, usedIdx)
	f.lastHead, f.counter = 0, 0
	if Failpoint != nil {
		Failpoint(StepPrepared)
	}
	order()
	f.put16(offVersion, inflightVersion)
	if Failpoint != nil {
		Failpoint(StepVersion)
	}
}
