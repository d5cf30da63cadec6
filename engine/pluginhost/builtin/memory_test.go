package builtin

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"blockengine/sdk/block"
)

// TestNullFills: a read overwrites what the buffer held before.
func TestNullFills(t *testing.T) {
	d := openDisk(t, Null(), sizeOptions(1<<40))
	if st := d.write(1<<39, []byte("gone"), block.FUA); st != block.OK {
		t.Fatal(st)
	}
	if got := d.read(1<<39, 9999); len(bytes.Trim(got, "\x00")) > 0 { // read fills the buffer with 0xA5 first
		t.Error("the buffer's past is still in it")
	}
	got := d.extents(0, 1<<40, 4, 0)
	if len(got) != 1 || got[0] != (block.Extent{Length: 1 << 40, State: block.Hole | block.Zero}) {
		t.Errorf("extents %v", got)
	}
}

// TestMemorySparse: a disk far larger than the machine's memory, with data
// at both ends, shows its holes and gives space back.
func TestMemorySparse(t *testing.T) {
	const size = 1<<40 + 123 // the last page is cut
	d := openDisk(t, Memory(), sizeOptions(size))
	for _, off := range []uint64{0, size - 23} {
		if st := d.write(off, bytes.Repeat([]byte{3}, 23), 0); st != block.OK {
			t.Fatal(st)
		}
	}
	if got := d.read(size-200, 200); got[199] != 3 || got[0] != 0 {
		t.Error("the end of the disk does not hold what was written")
	}
	got := d.extents(0, size, 4, 0)
	page := got[0].Length
	if got[0].State != 0 || page > 64<<10 || len(got) != 2 || got[1].State != block.Hole|block.Zero {
		t.Errorf("extents %v", got)
	}
	got = d.extents(size-4096, 4096, 4, 0)
	if len(got) != 2 || got[0].State != block.Hole|block.Zero || got[1].State != 0 || got[0].Length+got[1].Length != 4096 {
		t.Errorf("extents at the end %v", got)
	}
	d.must(zeroRequest(block.OpWriteZeroes, size-100, 100, 0))
	d.must(zeroRequest(block.OpDiscard, 0, 64<<10, 0))
	if len(bytes.Trim(d.read(size-200, 200), "\x00")) > 0 || len(bytes.Trim(d.read(0, 200), "\x00")) > 0 {
		t.Error("zeroed and discarded ranges still hold data")
	}
	if got := d.extents(0, 1<<20, 4, 0); len(got) != 1 || got[0].State != block.Hole|block.Zero {
		t.Errorf("extents after the discard %v", got)
	}
}

// TestMemoryKeep: NoHole keeps the range allocated, and a fast one of that
// kind is refused.
func TestMemoryKeep(t *testing.T) {
	d := openDisk(t, Memory(), sizeOptions(1<<20))
	d.must(zeroRequest(block.OpWriteZeroes, 0, 64<<10, block.NoHole))
	if got := d.extents(0, 64<<10, 4, 0); len(got) != 1 || got[0].State != 0 {
		t.Errorf("extents %v", got)
	}
	if st := d.one(zeroRequest(block.OpWriteZeroes, 0, 64<<10, block.NoHole|block.FastZero)); st != block.ENOTSUP {
		t.Errorf("fast and allocated: %v", st)
	}
}

// TestMemoryRaces: writes of parts of a page race with write-zeroes of the
// whole of it. Whatever order they land in, a byte that has read as zero
// after both ended must not come back when its neighbour is written.
func TestMemoryRaces(t *testing.T) {
	d := openDisk(t, Memory(), sizeOptions(64<<10))
	const page = 4096
	for round := range 2000 {
		var wg sync.WaitGroup
		for _, r := range []*block.Request{
			{Op: block.OpWrite, Offset: 100, Length: 1000, Data: [][]byte{bytes.Repeat([]byte{byte(round) | 1}, 1000)}},
			zeroRequest(block.OpWriteZeroes, 0, 16*page, 0),
		} {
			c := newCompleter(t)
			ch, err := d.dev.Channel(c)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { c.do(ch, r) })
		}
		wg.Wait()
		before := d.read(0, 3000)
		if st := d.write(3000, []byte{1}, 0); st != block.OK {
			t.Fatal(st)
		}
		if !bytes.Equal(d.read(0, 3000), before) {
			t.Fatalf("round %d: bytes nobody wrote have changed", round)
		}
	}
}

// TestMemoryOvertaken: write-zeroes of a page comes between the beginning of
// a long write and the moment in which it gets to that page. The page must
// count as written afterwards.
func TestMemoryOvertaken(t *testing.T) {
	const long, page = 8 << 20, 64 << 10
	for range 20 {
		d := openDisk(t, Memory(), sizeOptions(long))
		c := newCompleter(t)
		ch, err := d.dev.Channel(c)
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{5}, long)
		var wg sync.WaitGroup
		wg.Go(func() {
			c.do(ch, &block.Request{Op: block.OpWrite, Length: long, Data: [][]byte{data}})
		})
		for d.read(0, 1)[0] == 0 {
			runtime.Gosched() // until the write has begun
		}
		d.must(zeroRequest(block.OpWriteZeroes, long-page, page, 0))
		wg.Wait()
		before := d.read(long-page, page-1)
		if st := d.write(long-1, []byte{6}, 0); st != block.OK {
			t.Fatal(st)
		}
		if !bytes.Equal(d.read(long-page, page-1), before) {
			t.Fatal("bytes nobody wrote have changed")
		}
		d.close()
	}
}

// TestPageMap compares the map with one bool for each page.
func TestPageMap(t *testing.T) {
	const pages = 777
	m := pageMap{words: make([]uint64, pageMapBytes(pages)/8)}
	want := make([]bool, pages)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		from := rng.Uint64N(pages)
		to := from + rng.Uint64N(min(200, pages-from)+1)
		if rng.IntN(2) == 0 {
			m.mark(from, to)
			for i := from; i < to; i++ {
				want[i] = true
			}
		} else {
			any := false
			for i := from; i < to; i++ {
				any, want[i] = any || want[i], false
			}
			if m.wipe(from, to) != any {
				t.Fatalf("wipe of [%d, %d) should report %v", from, to, any)
			}
		}
		from = rng.Uint64N(pages)
		limit := from + 1 + rng.Uint64N(pages-from)
		set, end := m.run(from, limit)
		stop := from
		for stop < limit && want[stop] == want[from] {
			stop++
		}
		if set != want[from] || end != stop {
			t.Fatalf("run from %d to %d: %v until %d, want %v until %d", from, limit, set, end, want[from], stop)
		}
	}
}
