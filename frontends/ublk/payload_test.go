package ublk

import (
	"bytes"
	"slices"
	"testing"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// host is the driver's side of payload: the pages of the users' requests, by tag.
type host struct {
	t     testing.TB
	q     *queue
	pages [rigDepth][]byte
	most  int       // bytes that a call moves at most; 0: all
	fails sys.Errno // of every call
	calls int
}

func hostOf(t testing.TB, q *queue) *host {
	h := &host{t: t, q: q}
	q.char = 77
	q.pread = func(fd int, b []byte, off int64) (int, sys.Errno) {
		return h.call(fd, b, off, func(b, pages []byte) int { return copy(b, pages) })
	}
	q.pwrite = func(fd int, b []byte, off int64) (int, sys.Errno) {
		return h.call(fd, b, off, func(b, pages []byte) int { return copy(pages, b) })
	}
	q.ring.(*fakeRing).take = h.take
	return h
}

// take is the driver's copying when it takes a command.
func (h *host) take(e *iouring.SQE) {
	c := *(*ioCmd)(unsafe.Pointer(&e.Cmd))
	switch pages := h.pages[c.tag]; {
	case h.q.copy != CopyGetData:
	case uint32(e.Off) == h.q.op.getData:
		copy(h.memory(c.addr, len(pages)), pages)
	case h.q.descs[c.tag].opFlags == opRead:
		copy(pages, h.memory(c.addr, len(pages)))
	}
}

// memory is what lies at an address that the queue has told.
func (h *host) memory(addr uint64, n int) []byte {
	at := int(uintptr(addr) - uintptr(unsafe.Pointer(&h.q.bufs[0])))
	if at < 0 || at > len(h.q.bufs) {
		h.t.Errorf("%#x is an address outside of the queue's memory", addr)
		return nil
	}
	return h.q.bufs[at:min(at+n, len(h.q.bufs))]
}

func (h *host) call(fd int, b []byte, off int64, move func(b, pages []byte) int) (int, sys.Errno) {
	if h.calls++; h.calls%3 == 0 {
		return 0, sys.EINTR
	}
	if h.fails != 0 {
		return 0, h.fails
	}
	off -= 0x80000000
	tag, from := off>>25, off&(1<<25-1)
	if fd != 77 || off < 0 || tag >= rigDepth || int(from) > len(h.pages[tag]) {
		h.t.Errorf("descriptor %d, offset %d: tag %d from %d", fd, off, tag, from)
		return 0, sys.EFAULT
	}
	if h.most > 0 {
		b = b[:min(len(b), h.most)]
	}
	return move(b, h.pages[tag][from:]), 0
}

// told is what a queue tells the driver.
type told struct {
	op  uint32
	tag int
	res int32
	mem []byte // at the address, as long as the request is; nil: address 0
}

// orders gives what the queue has told.
func (h *host) orders(f *fakeRing) (list []told) {
	for i := range f.entries[:f.next] {
		e := &f.entries[i]
		c := *(*ioCmd)(unsafe.Pointer(&e.Cmd))
		o := told{op: uint32(e.Off), tag: int(c.tag), res: c.result}
		if c.addr != 0 {
			o.mem = h.memory(c.addr, len(h.pages[c.tag]))
		}
		list = append(list, o)
	}
	f.clear()
	slices.SortFunc(list, func(a, b told) int { return a.tag - b.tag })
	return list
}

// copyRig is a queue that shares buffers, with both ends of it.
type copyRig struct {
	*rig
	h *host
}

func newCopyRig(t testing.TB, way Copy, buffers int) copyRig {
	x := newRigWith(t, way, buffers)
	return copyRig{x, hostOf(t, x.q)}
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7) + byte(i>>8)
	}
	return b
}

// What is written arrives, what is read comes back, whatever pieces the kernel
// moves it in; and no address is told to a driver that wants none.
func TestUserCopy(t *testing.T) {
	for _, most := range []int{0, 512, 4096 - 1} {
		x := newCopyRig(t, CopyUser, 2*rigMaxIO)
		x.h.most = most
		x.disk.hold = true
		want := pattern(8192, 3)
		x.h.pages[0], x.h.pages[1] = slices.Clone(want), make([]byte, 4096)
		x.offer(ioDesc{opFlags: opWrite, sectors: 16}, ioDesc{opFlags: opRead, sectors: 8, start: 16}, ioDesc{opFlags: opFlush})
		x.do(func() {
			if got := x.disk.held[0].Data[0]; !bytes.Equal(got, want) {
				t.Errorf("by %d: another payload", most)
			}
			copy(x.disk.held[1].Data[0], pattern(4096, 9))
			for _, io := range x.disk.held {
				x.disk.answer(io)
			}
		})
		x.do(func() {
			for i, o := range x.h.orders(x.ring) {
				if o.op != x.q.op.commit || o.tag != i || o.mem != nil || o.res != []int32{8192, 4096, 0}[i] {
					t.Errorf("by %d: %+v", most, o)
				}
			}
		})
		if !bytes.Equal(x.h.pages[1], pattern(4096, 9)) {
			t.Errorf("by %d: another payload was read", most)
		}
		x.empty()
	}
}

