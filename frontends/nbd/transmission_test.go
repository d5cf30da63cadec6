package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

func TestReadWriteSizes(t *testing.T) {
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		r := newRig(t, newDisk(40<<20))
		c := r.connect(o)
		for i, n := range []int{1, 511, 512, 4096, 4097, inlineBytes - 1, inlineBytes, inlineBytes + 1, 128 << 10, 200 << 10,
			chunkBytes - compactRequestSize, chunkBytes, chunkBytes + 1, 1<<20 + 3, 5 << 20, maxPayload} {
			at := uint64(i * 4096)
			want := pattern(n, uint64(n))
			if err := c.Write(at, want, 0); err != nil {
				t.Fatalf("write %d: %v", n, err)
			}
			if !bytes.Equal(r.disk.content(at, n), want) {
				t.Fatalf("write %d: the disk holds something else", n)
			}
			got, err := c.Read(at, n, 0)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read %d: equal %v, %v", n, bytes.Equal(got, want), err)
			}
		}
		if err := c.Disconnect(); err != nil {
			t.Error(err)
		}
	})
}

func TestCommands(t *testing.T) {
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		r := newRig(t, newDisk(1<<20))
		c := r.connect(o)
		last := func(op block.Op, flags block.Flags, offset, length uint64) {
			t.Helper()
			r.disk.mu.Lock()
			defer r.disk.mu.Unlock()
			if l := r.disk.last; l.Op != op || l.Flags != flags || l.Offset != offset || l.Length != length {
				t.Errorf("the disk was asked for %v flags %#x at %d+%d, want %v %#x %d+%d", l.Op, l.Flags, l.Offset, l.Length, op, flags, offset, length)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		must(c.Flush())
		last(block.OpFlush, 0, 0, 0)
		must(c.Write(512, pattern(512, 1), nbdtest.CmdFlagFUA))
		last(block.OpWrite, block.FUA, 512, 512)
		must(c.Trim(0, 4096, nbdtest.CmdFlagFUA))
		last(block.OpDiscard, block.FUA, 0, 4096)
		must(c.WriteZeroes(4096, 8192, nbdtest.CmdFlagNoHole|nbdtest.CmdFlagFastZero|nbdtest.CmdFlagFUA))
		last(block.OpWriteZeroes, block.NoHole|block.FastZero|block.FUA, 4096, 8192)
		must(c.Cache(0, 1<<20, 0))
		last(block.OpCache, 0, 0, 1<<20)
		_, err := c.Read(100, 200, nbdtest.CmdFlagFUA) // valid on every command
		must(err)
		last(block.OpRead, 0, 100, 200)
		if c.Structured || c.Extended {
			_, err := c.Read(100, 200, nbdtest.CmdFlagDF)
			must(err)
		}
	})
}

func TestRefusals(t *testing.T) {
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		r := newRig(t, newDisk(1<<20))
		r.add(Export{Name: "ro", Volume: r.volume, ReadOnly: true})
		c := r.connect(o)
		ask := func(what string, q nbdtest.Request, want uint32) {
			t.Helper()
			if _, err := c.Do(q); !errors.Is(err, nbdtest.Errno(want)) {
				t.Errorf("%s: %v, want %v", what, err, nbdtest.Errno(want))
			}
		}
		tooLong := nbdtest.EOVERFLOW
		if !c.Structured && !c.Extended {
			tooLong = nbdtest.EINVAL
		}
		ask("unknown command", nbdtest.Request{Op: 99, Length: 1}, nbdtest.EINVAL)
		ask("resize", nbdtest.Request{Op: nbdtest.CmdResize, Length: 1}, nbdtest.EINVAL)
		ask("unknown flag", nbdtest.Request{Op: nbdtest.CmdFlush, Flags: 1 << 9}, nbdtest.EINVAL)
		ask("flag of another command", nbdtest.Request{Op: nbdtest.CmdTrim, Flags: nbdtest.CmdFlagNoHole, Length: 1}, nbdtest.EINVAL)
		ask("write with a flag of another command", nbdtest.Request{Op: nbdtest.CmdWrite, Flags: nbdtest.CmdFlagReqOne, Data: make([]byte, 300<<10)}, nbdtest.EINVAL)
		ask("flush with a range", nbdtest.Request{Op: nbdtest.CmdFlush, Length: 1}, nbdtest.EINVAL)
		ask("read of nothing", nbdtest.Request{Op: nbdtest.CmdRead}, nbdtest.EINVAL)
		ask("write of nothing", nbdtest.Request{Op: nbdtest.CmdWrite}, nbdtest.EINVAL)
		ask("read beyond the end", nbdtest.Request{Op: nbdtest.CmdRead, Offset: 1<<20 - 1, Length: 2}, nbdtest.EINVAL)
		ask("read far beyond the end", nbdtest.Request{Op: nbdtest.CmdRead, Offset: 1<<64 - 1, Length: 2}, nbdtest.EINVAL)
		ask("large read beyond the end", nbdtest.Request{Op: nbdtest.CmdRead, Length: 2 << 20}, nbdtest.EINVAL)
		ask("write beyond the end", nbdtest.Request{Op: nbdtest.CmdWrite, Offset: 1 << 20, Data: make([]byte, 1)}, nbdtest.ENOSPC)
		ask("large write beyond the end", nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, 2<<20)}, nbdtest.ENOSPC)
		ask("read too long", nbdtest.Request{Op: nbdtest.CmdRead, Length: maxPayload + 1}, tooLong)
		if !c.Extended {
			ask("write too long", nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, maxPayload+1)}, nbdtest.EINVAL)
		}
		if c.Extended {
			ask("zeroes of 2^63", nbdtest.Request{Op: nbdtest.CmdWriteZeroes, Length: 1 << 63}, nbdtest.ENOSPC)
			ask("status of 2^64-1", nbdtest.Request{Op: nbdtest.CmdBlockStatus, Offset: 1, Length: 1<<64 - 1}, nbdtest.EINVAL)
		}
		if _, err := c.Read(0, 512, 0); err != nil {
			t.Errorf("the connection did not survive: %v", err)
		}
		o.Export = "ro"
		c = r.connect(o)
		ask("write to a read-only export", nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, 512)}, nbdtest.EPERM)
		ask("zeroes on a read-only export", nbdtest.Request{Op: nbdtest.CmdWriteZeroes, Length: 512}, nbdtest.EPERM)
		ask("trim of a read-only export", nbdtest.Request{Op: nbdtest.CmdTrim, Length: 512}, nbdtest.EPERM)
	})
}

