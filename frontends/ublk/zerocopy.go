package ublk

import (
	"fmt"
	"syscall"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// Zero copy: before the driver hands a request over it puts the request's pages
// into a place of the ring's table of registered buffers (AUTO_BUF_REG), one for
// each tag, and takes them out with the commit. A volume that can do its I/O by
// such a place is given that instead of memory (volume.IO.Fixed). What it cannot
// take so is copied as with CopyUser: what is too long for it, what the driver
// could not register, and what has been refused.

// fixed is what a queue needs for that.
type fixed struct {
	first   int    // place of tag 0
	most    uint64 // bytes of a request that the volume takes so; 0: none
	passed  uint64 // requests that went so
	refused int    // those in a row that the volume would not do so
}

// enoughRefused is how often that may happen before no more are tried.
const enoughRefused = 8

// share joins the ring of the reactor.
func (q *queue) share(r *reactor.Reactor) error {
	s, err := newSharedRing(r, q)
	if err != nil {
		return err
	}
	q.ring = s
	q.fixed.first, q.fixed.most = s.first, q.q.FixedMax(s.hub)
	return nil
}

// place is what tells the driver where to put the next request of a tag, struct
// ublk_auto_buf_reg, and to hand it over too if that cannot be done.
func (f *fixed) place(tag int) uint64 {
	const fallback = 1 << 16
	return uint64(f.first+tag) | fallback
}

// passes tells whether a request goes to the volume without its payload, and if
// so makes it one that does.
func (q *queue) passes(r *request, tag int) bool {
	if q.copy != CopyZero || r.unregistered || r.mustCopy || r.io.Length > q.fixed.most {
		return false
	}
	r.io.Fixed, r.io.Buffer = true, uint16(q.fixed.first+tag)
	q.fixed.passed++
	return true
}

// again begins a request once more, to be copied, if the volume could not do it
// by its place: the file system may not take what is not in memory, or the pages
// not lie as it wants them. Nobody has heard of an answer; a write that was begun
// is written whole once more.
func (q *queue) again(r *request, tag int) bool {
	if !r.io.Fixed {
		return false
	}
	switch r.io.Status {
	case block.Status(syscall.EINVAL), block.ENOTSUP, block.Status(syscall.EFAULT):
	case block.OK:
		q.fixed.refused = 0
		return false
	default:
		return false
	}
	if q.fixed.refused++; q.fixed.refused == enoughRefused {
		q.fixed.most = 0
		q.warn(fmt.Errorf("queue %d: the volume does no I/O by registered buffers here: %w; from now on payload is copied", q.index, syscall.Errno(r.io.Status)))
	}
	r.mustCopy = true
	q.begin(tag, false)
	return true
}