// empty fails the test if a buffer is not back.
func (x copyRig) empty() {
	x.t.Helper()
	x.do(func() {
		for n := 0; n < len(x.q.pool.mem); n += pieceSize(rigMaxIO) {
			if _, ok := x.q.pool.get(rigMaxIO); !ok {
				x.t.Errorf("buffers were not given back: only %d bytes of %d are free", n, len(x.q.pool.mem))
				return
			}
		}
	})
}

// Payload that cannot be moved costs its request, is counted, and told once. What
// failed before is not written over.
func TestUserCopyFails(t *testing.T) {
	for name, spoil := range map[string]func(*host){
		"EINVAL": func(h *host) { h.fails = 22 }, "EFAULT": func(h *host) { h.fails = sys.EFAULT }, "EACCES": func(h *host) { h.fails = 13 },
		"nothing is moved": func(h *host) { h.q.pread = nothing; h.q.pwrite = nothing },
	} {
		t.Run(name, func(t *testing.T) {
			x := newCopyRig(t, CopyUser, 2*rigMaxIO)
			told := 0
			x.q.warn = func(error) { told++ }
			spoil(x.h)
			x.offer(ioDesc{opFlags: opWrite, sectors: 8}, ioDesc{opFlags: opRead, sectors: 8}, ioDesc{opFlags: opFlush})
			x.want(commit{0, -5}, commit{1, -5}, commit{2, 0})
			if len(x.disk.asked) != 2 || x.q.missed != 2 || told != 1 {
				t.Errorf("the disk was asked %d times; %d missed, told %d times", len(x.disk.asked), x.q.missed, told)
			}
			if l := left(t, x.q.journal.path); len(l.spans) != 0 {
				t.Errorf("noted: %v", l.spans)
			}
			x.disk.st = block.ENOSPC
			x.offer(ioDesc{opFlags: opRead, sectors: 8})
			x.want(commit{0, -28})
			x.empty()
		})
	}
}

func nothing(int, []byte, int64) (int, sys.Errno) { return 0, 0 }

// A write is shown, given a buffer, filled, and only then noted and submitted; a
// read has a buffer from the disk to its commit.
func TestGetData(t *testing.T) {
	x := newCopyRig(t, CopyGetData, 2*rigMaxIO)
	want := pattern(4096, 5)
	x.h.pages[0] = slices.Clone(want)
	shown := func() {
		x.do(func() {
			x.q.descs[0] = ioDesc{opFlags: opWrite, sectors: 8, start: 8}
			x.q.reap(iouring.CQE{UserData: 0, Res: resNeedData})
			x.q.goOn()
		})
	}
	for range 2 { // the kernel may not come by memory, and show it again
		shown()
		if len(x.disk.asked) != 0 {
			t.Fatal("a write without its payload went to the disk")
		}
		x.do(func() {
			o := x.h.orders(x.ring)
			if len(o) != 1 || o[0].op != x.q.op.getData || len(o[0].mem) != 4096 {
				t.Fatalf("%+v", o)
			}
		})
	}
	x.disk.hold = true
	x.offer(x.q.descs[0])
	x.do(func() {
		if got := x.disk.held[0].Data[0]; !bytes.Equal(got, want) {
			t.Error("another payload")
		}
		x.disk.answer(x.disk.held[0])
	})
	x.want(commit{0, 4096})

	shown() // and then the tag is a read's
	x.do(func() { x.ring.clear() })
	x.offer(ioDesc{opFlags: opRead, sectors: 8})
	x.do(func() {
		copy(x.disk.held[1].Data[0], pattern(4096, 1))
		x.disk.answer(x.disk.held[1])
	})
	x.do(func() {
		if o := x.h.orders(x.ring); len(o) != 1 || o[0].op != x.q.op.commit || o[0].res != 4096 || !bytes.Equal(o[0].mem, pattern(4096, 1)) {
			t.Errorf("%+v", o)
		}
	})
	x.empty()
}

