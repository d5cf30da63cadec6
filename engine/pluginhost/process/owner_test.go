package process

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/process/worker"
)

// asked is a request of an owner's.
type asked struct {
	op             block.Op
	offset, length uint64
	want           []byte   // of a read
	lent           [][]byte // what the payload lies in, nil: in the slot's buffer
}

// payload is where a request's payload lies, as one slice of its own.
func (a *asked) payload(l *link, slot int) []byte {
	if a.lent == nil {
		return l.Payload(slot)[:a.length]
	}
	return bytes.Join(a.lent, nil)
}

// owner is a LinkOwner that knows what it has asked for, and what the disk holds.
// Requests that are out together never overlap. Its fields are the reactor's.
type owner struct {
	l        *link
	slots    []*asked
	disk     []byte
	finished int
	turns    int
	lost     []error
	broke    []error
	fenced   int
	guest    []byte // memory that may be lent, a part for each slot; nil: none
	lent     int
	errs     []error
	next     func() // called by Turn
	end      chan struct{}
}

func (o *owner) fail(format string, args ...any) {
	o.errs = append(o.errs, fmt.Errorf(format, args...))
}

// Finished checks a result against what was asked and what the disk holds.
func (o *owner) Finished(slot int, st block.Status, filled uint64, ext []block.Extent) {
	if len(o.lost) > 0 || o.fenced > 0 {
		o.fail("slot %d was finished after the end", slot)
	}
	a := o.slots[slot]
	if a == nil {
		o.fail("slot %d was finished and is not outstanding", slot)
		return
	}
	o.slots[slot] = nil
	o.finished++
	switch a.op {
	case block.OpRead:
		if st == block.OK && (filled != a.length || !bytes.Equal(a.payload(o.l, slot), a.want)) {
			o.fail("read of %d at %d: %d bytes, or others", a.length, a.offset, filled)
		}
	case block.OpBlockStatus:
		sum := uint64(0)
		for _, e := range ext {
			sum += e.Length
		}
		// The first half, which may be empty and is left out then, is data.
		n := len(ext)
		if sum != a.length || n != int(min(a.length, 2)) || ext[n-1].State != block.Hole|block.Zero || n == 2 && ext[0].State != 0 {
			o.fail("block status of %d: %v", a.length, ext)
		}
	case block.OpCache:
		if st != block.ENOTSUP {
			o.fail("cache: status %v, wanted ENOTSUP", st)
		}
		return
	}
	if st != block.OK {
		o.fail("%v of %d at %d: status %v", a.op, a.length, a.offset, st)
	}
}

func (o *owner) Turn() {
	o.turns++
	if o.next != nil {
		o.next()
	}
}

func (o *owner) Changed(block.Info) {}

func (o *owner) Lost(err error) {
	o.lost = append(o.lost, err)
	if o.end != nil {
		close(o.end)
	}
}

// hooks give a link's hooks: breaking is noted, releasing is done at once.
func (o *owner) hooks(hang time.Duration) hooks {
	return hooks{hang: hang, broke: func(err error) { o.broke = append(o.broke, err) }, release: func(done func(bool)) { done(true) }}
}

// out is how many requests are outstanding.
func (o *owner) out() (n int) {
	for _, a := range o.slots {
		if a != nil {
			n++
		}
	}
	return n
}

// ask submits a request on a free slot; a write changes what the disk will hold.
func (o *owner) ask(slot int, a asked, rnd *rand.Rand) {
	switch a.op {
	case block.OpRead:
		a.want = bytes.Clone(o.disk[a.offset : a.offset+a.length])
		o.lend(slot, &a, rnd)
	case block.OpWrite:
		p := make([]byte, a.length)
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		copy(o.disk[a.offset:], p)
		if !o.lend(slot, &a, rnd) {
			copy(o.l.Payload(slot), p)
		}
		for _, b := range a.lent {
			p = p[copy(b, p):]
		}
	}
	o.slots[slot] = &a
	o.l.Submit(slot, a.op, 0, a.offset, a.length)
}

// lend has a request's payload lie in pieces of guest memory, if that can be.
func (o *owner) lend(slot int, a *asked, rnd *rand.Rand) bool {
	part := len(o.guest) / len(o.slots)
	if part == 0 || rnd.IntN(4) == 0 {
		return false
	}
	var pieces [][]byte
	free := o.guest[slot*part : (slot+1)*part]
	for left := int(a.length); left > 0; {
		n := 1 + rnd.IntN(left)
		if len(pieces) > 8 {
			n = left
		}
		skip := rnd.IntN(2) * rnd.IntN(64)
		pieces, free, left = append(pieces, free[skip:skip+n:skip+n]), free[skip+n:], left-n
	}
	if !o.l.Lend(slot, pieces) {
		return false
	}
	a.lent = pieces
	o.lent++
	return true
}

// askAny submits a random request: each slot has a part of the disk of its own.
func (o *owner) askAny(slot int, rnd *rand.Rand) {
	part := uint64(len(o.disk) / len(o.slots))
	ops := []block.Op{block.OpRead, block.OpWrite, block.OpRead, block.OpWrite, block.OpFlush, block.OpBlockStatus, block.OpCache}
	a := asked{op: ops[rnd.IntN(len(ops))]}
	if a.op != block.OpFlush {
		a.offset = rnd.Uint64N(part)
		a.length = 1 + rnd.Uint64N(part-a.offset)
		a.offset += uint64(slot) * part
	}
	o.ask(slot, a, rnd)
}

// newOwner is a link to a region with its owner, on r.
func newOwner(t testing.TB, r *reactor.Reactor, reg *region, hang time.Duration) *owner {
	t.Helper()
	o := &owner{disk: make([]byte, testSize), end: make(chan struct{})}
	o.l = newLink(reg, block.Info{Size: testSize, BlockSize: 1}, o.hooks(hang))
	o.slots = make([]*asked, o.l.Depth())
	var err error
	r.Do(func() { err = o.l.Start(r, o) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fenced := make(chan struct{})
		r.Do(func() {
			if !o.l.closed {
				o.l.Close(func(bool) { close(fenced) })
				return
			}
			close(fenced)
		})
		await(t, fenced, "the fence")
		for _, err := range o.errs {
			t.Error(err)
		}
	})
	return o
}

func makeRegion(t testing.TB, kind string) *region {
	t.Helper()
	reg, err := newRegion("test", testLayout(kind))
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

// await fails the test unless c is closed or sent to.
func await(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// inside serves a region on a goroutine of this process, so that the race detector
// sees both ends. It gives what closes the worker.
func inside(t testing.TB, kind string, reg *region, spin time.Duration) (closeWorker func()) {
	t.Helper()
	return insideWith(t, kind, reg, worker.Options{Spin: spin})
}

func insideWith(t testing.TB, kind string, reg *region, o worker.Options) (closeWorker func()) {
	t.Helper()
	f, err := worker.FilesOf(dupAll(t, reg.files()))
	if err != nil {
		t.Fatal(err)
	}
	w, err := serveRegion(kind, f, o)
	if err != nil {
		t.Fatal(err)
	}
	return w.Close
}

// trapOf gives the cause of a trap, "" for another error.
func trapOf(err error) string {
	var trap *guest.Trap
	if errors.As(err, &trap) {
		return trap.Cause
	}
	return ""
}