func TestErrnosReachTheClient(t *testing.T) {
	want := map[block.Status]uint32{
		block.EPERM: nbdtest.EPERM, block.EROFS: nbdtest.EPERM, block.EIO: nbdtest.EIO, block.ENOMEM: nbdtest.ENOMEM,
		block.EINVAL: nbdtest.EINVAL, block.ENOSPC: nbdtest.ENOSPC, block.EFBIG: nbdtest.ENOSPC, edquot: nbdtest.ENOSPC,
		block.EOVERFLOW: nbdtest.EOVERFLOW, block.ENOTSUP: nbdtest.ENOTSUP, block.ESHUTDOWN: nbdtest.ESHUTDOWN,
		block.ETIMEDOUT: nbdtest.EIO, block.ENXIO: nbdtest.EIO, 4000: nbdtest.EIO,
	}
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		r := newRig(t, newDisk(1<<20))
		c := r.connect(o)
		for st, e := range want {
			r.disk.set(func() { r.disk.fail = st })
			for _, q := range []nbdtest.Request{
				{Op: nbdtest.CmdRead, Length: 4096}, {Op: nbdtest.CmdRead, Length: 1 << 20},
				{Op: nbdtest.CmdWrite, Data: make([]byte, 4096)}, {Op: nbdtest.CmdTrim, Length: 4096},
			} {
				if _, err := c.Do(q); !errors.Is(err, nbdtest.Errno(e)) {
					t.Errorf("%v of %s: client sees %v", st, nbdtest.CmdName(q.Op), err)
				}
			}
		}
	})
}

func TestBlockStatus(t *testing.T) {
	for _, name := range []string{"structured", "extended"} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(1 << 20)
			copy(d.data[8192:], pattern(4096, 1))
			copy(d.data[65536:], pattern(65536, 2))
			r := newRig(t, d)
			c := r.connect(framings[name])
			ext, err := c.BlockStatus(4096, 1<<20-4096, 0)
			want := []nbdtest.Extent{{Length: 4096, Flags: 3}, {Length: 4096}, {Length: 53248, Flags: 3}, {Length: 65536}, {Length: 917504, Flags: 3}}
			if err != nil || fmt.Sprint(ext) != fmt.Sprint(want) {
				t.Errorf("extents %v, %v; want %v", ext, err, want)
			}
			if ext, err = c.BlockStatus(8192, 100, nbdtest.CmdFlagReqOne); err != nil || fmt.Sprint(ext) != fmt.Sprint([]nbdtest.Extent{{Length: 100}}) {
				t.Errorf("one extent: %v, %v", ext, err)
			}
			if ext, err = c.BlockStatus(0, 1<<20, nbdtest.CmdFlagReqOne); err != nil || fmt.Sprint(ext) != fmt.Sprint([]nbdtest.Extent{{Length: 8192, Flags: 3}}) {
				t.Errorf("one extent of many: %v, %v", ext, err)
			}
		})
	}
}