// A read's buffer is nobody else's before the driver has taken its commit.
func TestGetDataKeepsWhatIsNotTaken(t *testing.T) {
	x := newCopyRig(t, CopyGetData, rigMaxIO)
	x.h.pages[0], x.h.pages[1] = make([]byte, rigMaxIO), make([]byte, rigMaxIO)
	x.ring.full = true
	x.offer(ioDesc{opFlags: opRead, sectors: 16}, ioDesc{opFlags: opRead, sectors: 16, start: 16})
	if len(x.disk.asked) != 1 {
		t.Fatalf("%d reads share a buffer", len(x.disk.asked))
	}
	x.ring.full = false
	x.do(x.q.ring.Flush)
	x.do(x.q.goOn)
	if len(x.disk.asked) != 2 {
		t.Error("the second one does not get its turn")
	}
	x.want(commit{0, 8192}, commit{1, 8192})
	x.empty()
}

// What the driver must not do costs the device its good name, and no memory.
func TestGetDataOfABrokenDriver(t *testing.T) {
	for name, c := range map[string]struct {
		way  Copy
		desc ioDesc
		res  int32
	}{
		"shows a read":              {CopyGetData, ioDesc{opFlags: opRead, sectors: 8}, resNeedData},
		"shows more than there is":  {CopyGetData, ioDesc{opFlags: opWrite, sectors: 17}, resNeedData},
		"shows what it should fill": {CopyKernel, ioDesc{opFlags: opWrite, sectors: 8}, resNeedData},
		"fills what has no buffer":  {CopyGetData, ioDesc{opFlags: opWrite, sectors: 8}, resOK},
	} {
		t.Run(name, func(t *testing.T) {
			x := newRigWith(t, c.way, rigMaxIO)
			told := 0
			x.q.trouble = func(error) { told++ }
			x.do(func() {
				x.q.descs[0] = c.desc
				x.q.reap(iouring.CQE{Res: c.res})
				x.q.goOn()
			})
			if told != 1 || len(x.disk.asked) != 0 {
				t.Errorf("told %d times, the disk was asked %d times", told, len(x.disk.asked))
			}
		})
	}
}

// Requests that find no room wait in order; a large one is not overtaken for ever,
// and those that need no buffer do not wait.
func TestWaitForRoom(t *testing.T) {
	x := newCopyRig(t, CopyUser, rigMaxIO) // 8 KiB
	x.disk.hold = true
	for i := range x.h.pages {
		x.h.pages[i] = make([]byte, rigMaxIO)
	}
	small, large := ioDesc{opFlags: opRead, sectors: 8}, ioDesc{opFlags: opWrite, sectors: 16}
	x.offer(small, large, small, large, ioDesc{opFlags: opDiscard, sectors: 1}, small)
	held := func() (list []int) {
		x.do(func() {
			for _, io := range x.disk.held {
				list = append(list, int(io.Tag))
			}
		})
		return list
	}
	answer := func() {
		x.do(func() {
			all := x.disk.held
			x.disk.held = nil
			for _, io := range all {
				x.disk.answer(io)
			}
		})
	}
	for _, want := range [][]int{{0, 4}, {1}, {2}, {3}, {5}, nil} {
		if got := held(); !slices.Equal(got, want) {
			t.Errorf("the disk has %v, want %v", got, want)
		}
		answer()
	}
	x.want(commit{0, 4096}, commit{1, 8192}, commit{2, 4096}, commit{3, 8192}, commit{4, 0}, commit{5, 4096})
	x.empty()
}

// A queue that leaves drops those that wait: the next engine is given them.
func TestLeaveWithRequestsThatWait(t *testing.T) {
	x := newCopyRig(t, CopyUser, rigMaxIO)
	x.disk.hold = true
	x.h.pages[0] = make([]byte, rigMaxIO)
	x.offer(ioDesc{opFlags: opWrite, sectors: 16}, ioDesc{opFlags: opWrite, sectors: 16}, ioDesc{opFlags: opRead, sectors: 1})
	x.do(func() {
		if x.q.drained() {
			t.Error("it says that nothing is on its way")
		}
		x.q.leave()
		if x.q.kept != 2 {
			t.Errorf("kept %d", x.q.kept)
		}
		x.disk.answer(x.disk.held[0])
	})
	x.want(commit{0, 8192})
	if !x.q.drained() || len(x.disk.held) != 1 {
		t.Error("what waited went to the disk")
	}
	x.do(x.q.release)
}
