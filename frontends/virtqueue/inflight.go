package virtqueue

import (
	"fmt"
	"unsafe"
)

// The in-flight region (vhost-user, "Inflight I/O tracking", split virtqueue)
// outlives this process in the hands of the front-end. It is written so that a
// process killed between any two stores leaves what Recover needs.
//
// What a killed process leaves. SIGKILL stops a thread between two instructions:
// all of its stores up to there are in memory, or on their way in the
// processor's store buffer, which is not lost; none after it are. That holds on
// every processor, however weakly ordered, because the kernel is entered by an
// exception, which is precise. Whoever has learned of the death from the kernel
// (closed socket, wait) reads after those stores. So what counts is the order
// of the instructions, which is the compiler's: order() and atomic stores pin
// it. All stores below are made by one goroutine on its own thread.
//
// Let T be the chains taken from the available ring, counted from the start, and
// U the ring's used index. Recover has to find (1) T, and (2) which heads are
// taken and not covered by U. The region has no T; it is U + the number of marks
// once the marks are right. So the marks must be right for every prefix of:
//
//	Pop, for each chain in ring order
//	  a  desc[i].counter = n
//	  b  desc[i].inflight = 1
//	Publish, once a batch
//	  c  the used elements               for each chain
//	  d  desc[i].next = the one before   for each chain; for the first, last_batch_head
//	  e  last_batch_head = the last one
//	  f  used ring idx += size of the batch
//	  g  desc[i].inflight = 0            for each chain
//	  h  used_idx = used ring idx
//
//	a | b   A counter without a mark is not looked at. The chain is not taken: it
//	        is the next of the available ring, whose entry the driver keeps until
//	        it is used. A mark without its counter would lose the order: a comes
//	        first. (counters of one batch may be written in any order among
//	        themselves; each before its own mark.)
//	b | b'  Marks are made in ring order, so those made are the first of the batch
//	        and T = U + marks is where the rest is.
//	b | …   Pop returns after all marks: what the device works on is marked.
//	c…e | f Elements past the index are nobody's. used_idx = U, so Recover does not
//	        look at the list; all marks stand; the batch is resubmitted. The driver
//	        has not seen it complete, and sees it complete once, later.
//	f       One store of 4 bytes: the whole batch or nothing. c, d and e come
//	        before it, or the driver could see elements, and Recover a list, that
//	        are not there yet.
//	f | g   U − used_idx is the size of the batch. The list from last_batch_head
//	        has exactly its heads, each once, in that many steps: all of d and e are
//	        older than f. Recover clears them, whether or not g had. The driver may
//	        have put such a head into the available ring again: it is not taken
//	        yet, because b comes after h on this thread.
//	g | h   The same; h comes last, or a mark that g had not reached would be
//	        resubmitted though the driver has seen its completion.
//	h | b   The next marks come after h: else Recover would clear them with the old
//	        batch, and a taken chain would be lost. (order at the start of mark)
//	h | d   The next batch's links come after h: else Recover would walk from the
//	        old head along new links. (order at the start of link)
//	h | notification: the driver may never be told. The next process owes a
//	        notification: the first Publish of a Queue says so.
//
// The text has d and e alternate; only f makes them count, so one store of e for
// the batch leaves the same. Recovery itself: clears in the list's order, then
// used_idx. A kill before the latter finds list and difference unchanged and
// does it all again. A new region is filled in first and gets its version last.
//
// Order of resubmission is that of the counters, which go on from the highest
// one in flight; they are compared by difference, so that they may wrap.

// Layout of a queue's part of the region, all little endian.
const (
	inflightAlign   = 64 // of each queue's part
	inflightHeader  = 16 // features u64, version u16, desc_num u16, last_batch_head u16, used_idx u16
	inflightState   = 16 // of each descriptor: inflight u8, 5 of padding, next u16, counter u64
	offVersion      = 8
	offDescNum      = 10
	offBatchHead    = 12
	offUsedIdx      = 14
	offNext         = 6
	offCounter      = 8
	inflightVersion = 1
)

// inflightPart is the size of one queue's part.
func inflightPart(size uint16) uint64 {
	n := inflightHeader + inflightState*uint64(size)
	return (n + inflightAlign - 1) &^ (inflightAlign - 1)
}

// InflightSize is how long a region for that many queues of size descriptors is,
// in bytes: what GET_INFLIGHT_FD answers as mmap_size.
func InflightSize(queues int, size uint16) uint64 {
	return uint64(queues) * inflightPart(size)
}

// Inflight is one queue's part of the in-flight region. It is for one Queue at a
// time.
type Inflight struct {
	base     unsafe.Pointer
	size     uint16 // of the desc array
	lastHead uint16 // what last_batch_head is
	counter  uint64 // of the next chain
}

// OpenInflight gives the part of the queue with that index (from 0) in region,
// the mapped memory that SET_INFLIGHT_FD brought with its mmap_size, which was
// made for size descriptors a queue (its queue_size; a ring may be smaller). It
// does not touch the memory. Errors are ErrInflight.
func OpenInflight(region []byte, queue int, size uint16) (*Inflight, error) {
	if size == 0 || queue < 0 {
		return nil, fmt.Errorf("%w: queue %d of %d descriptors", ErrInflight, queue, size)
	}
	part := inflightPart(size)
	if have := uint64(len(region)) / part; uint64(queue) >= have {
		return nil, fmt.Errorf("%w: its %d bytes have room for %d queues of %d descriptors, queue %d is not among them",
			ErrInflight, len(region), have, size, queue)
	}
	region = region[uint64(queue)*part:]
	if !aligned(region, 8) {
		return nil, fmt.Errorf("%w: it is not aligned to 8 bytes", ErrInflight)
	}
	return &Inflight{base: unsafe.Pointer(unsafe.SliceData(region)), size: size}, nil
}

// at gives the state of a head, which is less than f.size.
func (f *Inflight) at(head uint16) unsafe.Pointer {
	return unsafe.Add(f.base, inflightHeader+uintptr(head)*inflightState)
}

func (f *Inflight) put16(off uintptr, v uint16) { *(*uint16)(unsafe.Add(f.base, off)) = v }

// mark notes that heads were taken, in this order: stores a and b.
func (f *Inflight) mark(heads []uint16) {
	hook := Failpoint
	n := f.counter
	for _, h := range heads {
		s := f.at(h)
		*(*uint64)(unsafe.Add(s, offCounter)) = n
		if hook != nil {
			hook(StepCounter)
		}
		order() // what came before, the counter and the mark before among it
		*(*uint8)(s) = 1
		if hook != nil {
			hook(StepMarked)
		}
		n++
	}
	f.counter = n
}

// link makes the list of a batch that is about to be published: stores d and e.
// An atomic store, f, follows.
func (f *Inflight) link(batch []completion) {
	hook := Failpoint
	order() // used_idx of the batch before
	last := f.lastHead
	for i := range batch {
		h := batch[i].head
		*(*uint16)(unsafe.Add(f.at(h), offNext)) = last
		last = h
		if hook != nil {
			hook(StepLinked)
		}
	}
	f.lastHead = last
	f.put16(offBatchHead, last)
	if hook != nil {
		hook(StepBatchHead)
	}
}

// settle clears the marks of a batch that is published: stores g and h.
func (f *Inflight) settle(batch []completion, used uint16) {
	hook := Failpoint
	order() // the ring's index
	for i := range batch {
		*(*uint8)(f.at(batch[i].head)) = 0
		if hook != nil {
			hook(StepCleared)
		}
	}
	order() // the marks
	f.put16(offUsedIdx, used)
	if hook != nil {
		hook(StepSettled)
	}
}
