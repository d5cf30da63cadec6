package builtin

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// kind is a disk that the suite runs against.
type kind struct {
	name string
	open func(t testing.TB, size uint64) *disk
}

func kinds() []kind {
	file := func(dir func(t testing.TB) string, direct bool) func(testing.TB, uint64) *disk {
		return func(t testing.TB, size uint64) *disk {
			o := fileOptions(filepath.Join(dir(t), "disk"), size)
			o.Bools["direct"] = direct
			return openDisk(t, File(), o)
		}
	}
	temp := func(t testing.TB) string { return t.TempDir() }
	mounted := func(kind string) func(testing.TB) string {
		return func(t testing.TB) string { return mountAt(t, kind, "") }
	}
	return append(ringKinds(), []kind{
		{"memory", func(t testing.TB, size uint64) *disk { return openDisk(t, Memory(), sizeOptions(size)) }},
		{"file", file(temp, false)},
		{"file direct", file(temp, true)},
		{"file without zero-range", file(mounted("tmpfs"), false)},
		{"file without holes", file(mounted("ramfs"), false)},
		{"block device", func(t testing.TB, size uint64) *disk {
			return openDisk(t, File(), fileOptions(loopDevice(t, t.TempDir(), size), 0))
		}},
		{"block device direct", func(t testing.TB, size uint64) *disk {
			o := fileOptions(loopDevice(t, t.TempDir(), size), 0)
			o.Bools["direct"] = true
			return openDisk(t, File(), o)
		}},
	}...)
}

// model is what a region of a disk has to hold.
type model struct {
	t    *testing.T
	rng  *rand.Rand
	ch   store.Channel
	c    *completer
	info block.Info
	base uint64 // where the region begins
	want []byte
}

// fatalf ends the goroutine of this model and fails the test.
func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf(format, args...)
	runtime.Goexit()
}

// promised reports whether the disk says that it can do r.
func (m *model) promised(r *block.Request) bool {
	need := [block.MaxOp + 1]block.Caps{
		block.OpDiscard: block.CapDiscard, block.OpWriteZeroes: block.CapWriteZeroes,
		block.OpBlockStatus: block.CapBlockStatus, block.OpCache: block.CapCache,
	}[r.Op]
	if r.Flags&block.FastZero != 0 {
		need |= block.CapFastZero
	}
	return m.info.Has(need)
}

// span picks a range of at most limit bytes, a multiple of the block size.
func (m *model) span(limit uint64) (off, n uint64) {
	bs := uint64(m.info.BlockSize)
	total := uint64(len(m.want)) / bs
	n = 1 + m.rng.Uint64N(min(limit/bs, total))
	return m.rng.Uint64N(total-n+1) * bs, n * bs
}

// pieces cuts buf into segments of odd sizes at odd addresses.
func (m *model) pieces(buf []byte) [][]byte {
	var out [][]byte
	for len(buf) > 0 {
		n := min(len(buf), 1+m.rng.IntN(1+len(buf)/2))
		out = append(out, buf[:n:n])
		buf = buf[n:]
	}
	return out
}

// payload gives n bytes at an odd address.
func payload(n uint64) []byte { return make([]byte, n+1)[1:] }

// batch makes a few requests that do not overlap, so that each has one
// possible result, does them, and checks them.
func (m *model) batch() {
	type step struct {
		r    *block.Request
		off  uint64
		data []byte
	}
	var steps []step
	var batch []*block.Request
	for range 1 + m.rng.IntN(24) {
		off, n := m.span(40 << 10)
		r := &block.Request{Op: block.Op(1 + m.rng.IntN(int(block.MaxOp))), Offset: m.base + off, Length: n}
		clash := false
		for _, s := range steps {
			clash = clash || off < s.off+s.r.Length && s.off < off+n
		}
		if clash {
			continue
		}
		s := step{r: r, off: off}
		switch r.Op {
		case block.OpFlush:
			r.Offset, r.Length = 0, 0
		case block.OpRead, block.OpWrite:
			s.data = payload(n)
			for i := range s.data {
				s.data[i] = byte(m.rng.Uint32())
			}
			r.Data = m.pieces(s.data)
		case block.OpBlockStatus:
			r.Extents = make([]block.Extent, 0, 1+m.rng.IntN(8))
		}
		if r.Op.Modifies() && m.rng.IntN(8) == 0 {
			r.Flags |= block.FUA
		}
		if r.Op == block.OpWriteZeroes {
			r.Flags |= []block.Flags{0, block.NoHole, block.FastZero, block.FastZero | block.NoHole}[m.rng.IntN(4)]
		}
		if !m.promised(r) {
			continue
		}
		steps, batch = append(steps, s), append(batch, r)
	}
	m.c.do(m.ch, batch...)
	for _, s := range steps {
		m.check(s.r, s.off, s.data)
	}
}

