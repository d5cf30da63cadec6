package builtin

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// vanishing gives two pages of memory, of which the second has gone away as
// when a VMM truncates its memory file.
func vanishing(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "ram"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := os.Getpagesize()
	if err := f.Truncate(int64(2 * page)); err != nil {
		t.Fatal(err)
	}
	mem, err := syscall.Mmap(int(f.Fd()), 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	if err := f.Truncate(int64(page)); err != nil {
		t.Fatal(err)
	}
	return mem
}

// TestVanishedMemory: a request whose memory is gone fails alone; its
// neighbours, merged or in the same batch, do not notice.
func TestVanishedMemory(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // as on a reactor
	all := append(kinds(), kind{"null", nil})
	for _, k := range all {
		t.Run(k.name, func(t *testing.T) {
			var d *disk
			if k.open != nil {
				d = k.open(t, 1<<20)
			} else {
				d = openDisk(t, Null(), sizeOptions(1<<20))
			}
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a subtest has its own goroutine
			mem := vanishing(t)
			for _, op := range []block.Op{block.OpWrite, block.OpRead} {
				// 8 KiB in odd pieces, so that direct I/O bounces.
				bad := &block.Request{Op: op, Offset: 8192, Length: 8192, Data: [][]byte{mem[4:4096], mem[4096:8192], make([]byte, 4)}}
				good := func(off uint64) *block.Request {
					return &block.Request{Op: op, Offset: off, Length: 8192, Data: [][]byte{bytes.Repeat([]byte{9}, 8192)}}
				}
				before, after := good(0), good(16384)
				d.c.do(d.ch, before, bad, after)
				if before.Status != block.OK || after.Status != block.OK {
					t.Errorf("%v: the neighbours got %v and %v", op, before.Status, after.Status)
				}
				if k.name == "null" && op == block.OpWrite {
					continue // never looks at the memory
				}
				if bad.Status != efault {
					t.Errorf("%v: vanished memory gave %v", op, bad.Status)
				}
			}
			if k.name != "null" && !bytes.Equal(d.read(16384, 8192), bytes.Repeat([]byte{9}, 8192)) {
				t.Error("a neighbour's data is wrong")
			}
		})
	}
}

// TestForeignPanic: a fault outside the request's memory is not hidden.
func TestForeignPanic(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the panic was swallowed")
		}
	}()
	faultStatus(&block.Request{}, "something else")
}

// fullLoop gives a disk on a block device that takes writes into the page
// cache and cannot store them, because the file system behind it is full.
func fullLoop(t *testing.T, p store.Plugin) *disk {
	dir := mountAt(t, "tmpfs", "size=256k")
	return openDisk(t, p, fileOptions(loopDevice(t, dir, 16<<20), 0))
}

// bothWays runs a test with workers, and with the ring of a reactor.
func bothWays(t *testing.T, test func(t *testing.T, p store.Plugin)) {
	t.Run("workers", func(t *testing.T) { test(t, File()) })
	t.Run("ring", func(t *testing.T) {
		needRing(t)
		test(t, onReactor{File(), ioRing})
	})
}

// TestFailedWriteBack: the flush after a write-back that the kernel could
// not do says so, once.
func TestFailedWriteBack(t *testing.T) { bothWays(t, testFailedWriteBack) }

func testFailedWriteBack(t *testing.T, p store.Plugin) {
	d := fullLoop(t, p)
	if st := d.write(0, bytes.Repeat([]byte{1}, 4<<20), 0); st != block.OK {
		t.Fatal(st)
	}
	if st := d.one(&block.Request{Op: block.OpFlush}); st != block.EIO && st != block.ENOSPC {
		t.Errorf("flush of data that cannot be stored: %v", st)
	}
	if st := d.one(&block.Request{Op: block.OpFlush}); st != block.OK {
		t.Errorf("second flush, with nothing to store: %v", st)
	}
}

// TestFailedDurableWrite: a failed FUA write does not take the error away
// that the next flush owes its caller.
func TestFailedDurableWrite(t *testing.T) { bothWays(t, testFailedDurableWrite) }

func testFailedDurableWrite(t *testing.T, p store.Plugin) {
	d := fullLoop(t, p)
	if st := d.write(0, bytes.Repeat([]byte{1}, 4<<20), 0); st != block.OK {
		t.Fatal(st)
	}
	d.one(&block.Request{Op: block.OpFlush}) // fails, and leaves nothing to write
	if st := d.write(8<<20, bytes.Repeat([]byte{2}, 64<<10), block.FUA); st == block.OK {
		t.Fatal("a durable write that cannot be stored succeeded")
	}
	if st := d.one(&block.Request{Op: block.OpFlush}); st == block.OK {
		t.Error("the flush after it succeeded")
	}
}

