package sdktest

import (
	"math/rand/v2"
	"slices"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// StoreHarness is a store plugin under test.
type StoreHarness struct {
	Manifest store.Manifest
	// Open opens the disk. Several may be open one after the other, not at the
	// same time. What is on it does not matter, and is overwritten.
	Open func(t TB, readOnly bool) store.Device
}

// RunStore runs the conformance suite of store plugins.
func RunStore[T Tester[T]](t T, h StoreHarness) {
	t.Helper()
	for _, c := range StoreCases() {
		t.Run(c.Name, func(t T) { c.Run(t, &h) })
	}
}

// StoreCase is one part of the suite of store plugins.
type StoreCase struct {
	Name   string
	Manual string // the place in sdk/PLUGIN.md that says what is right
	run    func(h *StoreHarness, t TB)
}

// Run runs the case. What it finds goes to t.
func (c *StoreCase) Run(t TB, h *StoreHarness) {
	t.Helper()
	c.run(h, t)
}

// StoreCases are the parts of the suite, in the order in which they are best read.
func StoreCases() []StoreCase {
	const manual = string(inStores)
	return []StoreCase{
		{"manifest", manual, (*StoreHarness).manifest},
		{"info", manual, (*StoreHarness).info},
		{"operations", manual, (*StoreHarness).operations},
		{"transfers", manual, (*StoreHarness).transfers},
		{"segments", manual, (*StoreHarness).segments},
		{"data", manual, (*StoreHarness).data},
		{"crowd", manual, (*StoreHarness).crowd},
		{"two channels", manual, (*StoreHarness).two},
		{"not promised", manual, (*StoreHarness).notPromised},
		{"read-only", manual, (*StoreHarness).readOnly},
		{"rescan", manual, (*StoreHarness).rescan},
		{"close and open", manual, (*StoreHarness).reopen},
	}
}

func (h *StoreHarness) manifest(t TB) {
	checkNames(t, h.Manifest.Name, h.Manifest.Version, h.Manifest.Options)
}

// disk opens the disk with one lane. Both are closed when the test is over.
func (h *StoreHarness) disk(t TB) (*disk, *lane) {
	t.Helper()
	d := h.open(t, false)
	return d, d.lane(t)
}

func (h *StoreHarness) open(t TB, readOnly bool) *disk {
	t.Helper()
	d := &disk{Device: h.Open(t, readOnly)}
	d.info = d.Info()
	t.Cleanup(func() { d.close(t) })
	if wrong := WrongInfo(&d.info); wrong != "" {
		t.Fatalf("info: %s%s", wrong, inStores.suffix())
	}
	return d
}

// disk is an open device.
type disk struct {
	store.Device
	info   block.Info
	lanes  []*lane
	closed bool
}

func (d *disk) close(t TB) {
	if d.closed {
		return
	}
	d.closed = true
	for _, l := range d.lanes {
		l.close()
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// WrongInfo says what makes no sense in a disk's description, "" if all does.
func WrongInfo(i *block.Info) string {
	power := func(v uint32) bool { return v != 0 && v&(v-1) == 0 }
	switch b := uint64(i.BlockSize); {
	case !power(i.BlockSize) || b > 64<<10:
		return "the block size is no power of two from 1 to 65536"
	case i.Size%b != 0:
		return "the size is no multiple of the block size"
	case !power(i.PreferredBlock) || i.PreferredBlock < i.BlockSize:
		return "the preferred block size is no power of two from the block size up"
	case uint64(i.MaxTransfer)%b != 0 || i.MaxZeroes%b != 0 || i.MaxDiscard%b != 0:
		return "a maximum is no multiple of the block size"
	case i.Has(block.CapFastZero) && !i.Has(block.CapWriteZeroes):
		return "fast zeroes without write-zeroes"
	case i.Caps >= block.CapFlushCoversAll<<1:
		return "there is a capability that nobody has defined"
	}
	return ""
}

// info opens the disk twice. Either it is the same disk, and then it holds what was
// written, or it has lost that and says so, by another identity.
func (h *StoreHarness) info(t TB) {
	d, l := h.disk(t)
	n := uint64(d.info.BlockSize)
	w, r := &Request{Op: block.OpWrite, Length: n, Data: pattern(n, 9)}, &Request{Op: block.OpRead, Length: n}
	if !d.info.Has(block.CapReadOnly) {
		l.do(t, w)
	}
	if d.info.Has(block.CapFlush) {
		l.do(t, &Request{Op: block.OpFlush})
	}
	first := d.info
	d.close(t)
	again, l := h.disk(t)
	if again.info.Identity != first.Identity {
		t.Logf("opened again it is another disk: %q, and was %q", again.info.Identity, first.Identity)
		return
	}
	if again.info != first {
		t.Errorf("opened again it says that it is the same disk, and is not: %+v, and was %+v%s", again.info, first, inStores.suffix())
	}
	if l.do(t, r); w.Done && string(r.Data) != string(w.Data) {
		t.Errorf("opened again, the disk has lost what was written and says that it is the same: give it another identity%s", inStores.suffix())
	}
}

// operations tries all that the capabilities promise, with all flags.
func (h *StoreHarness) operations(t TB) {
	d, l := h.disk(t)
	n := min(uint64(d.info.PreferredBlock)*4, d.info.Size)
	for _, p := range promised(d.info.Caps) {
		r := &Request{Op: p.op, Mods: p.mods, Length: n, Data: pattern(n, 1)}
		if p.op == block.OpFlush {
			r.Length, r.Data = 0, nil
		}
		l.do(t, r)
		if r.Status != block.OK && (p.mods&block.FastZero == 0 || r.Status != block.ENOTSUP) {
			t.Errorf("%v with flags %#x: %v", p.op, p.mods, r.Status)
		}
		if p.op == block.OpBlockStatus && r.Status == block.OK && len(r.Extents) == 0 {
			t.Errorf("a block status without an extent")
		}
	}
}

// sizesOf are the lengths that a transfer is tried with.
func sizesOf(i *block.Info) []uint64 {
	most, b := min(i.Size, 4<<20), uint64(i.BlockSize)
	if i.MaxTransfer != 0 {
		most = min(most, uint64(i.MaxTransfer))
	}
	var sizes []uint64
	for _, n := range []uint64{b, 3 * b, most / 2 / b * b, most / b * b} {
		if n > 0 && n <= most {
			sizes = append(sizes, n)
		}
	}
	return sizes
}

func (h *StoreHarness) transfers(t TB) {
	d, l := h.disk(t)
	if d.info.Has(block.CapReadOnly) {
		t.Skip("the disk is read-only")
	}
	for i, n := range sizesOf(&d.info) {
		for _, at := range []uint64{0, d.info.Size - n} {
			w := &Request{Op: block.OpWrite, Offset: at, Length: n, Data: pattern(n, byte(i))}
			r := &Request{Op: block.OpRead, Offset: at, Length: n}
			l.do(t, w)
			l.do(t, r)
			if w.Status != block.OK || r.Status != block.OK || string(w.Data) != string(r.Data) {
				t.Fatalf("%d bytes at %d: write %v, read %v, same data %v", n, at, w.Status, r.Status, string(w.Data) == string(r.Data))
			}
		}
	}
}

// segments gives payload in pieces of odd lengths.
func (h *StoreHarness) segments(t TB) {
	d, l := h.disk(t)
	if d.info.Has(block.CapReadOnly) {
		t.Skip("the disk is read-only")
	}
	sizes := sizesOf(&d.info)
	n := min(sizes[len(sizes)-1], 64<<10/uint64(d.info.BlockSize)*uint64(d.info.BlockSize))
	rnd := rand.New(rand.NewPCG(1, 7))
	for i := range 16 {
		w := &Request{Op: block.OpWrite, Length: n, Data: pattern(n, byte(i))}
		r := &Request{Op: block.OpRead, Length: n}
		l.cut = rnd
		l.do(t, w)
		l.do(t, r)
		if w.Status != block.OK || r.Status != block.OK || string(w.Data) != string(r.Data) {
			t.Fatalf("%d bytes in segments: write %v, read %v, same data %v", n, w.Status, r.Status, string(w.Data) == string(r.Data))
		}
	}
}

// data runs random operations against a model.
func (h *StoreHarness) data(t TB) {
	d, l := h.disk(t)
	m := newModel(d.info.Size, uint64(d.info.BlockSize))
	rnd := rand.New(rand.NewPCG(1, 42))
	for range 60 {
		var all []*Request
		for lane := range 8 {
			if r := m.random(rnd, lane, promised(d.info.Caps)); r != nil {
				all = append(all, r)
			}
		}
		all = slices.DeleteFunc(all, func(r *Request) bool { return tooLong(r, &d.info) })
		l.do(t, all...)
		for _, r := range all {
			m.settle(t, r)
		}
	}
}

// tooLong tells whether an engine would have split a request. What it would have
// written is unknown to the model then, so writes are short.
func tooLong(r *Request, i *block.Info) bool {
	limit := map[block.Op]uint64{block.OpRead: uint64(i.MaxTransfer), block.OpWrite: uint64(i.MaxTransfer),
		block.OpWriteZeroes: i.MaxZeroes, block.OpDiscard: i.MaxDiscard}[r.Op]
	return limit != 0 && r.Length > limit
}

// crowd has many requests outstanding.
func (h *StoreHarness) crowd(t TB) {
	d, l := h.disk(t)
	h.flood(t, d, l, 3000)
}

func (h *StoreHarness) flood(t TB, d *disk, l *lane, count int) {
	t.Helper()
	all := many(d, count)
	l.submit(all...)
	l.wait(t)
	wentWell(t, all)
}

// many makes small reads and writes all over the disk.
func many(d *disk, count int) []*Request {
	n := uint64(d.info.BlockSize)
	var all []*Request
	for i := range count {
		r := &Request{Op: block.OpRead, Length: n, Offset: uint64(i) * n % (d.info.Size / n * n)}
		if i%2 == 0 && !d.info.Has(block.CapReadOnly) {
			r.Op, r.Data = block.OpWrite, pattern(n, byte(i))
		}
		all = append(all, r)
	}
	return all
}

func wentWell(t TB, all []*Request) {
	t.Helper()
	for i, r := range all {
		if r.Status != block.OK {
			t.Fatalf("request %d of the crowd, a %v: %v", i, r.Op, r.Status)
		}
	}
}

// two uses two channels at the same time; one goes on when the other is closed.
func (h *StoreHarness) two(t TB) {
	d, a := h.disk(t)
	b := d.lane(t)
	first, second := many(d, 1000), many(d, 1000)
	a.submit(first...)
	b.submit(second...)
	a.wait(t)
	b.wait(t)
	wentWell(t, first)
	wentWell(t, second)
	a.close()
	h.flood(t, d, b, 100)
	if d.info.Has(block.CapReadOnly) {
		return
	}
	n := uint64(d.info.BlockSize)
	w, r := &Request{Op: block.OpWrite, Length: n, Data: pattern(n, 77)}, &Request{Op: block.OpRead, Length: n}
	b.do(t, w)
	d.lane(t).do(t, r)
	if string(w.Data) != string(r.Data) {
		t.Error("what was written on one channel is not read on another")
	}
}

// notPromised asks for what the capabilities do not promise, and for what no
// version knows. No engine does so; but whatever the answer, it comes, and the
// plugin goes on.
func (h *StoreHarness) notPromised(t TB) {
	d, l := h.disk(t)
	n := min(uint64(d.info.PreferredBlock), d.info.Size)
	for op, need := range map[block.Op]block.Caps{block.OpDiscard: block.CapDiscard, block.OpWriteZeroes: block.CapWriteZeroes,
		block.OpBlockStatus: block.CapBlockStatus, block.MaxOp + 1: 1 << 31} {
		if d.info.Has(need) {
			continue
		}
		r := &Request{Op: op, Length: n}
		if l.do(t, r); r.Status == block.OK {
			t.Logf("operation %d, which the capabilities do not promise, is answered with success: better with ENOTSUP (95)", op)
		}
	}
	r := &Request{Op: block.OpRead, Length: n}
	if l.do(t, r); r.Status != block.OK {
		t.Errorf("a read after that: %v", r.Status)
	}
}

func (h *StoreHarness) readOnly(t TB) {
	d := h.open(t, true)
	r := &Request{Op: block.OpRead, Length: uint64(d.info.BlockSize)}
	if d.lane(t).do(t, r); r.Status != block.OK {
		t.Errorf("a read of a disk that was opened read-only: %v", r.Status)
	}
}

// reopen opens and closes without and with a channel.
func (h *StoreHarness) reopen(t TB) {
	for i := range 4 {
		d := h.open(t, false)
		if i%2 == 1 {
			h.flood(t, d, d.lane(t), 10)
		}
		d.close(t)
	}
}