// check compares a result with the model and takes its effect over.
func (m *model) check(r *block.Request, off uint64, data []byte) {
	m.t.Helper()
	if r.Status != block.OK {
		if r.Op == block.OpWriteZeroes && r.Flags&block.FastZero != 0 && r.Status == block.ENOTSUP {
			return
		}
		m.fatalf("%v flags %x, %d bytes at %d: %v", r.Op, r.Flags, r.Length, r.Offset, r.Status)
	}
	want := m.want[off : off+r.Length]
	switch r.Op {
	case block.OpRead:
		if !bytes.Equal(data, want) {
			m.fatalf("read of %d bytes at %d differs from what was written", r.Length, r.Offset)
		}
	case block.OpWrite:
		copy(want, data)
	case block.OpWriteZeroes:
		clear(want)
	case block.OpDiscard:
		m.discarded(off, want)
	case block.OpBlockStatus:
		m.checkExtents(r, want)
	}
}

// discarded reads a discarded range: each byte is as it was, or zero.
func (m *model) discarded(off uint64, want []byte) {
	m.t.Helper()
	got := make([]byte, len(want))
	r := &block.Request{Op: block.OpRead, Offset: m.base + off, Length: uint64(len(got)), Data: [][]byte{got}}
	m.c.do(m.ch, r)
	for i := range got {
		if got[i] != 0 && got[i] != want[i] {
			m.fatalf("byte %d is %x after a discard; it was %x", m.base+off+uint64(i), got[i], want[i])
		}
	}
	copy(want, got)
}

func (m *model) checkExtents(r *block.Request, want []byte) {
	m.t.Helper()
	pos := uint64(0)
	for i, e := range r.Extents {
		if e.Length == 0 || pos+e.Length > r.Length {
			m.fatalf("extent %d of status at %d has length %d; %d of %d bytes are described before it", i, r.Offset, e.Length, pos, r.Length)
		}
		if e.State&block.Zero != 0 && len(bytes.Trim(want[pos:pos+e.Length], "\x00")) > 0 {
			m.fatalf("extent %d of status at %d says zero over data", i, r.Offset)
		}
		pos += e.Length
	}
	if len(r.Extents) == 0 || pos < r.Length && len(r.Extents) < cap(r.Extents) {
		m.fatalf("status at %d describes %d of %d bytes in %d extents with room for %d", r.Offset, pos, r.Length, len(r.Extents), cap(r.Extents))
	}
}

// TestModel runs random batches against a model, with several channels that
// work on regions of their own at the same time. The regions share pages.
func TestModel(t *testing.T) {
	const channels, region = 3, 150<<10 + 512
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, (channels*region+4095)&^4095)
			var wg sync.WaitGroup
			for i := range channels {
				c := newCompleter(t)
				ch, err := d.dev.Channel(c)
				if err != nil {
					t.Fatal(err)
				}
				m := &model{t: t, rng: rand.New(rand.NewPCG(7, uint64(i))), ch: ch, c: c, info: d.info,
					base: uint64(i) * region &^ (uint64(d.info.BlockSize) - 1), want: make([]byte, region&^(int(d.info.BlockSize)-1))}
				wg.Go(func() {
					defer ch.Close()
					for range 120 {
						m.batch()
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestMemoryIsAnotherDisk each time that it is opened, since it is empty then.
func TestMemoryIsAnotherDisk(t *testing.T) {
	o := store.Options{Volume: "v", Sizes: map[string]uint64{"size": 1 << 20}}
	first := openDisk(t, Memory(), o)
	identity := first.info.Identity
	first.close()
	if d := openDisk(t, Memory(), o); d.info.Identity == identity || identity == "" {
		t.Errorf("it is %q, and was %q", d.info.Identity, identity)
	}
}

// TestPersistence: what was written is there when the disk is opened again,
// and it is the same disk.
func TestPersistence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	data := bytes.Repeat([]byte("durable "), 1000)
	d := openDisk(t, File(), fileOptions(path, 1<<20))
	if st := d.write(12345, data, block.FUA); st != block.OK {
		t.Fatal(st)
	}
	identity := d.info.Identity
	d.close()
	d = openDisk(t, File(), fileOptions(path, 0))
	if d.info.Identity != identity || d.info.Size != 1<<20 {
		t.Errorf("opened again it is %q of %d bytes, was %q", d.info.Identity, d.info.Size, identity)
	}
	if !bytes.Equal(d.read(12345, uint64(len(data))), data) {
		t.Error("the data is not what was written")
	}
}

// TestSequentialWrites: adjacent writes, which are merged, each land.
func TestSequentialWrites(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, 1<<20)
			want := make([]byte, 1<<20)
			for i := range want {
				want[i] = byte(i>>12 + i)
			}
			var batch []*block.Request
			for off := uint64(0); off < 1<<20; off += 4096 {
				batch = append(batch, &block.Request{Op: block.OpWrite, Offset: off, Length: 4096,
					Data: [][]byte{want[off : off+1000], want[off+1000 : off+4096]}})
			}
			d.c.do(d.ch, batch...)
			for _, r := range batch {
				if r.Status != block.OK {
					t.Fatalf("write at %d: %v", r.Offset, r.Status)
				}
			}
			if !bytes.Equal(d.read(0, 1<<20), want) {
				t.Error("the disk does not hold what was written")
			}
		})
	}
}