// TestSyncErrorReachesAll: the kernel reports a failure to one sync only; no
// other request whose data it may concern may succeed. The timing cannot be
// had from a real kernel, so the sync itself is a fake here.
func TestSyncErrorReachesAll(t *testing.T) {
	_, d := tempFile(t, 1<<20)
	entered, results := make(chan bool), make(chan block.Status)
	d.dev.(*fileDevice).sync.call = func() block.Status {
		entered <- true
		return <-results
	}
	end := time.Now().Add(patience)
	begun := func() {
		t.Helper()
		select {
		case <-entered:
		case <-time.After(time.Until(end)):
			t.Fatal("no sync was begun")
		}
	}
	flush := func() *block.Request { return &block.Request{Op: block.OpFlush} }
	first, second := flush(), flush()
	durable := zeroRequest(block.OpWriteZeroes, 0, 4096, block.FUA)
	var wg sync.WaitGroup
	wg.Go(func() { d.c.do(d.ch, first) })
	begun()
	other := newCompleter(t)
	ch, err := d.dev.Channel(other)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { other.do(ch, second, durable) })
	// Both are submitted before the running sync fails: that they wait shows
	// in the stamp only, so look until the queue has let go of them.
	dev := d.dev.(*fileDevice)
	for waiting := 0; waiting < 2; {
		if time.Now().After(end) {
			t.Fatalf("%d of 2 wait for the next sync", waiting)
		}
		dev.sync.mu.Lock()
		waiting = len(dev.sync.waiting)
		dev.sync.mu.Unlock()
	}
	results <- block.EIO
	begun()
	results <- block.OK
	wg.Wait()
	for _, r := range []*block.Request{first, second, durable} {
		if r.Status != block.EIO {
			t.Errorf("%v: %v", r.Op, r.Status)
		}
	}
	third := flush()
	wg.Go(func() { d.c.do(d.ch, third) })
	begun()
	results <- block.OK
	wg.Wait()
	if third.Status != block.OK {
		t.Errorf("a later flush, which has nothing to report: %v", third.Status)
	}
}

// TestSettle: who gets which result.
func TestSettle(t *testing.T) {
	s := &syncer{}
	round := func(st block.Status, seen uint64, ops ...block.Op) []block.Status {
		jobs := make([]job, len(ops))
		out := make([]block.Status, len(ops))
		for i, op := range ops {
			jobs[i] = job{r: &block.Request{Op: op}, failures: seen}
		}
		s.settle(jobs, st)
		for i := range jobs {
			out[i] = jobs[i].r.Status
		}
		return out
	}
	for i, step := range []struct {
		st   block.Status
		seen uint64
		ops  []block.Op
		want []block.Status
	}{
		{block.OK, 0, []block.Op{block.OpFlush, block.OpWrite}, []block.Status{block.OK, block.OK}},
		{block.EIO, 0, []block.Op{block.OpWrite}, []block.Status{block.EIO}},                // no flush there to report it
		{block.OK, 1, []block.Op{block.OpWrite}, []block.Status{block.OK}},                  // began after the failure
		{block.OK, 1, []block.Op{block.OpFlush, block.OpFlush}, []block.Status{5, 5}},       // owed
		{block.OK, 1, []block.Op{block.OpFlush}, []block.Status{block.OK}},                  // reported by now
		{block.ENOSPC, 1, []block.Op{block.OpFlush, block.OpWrite}, []block.Status{28, 28}}, // reported at once
		{block.OK, 2, []block.Op{block.OpFlush}, []block.Status{block.OK}},
		{block.OK, 1, []block.Op{block.OpFlush, block.OpWrite}, []block.Status{28, 28}}, // began before
	} {
		got := round(step.st, step.seen, step.ops...)
		for j := range got {
			if got[j] != step.want[j] {
				t.Errorf("round %d: %v, want %v", i, got, step.want)
				break
			}
		}
	}
}

// TestDurableWithoutDescriptors: at the descriptor limit a durable write
// cannot have a descriptor of its own; it is made durable by a sync instead.
func TestDurableWithoutDescriptors(t *testing.T) {
	_, d := tempFile(t, 1<<20)
	dev := d.dev.(*fileDevice)
	syncs, real := 0, dev.sync.call
	dev.sync.call = func() block.Status {
		syncs++
		return real()
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 1 // what is open stays open
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	st := d.write(4096, []byte("durable"), block.FUA)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if st != block.OK || syncs != 1 || string(d.read(4096, 7)) != "durable" {
		t.Errorf("%v with %d syncs", st, syncs)
	}
}
