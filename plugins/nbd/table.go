package nbd

import "blockengine/sdk/block"

// Sizes of the table of outstanding requests. Half of the slots stay free, so
// that a request nearly always sits where its tag points.
const (
	tableSlots = 1024
	maxDepth   = tableSlots / 2
)

// slot is one outstanding request. A range of a read is at most
// defaultMaxPayload long, hence the 32 bits.
type slot struct {
	tag    uint64
	offset uint64 // bytes
	length uint64
	left   uint32       // of a read: bytes that no content chunk has described
	lo, hi uint32       // of a read: a run that chunks have described; empty if equal
	failed block.Status // what the first error chunk said
	pieces uint16       // of a read: list of further described runs, 0 if none
	op     block.Op     // 0: the slot is free
	status bool         // of a block status: its chunk was there
	one    bool         // of a block status: one extent is enough
}

// table finds outstanding requests by tag. A slot is tried at the tag's low
// bits and, where several tags share them, at the following ones.
type table struct {
	slots [tableSlots]slot
	used  int
	reach uint64 // the farthest that any request ever sat from its own place
}

// add gives a free slot for a tag; there is one while used < maxDepth.
func (t *table) add(tag uint64) *slot {
	t.used++
	s := &t.slots[tag%tableSlots]
	if s.op == 0 {
		return s
	}
	return t.addFar(tag)
}

//go:noinline
func (t *table) addFar(tag uint64) *slot {
	d := uint64(1)
	for t.slots[(tag+d)%tableSlots].op != 0 {
		d++
	}
	t.reach = max(t.reach, d)
	return &t.slots[(tag+d)%tableSlots]
}

// find gives the outstanding request with a tag, or nil.
func (t *table) find(tag uint64) *slot {
	s := &t.slots[tag%tableSlots]
	if s.tag == tag && s.op != 0 {
		return s
	}
	return t.findFar(tag)
}

//go:noinline
func (t *table) findFar(tag uint64) *slot {
	for d := uint64(1); d <= t.reach; d++ {
		if s := &t.slots[(tag+d)%tableSlots]; s.tag == tag && s.op != 0 {
			return s
		}
	}
	return nil
}

// remove frees a slot. Its pieces have been given back.
func (t *table) remove(s *slot) {
	s.op = 0
	t.used--
}