// TestManySegments: more segments than one system call takes.
func TestManySegments(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, 1<<20)
			buf := payload(4096 * 8)
			for i := range buf {
				buf[i] = byte(i * 7)
			}
			cut := func(b []byte) (out [][]byte) {
				for ; len(b) > 16; b = b[16:] {
					out = append(out, b[:16])
				}
				return append(out, b)
			}
			d.must(&block.Request{Op: block.OpWrite, Offset: 8192, Length: uint64(len(buf)), Data: cut(buf)})
			got := payload(uint64(len(buf)))
			d.must(&block.Request{Op: block.OpRead, Offset: 8192, Length: uint64(len(got)), Data: cut(got)})
			if !bytes.Equal(got, buf) {
				t.Error("what was read is not what was written")
			}
		})
	}
}

// TestReadOnly: a disk opened for reading refuses to change.
func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	w := openDisk(t, File(), fileOptions(path, 1<<20))
	if st := w.write(0, []byte("kept"), 0); st != block.OK {
		t.Fatal(st)
	}
	w.close()
	for _, tc := range []struct {
		p store.Plugin
		o store.Options
	}{
		{Null(), sizeOptions(1 << 20)}, {Memory(), sizeOptions(1 << 20)}, {File(), fileOptions(path, 0)},
	} {
		t.Run(tc.p.Manifest().Name, func(t *testing.T) {
			tc.o.ReadOnly = true
			d := openDisk(t, tc.p, tc.o)
			if !d.info.Has(block.CapReadOnly) || d.info.Caps&(block.CapDiscard|block.CapWriteZeroes|block.CapFUA) != 0 {
				t.Errorf("capabilities are %x", d.info.Caps)
			}
			before := d.read(0, 4096)
			for _, op := range []block.Op{block.OpWrite, block.OpDiscard, block.OpWriteZeroes} {
				r := &block.Request{Op: op, Length: 4096}
				if op == block.OpWrite {
					r.Data = [][]byte{bytes.Repeat([]byte{1}, 4096)}
				}
				if st := d.one(r); st != block.EROFS {
					t.Errorf("%v: %v", op, st)
				}
			}
			if !bytes.Equal(d.read(0, 4096), before) {
				t.Error("the disk has changed")
			}
			d.must(&block.Request{Op: block.OpFlush})
		})
	}
}

// TestBadRequests: what no disk knows is refused, not ignored.
func TestBadRequests(t *testing.T) {
	all := append(kinds(), kind{"null", func(t testing.TB, size uint64) *disk { return openDisk(t, Null(), sizeOptions(size)) }})
	for _, k := range all {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, 1<<20)
			for _, r := range []*block.Request{
				{Op: block.MaxOp + 1},
				{Op: 0},
				{Op: block.OpBlockStatus, Length: 4096}, // no room for an extent
			} {
				if st := d.one(r); st != block.EINVAL {
					t.Errorf("operation %d: %v", r.Op, st)
				}
			}
		})
	}
}