// More extents than a reply takes: the client goes on where the reply ends.
func TestBlockStatusOfManyExtents(t *testing.T) {
	d := newDisk(32 << 20)
	for at := 0; at < len(d.data); at += 8192 {
		d.data[at] = 1
	}
	r := newRig(t, d)
	for _, name := range []string{"structured", "extended"} {
		c := r.connect(framings[name])
		n := 0
		for at := uint64(0); at < 32<<20; {
			ext, err := c.BlockStatus(at, 32<<20-at, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range ext {
				if want := uint64(at>>12) & 1 * 3; e.Flags != want || e.Length != 4096 {
					t.Fatalf("%s: extent at %d: %+v, want flags %d", name, at, e, want)
				}
				at += e.Length
				n++
			}
		}
		if n != 8192 {
			t.Errorf("%d extents", n)
		}
	}
}

func TestTidy(t *testing.T) {
	a, h := block.ExtentState(0), block.Hole
	for _, c := range []struct {
		in     []block.Extent
		length uint64
		one    bool
		want   []block.Extent
	}{
		{nil, 10, false, []block.Extent{}},
		{[]block.Extent{{Length: 5}, {Length: 5}}, 10, false, []block.Extent{{Length: 10}}},
		{[]block.Extent{{Length: 5}, {Length: 50, State: h}}, 10, false, []block.Extent{{Length: 5, State: a}, {Length: 5, State: h}}},
		{[]block.Extent{{Length: 0}, {Length: 5}, {Length: 0, State: h}, {Length: 3}}, 10, true, []block.Extent{{Length: 8}}},
		{[]block.Extent{{Length: 4}, {Length: 4, State: h}, {Length: 2}}, 10, true, []block.Extent{{Length: 4}}},
		{[]block.Extent{{Length: 10}, {Length: 4, State: h}}, 10, false, []block.Extent{{Length: 10}}},
	} {
		if got := tidy(append([]block.Extent(nil), c.in...), c.length, c.one); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("tidy(%v, %d, %v) = %v, want %v", c.in, c.length, c.one, got, c.want)
		}
	}
}

// Requests are held and then finished in the opposite order: each reply must
// be that of its own request.
func TestRepliesOutOfOrder(t *testing.T) {
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		d := newDisk(1 << 20)
		copy(d.data, pattern(len(d.data), 7))
		d.hold = true
		r := newRig(t, d)
		c := r.connect(o)
		const n = 200
		for i := range n {
			q := nbdtest.Request{Op: nbdtest.CmdRead, Offset: uint64(i * 4096), Length: uint64(1 + i*17)}
			if i%5 == 0 {
				q = nbdtest.Request{Op: nbdtest.CmdWrite, Offset: uint64(i * 4096), Data: d.content(uint64(i*4096), 3000)}
			}
			if _, err := c.Send(q); err != nil {
				t.Fatal(err)
			}
		}
		r.eventually("all requests at the disk", func() bool { _, held := d.seen(); return held == n })
		d.release()
		for range n {
			rep, err := c.Recv()
			if err != nil || rep.Err != nil {
				t.Fatal(err, rep.Err)
			}
			at := rep.Request.Offset
			if rep.Request.Op == nbdtest.CmdRead && !bytes.Equal(rep.Data, d.content(at, int(rep.Request.Length))) {
				t.Fatalf("read at %d returned something else", at)
			}
		}
	})
}

// Random requests at depth, by several clients on areas of their own, against
// a copy of what they should find.
func TestRandomRequests(t *testing.T) {
	eachFraming(t, func(t *testing.T, o nbdtest.Options) {
		const area = 2 << 20
		r := newRig(t, newDisk(3*area))
		var all sync.WaitGroup
		for i := range 3 {
			c := r.connect(o)
			all.Go(func() { randomClient(t, c, uint64(i*area), area, rand.New(rand.NewPCG(uint64(i), 1))) })
		}
		all.Wait()
	})
}

func randomClient(t *testing.T, c *nbdtest.Client, base uint64, area int, rnd *rand.Rand) {
	model := make([]byte, area)
	for range 40 {
		// A round's requests are outstanding together, so they do not overlap.
		depth := 1 + rnd.IntN(16)
		part := area / depth
		expect := map[uint64][]byte{}
		for k := range depth {
			n := 1 + rnd.IntN(part)
			if rnd.IntN(2) == 0 {
				n = 1 + n%8192
			}
			at := k*part + rnd.IntN(part-n+1)
			q := nbdtest.Request{Op: nbdtest.CmdRead, Offset: base + uint64(at), Length: uint64(n)}
			switch rnd.IntN(5) {
			case 0, 1:
				q = nbdtest.Request{Op: nbdtest.CmdWrite, Offset: base + uint64(at), Data: pattern(n, rnd.Uint64())}
				copy(model[at:], q.Data)
			case 2:
				q.Op = nbdtest.CmdWriteZeroes
				clear(model[at : at+n])
			}
			cookie, err := c.Send(q)
			if err != nil {
				t.Error(err)
				return
			}
			expect[cookie] = model[at : at+n]
		}
		for range depth {
			rep, err := c.Recv()
			if err != nil || rep.Err != nil {
				t.Error(err)
				return
			}
			if rep.Request.Op == nbdtest.CmdRead && !bytes.Equal(rep.Data, expect[rep.Request.Cookie]) {
				t.Errorf("read at %d+%d is wrong", rep.Request.Offset, rep.Request.Length)
				return
			}
		}
	}
}
