package ublk

import (
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// fakeRing takes a queue's commands as the driver would.
type fakeRing struct {
	entries []iouring.SQE
	next    int
	flushed int
	full    bool               // the kernel takes nothing at the moment
	take    func(*iouring.SQE) // if not nil, called when it takes an entry
	took    int
	closed  bool
}

func (f *fakeRing) Get(value uint64) *iouring.SQE {
	if f.next == len(f.entries) {
		return nil
	}
	e := &f.entries[f.next]
	*e = iouring.SQE{UserData: value}
	f.next++
	return e
}

func (f *fakeRing) Bind(int) (int32, error) { return 0, nil }
func (f *fakeRing) Fetch() (int, error)     { f.Flush(); return f.Pending(), nil }
func (f *fakeRing) Held() int               { return 0 }
func (f *fakeRing) Flush() {
	f.flushed++
	if f.full {
		return
	}
	for ; f.took < f.next; f.took++ {
		if f.take != nil {
			f.take(&f.entries[f.took])
		}
	}
}
func (f *fakeRing) Close() { f.closed = true }
func (f *fakeRing) Pending() int {
	return f.next - f.took
}

// clear makes room after what was filled in has been looked at.
func (f *fakeRing) clear() { f.next, f.took = 0, 0 }

// commit is a tag with its result, as it was given to the driver.
type commit struct {
	tag    int
	result int32
}

// taken gives what was committed since the last time.
func (f *fakeRing) taken(t testing.TB, q *queue) (list []commit) {
	t.Helper()
	for i := range f.entries[:f.next] {
		e := &f.entries[i]
		c := *(*ioCmd)(unsafe.Pointer(&e.Cmd))
		at := uint64(uintptr(unsafe.Pointer(&q.bufs[int(c.tag)*q.maxIO%len(q.bufs)])))
		if q.copy != CopyKernel {
			at = c.addr // see payload_test.go
		}
		if e.Opcode != 46 || e.Off != uint64(q.op.commit) || uint64(c.tag) != e.UserData || int(c.queue) != q.index || c.addr != at {
			t.Fatalf("command %+v, %+v", e, c)
		}
		list = append(list, commit{int(c.tag), c.result})
	}
	f.clear()
	slices.SortFunc(list, func(a, b commit) int { return a.tag - b.tag })
	return list
}

// fakeDisk answers when it is told to, and keeps what it was asked.
type fakeDisk struct {
	info  block.Info
	done  volume.Completer
	held  []*volume.IO
	hold  bool
	asked []block.Request
	again []bool
	st    block.Status
}

func (d *fakeDisk) Home() *reactor.Reactor { return nil }
func (d *fakeDisk) OpenChannel(_ *reactor.Reactor, done volume.Completer) (volume.Channel, error) {
	d.done = done
	return fakeChannel{d}, nil
}
func (d *fakeDisk) Close() error { return nil }

// fakeChannel is its way down.
type fakeChannel struct{ *fakeDisk }

func (d fakeChannel) Close() {}

func (d fakeChannel) Submit(batch []*volume.IO) {
	for _, io := range batch {
		if d.asked != nil {
			d.asked, d.again = append(d.asked, io.Request), append(d.again, io.Again)
		}
		if d.hold {
			d.held = append(d.held, io)
			continue
		}
		d.answer(io)
	}
}

func (d *fakeDisk) answer(io *volume.IO) {
	io.Status = d.st
	if io.Op == block.OpRead {
		io.Filled = io.Length
	}
	d.done.Complete(io)
}

// rig is a queue between a driver and a disk that are both the test's.
type rig struct {
	t    testing.TB
	r    *reactor.Reactor
	disk *fakeDisk
	ring *fakeRing
	q    *queue
	gone int
}

const rigDepth, rigMaxIO = 8, 8192

func newRig(t testing.TB, owed ...span) *rig { return newRigWith(t, CopyKernel, 0, owed...) }

func newRigWith(t testing.TB, way Copy, buffers int, owed ...span) *rig {
	t.Helper()
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	x := &rig{t: t, r: r, ring: &fakeRing{entries: make([]iouring.SQE, rigDepth)}, disk: &fakeDisk{asked: []block.Request{}}}
	x.disk.info = block.Info{Size: 1 << 20, BlockSize: 512, Caps: block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes}
	v := volume.New(volume.Options{Name: "v", Reactors: []*reactor.Reactor{r}})
	if err := v.Attach(x.disk, x.disk.info); err != nil {
		t.Fatal(err)
	}
	if x.q, err = newQueue(0, rigDepth, rigMaxIO, way, buffers, true); err != nil {
		t.Fatal(err)
	}
	x.q.ring, x.q.r, x.q.descs = x.ring, r, make([]ioDesc, rigDepth)
	x.q.onBack = func() {}
	x.q.onGone, x.q.trouble = func() { x.gone++ }, func(err error) { t.Error(err) }
	x.q.warn = x.q.trouble
	x.q.journal = journalAt(t, filepath.Join(t.TempDir(), "j"), rigDepth, leftBehind{spans: owed})
	x.do(func() { x.q.q, err = v.Open(r, x.q, volume.QueueOptions{Stats: &x.q.stats}) })
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// do runs f on the reactor and waits for the end of its turn.
func (x *rig) do(f func()) {
	x.t.Helper()
	if !x.r.Do(f) || !x.r.Do(func() {}) {
		x.t.Fatal("the reactor has stopped")
	}
}

// offer has the driver hand out requests: tag i the i-th.
func (x *rig) offer(descs ...ioDesc) {
	x.t.Helper()
	x.do(func() {
		for tag, d := range descs {
			x.q.descs[tag] = d
			x.q.reap(iouring.CQE{UserData: uint64(tag)})
		}
		x.q.submit()
	})
}

// abort has the driver take tags back.
func (x *rig) abort(tags ...int) {
	x.do(func() {
		for _, tag := range tags {
			x.q.reap(iouring.CQE{UserData: uint64(tag), Res: resAbort})
		}
	})
}

func (x *rig) want(want ...commit) {
	x.t.Helper()
	x.do(func() {
		if got := x.ring.taken(x.t, x.q); !slices.Equal(got, want) {
			x.t.Errorf("committed %v, want %v", got, want)
		}
	})
}

// Every operation as the driver describes it, and what the disk is asked for.
func TestOperations(t *testing.T) {
	const max = rigMaxIO / 512
	for name, c := range map[string]struct {
		desc   ioDesc
		op     block.Op
		flags  block.Flags
		offset uint64
		length uint64
		result int32
	}{
		"read":               {ioDesc{opFlags: opRead, sectors: 8, start: 16}, block.OpRead, 0, 8192, 4096, 4096},
		"longest read":       {ioDesc{opFlags: opRead, sectors: max, start: 0}, block.OpRead, 0, 0, 8192, 8192},
		"write":              {ioDesc{opFlags: opWrite, sectors: 1, start: 3}, block.OpWrite, 0, 1536, 512, 512},
		"write through":      {ioDesc{opFlags: opWrite | descFUA, sectors: 1, start: 3}, block.OpWrite, block.FUA, 1536, 512, 512},
		"other flags":        {ioDesc{opFlags: opWrite | 1<<8 | 1<<11 | 1<<16, sectors: 1}, block.OpWrite, 0, 0, 512, 512},
		"flush":              {ioDesc{opFlags: opFlush, start: ^uint64(0)}, block.OpFlush, 0, 0, 0, 0},
		"discard":            {ioDesc{opFlags: opDiscard, sectors: 1000, start: 8}, block.OpDiscard, 0, 4096, 512000, 0},
		"zeroes":             {ioDesc{opFlags: opWriteZeroes, sectors: 1000}, block.OpWriteZeroes, 0, 0, 512000, 0},
		"zeroes, kept":       {ioDesc{opFlags: opWriteZeroes | descNoUnmap, sectors: 8}, block.OpWriteZeroes, block.NoHole, 0, 4096, 0},
		"zeroes through":     {ioDesc{opFlags: opWriteZeroes | descFUA, sectors: 8}, block.OpWriteZeroes, block.FUA, 0, 4096, 0},
		"too long":           {ioDesc{opFlags: opRead, sectors: max + 1}, 0, 0, 0, 0, -22},
		"far away":           {ioDesc{opFlags: opRead, sectors: 1, start: 1 << 55}, 0, 0, 0, 0, -22},
		"behind the end":     {ioDesc{opFlags: opRead, sectors: 1, start: 2048}, 0, 0, 0, 0, -22},
		"write behind it":    {ioDesc{opFlags: opWrite, sectors: 1, start: 2048}, 0, 0, 0, 0, -28},
		"write same":         {ioDesc{opFlags: 4, sectors: 1}, 0, 0, 0, 0, -95},
		"open a zone":        {ioDesc{opFlags: 10, sectors: 1}, 0, 0, 0, 0, -95},
		"a read of nothing":  {ioDesc{opFlags: opRead}, 0, 0, 0, 0, -22},
		"a discard of none ": {ioDesc{opFlags: opDiscard}, 0, 0, 0, 0, -22},
	} {
		t.Run(name, func(t *testing.T) {
			x := newRig(t)
			x.offer(c.desc)
			x.want(commit{0, c.result})
			if c.result < 0 {
				if len(x.disk.asked) != 0 {
					t.Errorf("the disk was asked: %+v", x.disk.asked)
				}
				return
			}
			if len(x.disk.asked) != 1 {
				t.Fatalf("the disk was asked %d times", len(x.disk.asked))
			}
			a := x.disk.asked[0]
			if a.Op != c.op || a.Flags != c.flags || a.Offset != c.offset || a.Length != c.length {
				t.Errorf("asked for %v %v %d at %d", a.Op, a.Flags, a.Length, a.Offset)
			}
			if a.Op.HasPayload() && (len(a.Data) != 1 || uint64(len(a.Data[0])) != a.Length || &a.Data[0][0] != &x.q.bufs[0]) {
				t.Error("its payload is not the tag's buffer")
			}
		})
	}
}

// A batch goes down at once and comes back in one system call, in any order; an
// errno travels unchanged.
func TestBatch(t *testing.T) {
	x := newRig(t)
	x.disk.hold = true
	x.offer(ioDesc{opFlags: opRead, sectors: 8}, ioDesc{opFlags: opWrite, sectors: 8, start: 8}, ioDesc{opFlags: opWrite, sectors: 8, start: 16})
	x.want()
	x.do(func() {
		x.ring.flushed = 0
		x.disk.answer(x.disk.held[2])
		x.disk.st = block.ENOSPC
		x.disk.answer(x.disk.held[1])
		x.disk.st = block.OK
		x.disk.answer(x.disk.held[0])
	})
	x.want(commit{0, 4096}, commit{1, -28}, commit{2, 4096})
	if x.ring.flushed != 1 {
		t.Errorf("%d system calls", x.ring.flushed)
	}
}

// What a dead engine was writing is flagged when it comes again, until it has
// been written; what is in flight now is noted for the next engine.
func TestAgain(t *testing.T) {
	x := newRig(t, span{4096, 4096}, span{65536, 512})
	write := func(sector uint64) ioDesc { return ioDesc{opFlags: opWrite, sectors: 8, start: sector} }
	x.disk.st = block.EIO
	x.offer(write(8))
	x.disk.st = block.OK
	x.offer(write(8), write(64), ioDesc{opFlags: opRead, sectors: 8, start: 8}, ioDesc{opFlags: opDiscard, sectors: 512, start: 0})
	x.offer(write(8), write(128))
	if want := []bool{true, true, false, false, true, false, false}; !slices.Equal(x.disk.again, want) {
		t.Errorf("flagged %v, want %v", x.disk.again, want)
	}
	if x.q.resent != 3 || x.q.journal.left.Load() != 0 {
		t.Errorf("%d sent again, %d owed", x.q.resent, x.q.journal.left.Load())
	}
}

// The end: the driver takes all tags back, after the volume has answered.
func TestGone(t *testing.T) {
	x := newRig(t)
	x.disk.hold = true
	x.offer(ioDesc{opFlags: opRead, sectors: 1})
	x.abort(1, 2, 3, 4, 5, 6, 7)
	if x.gone != 0 || x.q.phase != serving {
		t.Fatal("it is gone with a tag in the volume")
	}
	x.do(func() { x.disk.answer(x.disk.held[0]) })
	x.want(commit{0, 512})
	x.abort(0)
	if x.gone != 1 || x.q.phase != gone {
		t.Fatalf("phase %d, told %d times", x.q.phase, x.gone)
	}
	x.do(x.q.release)
	if !x.ring.closed || x.q.bufs != nil {
		t.Error("it keeps what it had")
	}
}

// A queue that leaves answers what the volume has, and takes no more.
func TestLeave(t *testing.T) {
	x := newRig(t)
	x.disk.hold = true
	x.offer(ioDesc{opFlags: opWrite, sectors: 1, start: 5})
	x.do(x.q.leave)
	x.offer(ioDesc{}, ioDesc{opFlags: opRead, sectors: 1})
	if len(x.disk.held) != 1 || x.q.kept != 2 || x.q.idle() {
		t.Fatalf("the disk has %d, kept %d", len(x.disk.held), x.q.kept)
	}
	x.do(func() { x.disk.answer(x.disk.held[0]) })
	x.want(commit{0, 512})
	if !x.q.idle() {
		t.Error("it is not idle")
	}
}

// A queue that is cut keeps its memory, and its notes, for as long as the volume
// has requests.
func TestSever(t *testing.T) {
	x := newRig(t)
	x.disk.hold = true
	x.offer(ioDesc{opFlags: opWrite, sectors: 1, start: 5})
	x.do(x.q.sever)
	if !x.ring.closed || x.q.bufs == nil {
		t.Fatal("the ring is open, or the payload is gone")
	}
	x.do(func() { x.disk.answer(x.disk.held[0]) })
	x.want()
	if l := left(t, x.q.journal.path); !slices.Equal(l.spans, []span{{2560, 512}}) {
		t.Errorf("left behind: %v", l.spans)
	}
	if x.q.bufs != nil {
		t.Error("it keeps its memory")
	}
}
