package session

import (
	"slices"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// slot is what a connection knows of a request that the plugin holds. Its tag
// is the slot's number with a generation, so that a tag of the past is
// recognised.
type slot struct {
	io    *volume.IO // nil: it was failed upwards, what still comes is thrown away
	gen   uint32
	held  bool         // the plugin holds it, or is being offered it
	ended bool         // the plugin has completed it; loans are outstanding
	st    block.Status // then
	recv  int32        // receive directives that are not carried out
	lent  int32        // pieces of payload in the send queue
	// shared: the plugin's process reads and writes the request's own memory.
	shared bool
	// queuedAt is how much was ever queued when the request was offered:
	// while the kernel has taken no more, the server has seen nothing of it.
	queuedAt uint64
	began    int64  // when it was offered, ns
	high     uint64 // [0, high) of a read's payload is claimed
	claimed  []span // more of it, sorted, none of them touching
	private  []byte // copy of a payload that digests were computed of
	hashed   bool   // private is what is sent
	handed   bool   // private is being hashed off the reactor
	digests  int    // that were asked for
	digested uint64 // bytes of payload that they were of
}

// maxClaims is how many pieces, apart from each other, a read's payload may
// arrive in.
const maxClaims = 1 << 12

// makeSlots makes room for as many requests as the plugin takes, 0 for as many
// as it is offered.
func (cn *conn) makeSlots(depth uint32) {
	n := maxSlots
	if depth > 0 {
		n = min(n, int(depth))
	}
	cn.slots = make([]slot, n)
	cn.free = make([]uint32, n)
	for i := range cn.free {
		cn.free[i] = uint32(n - 1 - i)
	}
}

func tagOf(n uint32, gen uint32) uint64 { return uint64(gen)<<32 | uint64(n) }

// offer puts io into a slot, of which there must be one.
func (cn *conn) offer(io *volume.IO) uint64 {
	n := cn.free[len(cn.free)-1]
	cn.free = cn.free[:len(cn.free)-1]
	s := &cn.slots[n]
	s.gen++
	s.io, s.held, s.ended, s.st = io, true, false, block.OK
	s.recv, s.lent, s.shared, s.high, s.hashed = 0, 0, false, 0, false
	if s.digests > 0 {
		s.renewDigests()
	}
	s.claimed = s.claimed[:0]
	if cn.stream != nil {
		s.queuedAt = cn.stream.Queued()
	}
	io.Lower.Slot = n
	io.Filled = 0
	if io.Op == block.OpBlockStatus {
		io.Extents = io.Extents[:0]
	}
	s.began = cn.ch.r.Now()
	return tagOf(n, s.gen)
}

// renewDigests forgets what was hashed of the slot's last request.
func (s *slot) renewDigests() {
	s.digests, s.digested = 0, 0
	if s.handed {
		s.handed, s.private = false, nil // somebody may still be reading it
	}
}

// find gives the slot of a tag that the plugin holds, or nil.
func (cn *conn) find(tag uint64) *slot {
	n, gen := uint32(tag), uint32(tag>>32)
	if uint64(n) >= uint64(len(cn.slots)) {
		return nil
	}
	s := &cn.slots[n]
	if s.gen != gen || !s.held || s.ended {
		return nil
	}
	return s
}

// keepPrivate is how large a payload's copy may be to be kept for the slot's
// next request, in bytes.
const keepPrivate = 256 << 10

// vacate makes a slot free.
func (cn *conn) vacate(n uint32) {
	s := &cn.slots[n]
	s.io, s.held = nil, false
	if len(s.private) > keepPrivate {
		s.private = nil
	}
	cn.free = append(cn.free, n)
}

// claim reserves bytes [from, to) of a read's payload and refuses an overlap.
func (s *slot) claim(from, to uint64) bool {
	if from == s.high && len(s.claimed) == 0 {
		s.high = to
		return true
	}
	if from < s.high || len(s.claimed) >= maxClaims {
		return false
	}
	at, _ := slices.BinarySearchFunc(s.claimed, from, func(c span, f uint64) int {
		if c.from < f {
			return -1
		}
		return 1
	})
	if at < len(s.claimed) && s.claimed[at].from < to || at > 0 && s.claimed[at-1].to > from {
		return false
	}
	s.claimed = slices.Insert(s.claimed, at, span{from, to})
	s.mergeClaims(at)
	return true
}

// mergeClaims joins the claim at index at with its neighbours and with high.
func (s *slot) mergeClaims(at int) {
	if at+1 < len(s.claimed) && s.claimed[at].to == s.claimed[at+1].from {
		s.claimed[at].to = s.claimed[at+1].to
		s.claimed = slices.Delete(s.claimed, at+1, at+2)
	}
	if at > 0 && s.claimed[at-1].to == s.claimed[at].from {
		s.claimed[at-1].to = s.claimed[at].to
		s.claimed = slices.Delete(s.claimed, at, at+1)
	}
	if s.claimed[0].from == s.high {
		s.high = s.claimed[0].to
		s.claimed = slices.Delete(s.claimed, 0, 1)
	}
}

// settle ends a request when the plugin has completed it and every loan of its
// memory is over (rule 2).
func (cn *conn) settle(n uint32) {
	s := &cn.slots[n]
	if !s.ended || s.recv > 0 || s.lent > 0 {
		return
	}
	io, st := s.io, s.st
	began := s.began
	cn.vacate(n)
	if io == nil {
		return
	}
	cn.order.remove(io)
	if st == block.OK {
		cn.served = true
		st = cn.confirm(io, began)
	}
	cn.tally.count(io.Op, st, cn.ch.r.Now()-began)
	cn.ch.finish(io, st)
}

// confirm checks what the plugin calls a success, and notes what it means for
// the durability of writes.
func (cn *conn) confirm(io *volume.IO, began int64) block.Status {
	switch io.Op {
	case block.OpRead:
		if io.Filled != io.Length { // rule 5
			cn.countViolation()
			cn.log.Error("plugin completed a read that it did not fill", "offset", io.Offset, "length", io.Length, "filled", io.Filled)
			return block.EIO
		}
	case block.OpBlockStatus:
		if len(io.Extents) == 0 {
			cn.countViolation()
			cn.log.Error("plugin completed a block status without an extent", "offset", io.Offset, "length", io.Length)
			return block.EIO
		}
	case block.OpFlush:
		cn.flushed(began)
	case block.OpWrite, block.OpWriteZeroes, block.OpDiscard:
		if io.Flags&block.FUA == 0 && cn.info.Has(block.CapFlush) {
			cn.acked = true
		}
	}
	return block.OK
}

func (cn *conn) countViolation() {
	cn.s().counters.violations.Add(1)
	cn.gen.counters.violations.Add(1)
}
