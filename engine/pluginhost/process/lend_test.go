package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
	"blockengine/sdk/process/worker"
)

// guestMemory is sealed memory of size bytes, known under a name, as a front-end of a
// virtual machine has it.
func guestMemory(t testing.TB, name string, size int) (m *sys.Mapping, b []byte) {
	t.Helper()
	fd, err := sys.SealedMemfd(name, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if b, err = sys.MapShared(fd, 0, size); err != nil {
		t.Fatal(err)
	}
	if m, err = sys.RegisterShared("memory of "+name, b, fd, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Unregister()
		_ = sys.Unmap(b)
	})
	return m, b
}

// insideLender shows memory to a worker of this process.
func insideLender(mem *worker.Memory) *lender {
	n := uint64(0)
	l := newLender(slog.New(slog.DiscardHandler), func() uint64 { n++; return n })
	l.show = func(number uint64, m *sys.Mapping) error {
		return m.File(func(fd int, offset uint64) error { return mem.Map(number, fd, offset, uint64(m.Size())) })
	}
	l.hide = func(number uint64) error { return errors.New("not in this test") }
	return l
}

// lendable waits until a link's process has mapped b.
func lendable(t testing.TB, l *lender, b []byte) {
	t.Helper()
	eventually(t, "memory that the process has mapped", func() bool { _, _, ok := l.find(b); return ok })
}

// Random requests, some of which are lent and some copied, come back with what the
// disk holds. Both ends are in this process: the race detector sees them.
func TestLentAndCopied(t *testing.T) {
	for _, kind := range []string{"memory", "post"} {
		t.Run(kind, func(t *testing.T) {
			mem := worker.NewMemory()
			_, b := guestMemory(t, "vm1", 4*testSize)
			reg := makeRegion(t, kind)
			closeWorker := insideWith(t, kind, reg, worker.Options{Memory: mem})
			o := newOwner(t, startReactor(t, 0), reg, patience)
			lender := insideLender(mem)
			totals := &payloads{}
			o.l.r.Do(func() { o.l.lending = lending{lender: lender, totals: totals}; o.guest = b })
			runRandom(t, o, 4000)
			closeWorker()
			lent, copied := totals.lent.load(), totals.copied.load()
			if o.lent == 0 || uint64(o.lent) != lent.Requests || copied.Requests == 0 || lent.Bytes < lent.Requests {
				t.Errorf("%d lent; counted: %+v lent, %+v copied", o.lent, lent, copied)
			}
		})
	}
}

// Neither end allocates for a request that is lent, however many pieces it has.
func TestLendAllocatesNothing(t *testing.T) {
	mem := worker.NewMemory()
	_, b := guestMemory(t, "vm1", 4<<20)
	reg := makeRegion(t, "null")
	closeWorker := insideWith(t, "null", reg, worker.Options{Memory: mem})
	r := startReactor(t, 0)
	o := &loader{l: newLink(reg, block.Info{Size: testSize, BlockSize: 1}, (&owner{}).hooks(patience)), depth: 32, size: 4096, guest: b, done: make(chan struct{}, 1)}
	o.l.lending = lending{lender: insideLender(mem), totals: &payloads{}}
	lendable(t, o.l.lending.lender, b)
	var err error
	r.Do(func() { err = o.l.Start(r, o) })
	if err != nil {
		t.Fatal(err)
	}
	if err := o.run(r, 1000); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(5, func() { err = errors.Join(err, o.run(r, 5000)) }); n > 20 {
		t.Errorf("%v allocations in 5000 requests", n)
	}
	if err != nil {
		t.Error(err)
	}
	closeWorker()
	r.Do(func() { o.l.Close(func(bool) {}) })
}

// What a link cannot lend it says so of, and what it can it describes.
func TestDescribe(t *testing.T) {
	mem := worker.NewMemory()
	_, b := guestMemory(t, "vm1", 1<<20)
	_, other := guestMemory(t, "vm2", 1<<20)
	l := newLink(makeRegion(t, "null"), block.Info{BlockSize: 1}, (&owner{}).hooks(0))
	r := startReactor(t, 0)
	if r.Do(func() {
		if l.Lends() || l.Lend(0, [][]byte{b[:512]}) {
			t.Error("a link lends that has nobody to lend to")
		}
	}); t.Failed() {
		return
	}
	l.lending = lending{lender: insideLender(mem), totals: &payloads{}}
	lendable(t, l.lending.lender, b)
	lendable(t, l.lending.lender, other)
	many := func(n int) (data [][]byte) {
		for i := range n {
			data = append(data, b[i*1024:i*1024+512])
		}
		return data
	}
	for name, c := range map[string]struct {
		data [][]byte
		want int // pieces; 0: it is not lent
	}{
		"one":              {[][]byte{b[512:1024]}, 1},
		"neighbours":       {[][]byte{b[:512], b[512:1024], b[1024:2048]}, 1},
		"two machines":     {[][]byte{b[:512], other[512:1024]}, 2},
		"the other way":    {[][]byte{b[512:1024], b[:512]}, 2},
		"with an empty":    {[][]byte{b[:512], {}, b[512:1024]}, 1},
		"as many as fit":   {many(128), 128},
		"too many":         {many(129), 0},
		"nothing":          {nil, 0},
		"nothing but none": {[][]byte{{}}, 0},
		"of our own":       {[][]byte{b[:512], make([]byte, 512)}, 0},
		"longer than any":  {[][]byte{b[:512<<10]}, 0},
	} {
		r.Do(func() {
			if got := l.Lend(0, c.data); got != (c.want > 0) || int(l.slots[0].pieces) != c.want {
				t.Errorf("%s: lent %v in %d pieces, wanted %d", name, got, l.slots[0].pieces, c.want)
			}
			l.slots[0].pieces = 0
		})
	}
	r.Do(func() { l.Close(func(bool) {}) })
}

// mapsOf are the mappings of a process.
func mapsOf(t testing.TB, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lendOne has one request of a block done whose payload is lent; it waits until the
// process has what it lies in.
func lendOne(t testing.TB, k guest.Link, o *keeper, op block.Op, data [][]byte) {
	t.Helper()
	r := k.(*link).r
	eventually(t, "a request to be lent", func() (lent bool) {
		on(r, func() {
			if lent = k.Lend(0, data); lent {
				k.Submit(0, op, 0, 0, 512)
				k.Push()
			}
		})
		return lent
	})
	if st := within(t, o.finished, "a request"); st != block.OK {
		t.Errorf("%v: status %v", op, st)
	}
}

// A process reads and writes the memory of a virtual machine in place, and has
// unmapped it when that is gone.
func TestLendToAProcess(t *testing.T) {
	opt := testOptions(t, "memory")
	opt.GuestMemory = true
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	if !k.Lends() {
		t.Fatal("it does not lend")
	}
	m, b := guestMemory(t, "a-guest", 1<<20)
	for i := range b[:512] {
		b[5000+i] = byte(i * 7)
	}
	lendOne(t, k, o, block.OpWrite, [][]byte{b[5000:5200], b[5200:5300], b[5300:5512]})
	lendOne(t, k, o, block.OpRead, [][]byte{b[900001:900002], b[70000:70511]})
	if got := append([]byte{b[900001]}, b[70000:70511]...); !bytes.Equal(got, b[5000:5512]) {
		t.Errorf("read %x", got)
	}
	s := l.Status()
	if !s.Lends || s.Lent != (Traffic{2, 1024}) || s.Copied != (Traffic{}) {
		t.Errorf("the status is %+v", s)
	}
	if !strings.Contains(mapsOf(t, s.PID), "a-guest") {
		t.Errorf("it is not mapped:\n%s", mapsOf(t, s.PID))
	}
	m.Unregister()
	eventually(t, "the process to unmap the memory", func() bool { return !strings.Contains(mapsOf(t, s.PID), "a-guest") })
	if on(r, func() {
		if k.Lend(0, [][]byte{b[:512]}) {
			t.Error("lent after it has gone")
		}
	}); l.Status().Restarts != 0 {
		t.Error("the process was replaced")
	}
	if !shut(t, r, k) {
		t.Error("it has not finished")
	}
}

// A process that replaces one which has died is shown the memory anew.
func TestLendToTheNextProcess(t *testing.T) {
	opt := testOptions(t, "memory")
	opt.GuestMemory = true
	l := load(t, opt)
	r := testReactor(t)
	_, b := guestMemory(t, "a-guest", 1<<20)
	for range 2 {
		o := newKeeper()
		k := open(t, l, r, o, "v")
		lendOne(t, k, o, block.OpWrite, [][]byte{b[:512]})
		if err := syscall.Kill(l.Status().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		within(t, o.lost, "the link is lost")
		shut(t, r, k)
	}
}

// A process that has a read's memory has been reaped when the link is fenced, however
// the link ends.
func TestFenceOfLentRequests(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, pid int, o *keeper){
		"killed": func(t *testing.T, pid int, o *keeper) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			within(t, o.lost, "the loss")
		},
		"closed at once":  func(t *testing.T, pid int, _ *keeper) { _ = syscall.Kill(pid, syscall.SIGKILL) },
		"never finishing": func(*testing.T, int, *keeper) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt := testOptions(t, "stuck")
			opt.GuestMemory = true
			l := load(t, opt)
			r, o := testReactor(t), newKeeper()
			k := open(t, l, r, o, "v")
			_, b := guestMemory(t, "a-guest", 1<<20)
			pid := l.Status().PID
			eventually(t, "a request to be lent", func() (lent bool) {
				on(r, func() {
					if lent = k.Lend(0, [][]byte{b[:4096]}); lent {
						k.Submit(0, block.OpRead, 0, 0, 4096)
						k.Push()
					}
				})
				return lent
			})
			end(t, pid, o)
			fenced := make(chan error, 1)
			on(r, func() { k.Close(func(bool) { fenced <- syscall.Kill(pid, 0) }) })
			if err := within(t, fenced, "the fence"); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("fenced while the process was there: %v", err)
			}
		})
	}
}

// Memory that can be truncated is copied, and so is everything for a plugin that was
// built before there was anything to lend.
func TestCopiedInstead(t *testing.T) {
	opt := testOptions(t, "memory")
	opt.GuestMemory = true
	var said strings.Builder
	opt.Log = slog.New(slog.NewTextHandler(&lockedWriter{w: &said}, nil))
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	fd, err := sys.Memfd("unsealed", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	b, err := sys.MapShared(fd, 0, 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Unmap(b)
	m, err := sys.RegisterShared("memory of vm1", b, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unregister()
	for range 3 {
		on(r, func() {
			if k.Lend(0, [][]byte{b[:512]}) {
				t.Error("memory is lent that can be truncated")
			}
		})
		write(t, r, k, o)
	}
	shut(t, r, k)
	if n := strings.Count(said.String(), "payload there is copied"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, said.String())
	}
	if s := l.Status(); s.Copied.Requests != 3 || s.Lent.Requests != 0 {
		t.Errorf("the status is %+v", s)
	}

	l.host.said.Version = 1 << 16 // as one of the SDK before
	k = open(t, l, r, o, "v")
	if k.Lends() || l.Status().Lends {
		t.Error("lent to a plugin that knows nothing of it")
	}
	if st := write(t, r, k, o); st != block.OK {
		t.Errorf("status %v", st)
	}
	shut(t, r, k)
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// A plugin without payload is refused.
func TestProtocolPluginGetsNoGuestMemory(t *testing.T) {
	opt := testOptions(t, "tiny")
	opt.GuestMemory = true
	if _, err := Load(t.Context(), opt); !errors.Is(err, ErrNoPayload) {
		t.Errorf("the error is %v", err)
	}
}

// A process that does not let go of memory that has gone is ended.
func TestMemoryThatIsKept(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "memory")
	opt.GuestMemory, opt.Hang = true, 10*patience
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	m, b := guestMemory(t, "a-guest", 1<<20)
	lendOne(t, k, o, block.OpRead, [][]byte{b[:512]})
	stopped(t, l.Status().PID)
	m.Unregister()
	if err := within(t, o.lost, "the loss"); trapOf(err) != "hang" || !strings.Contains(err.Error(), "keeps the memory of a virtual machine that is gone") {
		t.Errorf("lost by %v", err)
	}
	shut(t, r, k)
}

// What a process touches of a machine's memory is not counted as its own, however
// much it is, and whoever would have been the first to touch it.
func TestGuestMemoryIsNotCounted(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector itself needs more memory than the limit that this is about")
	}
	const limit, size = 64 << 20, 256 << 20
	opt := testOptions(t, "null")
	opt.GuestMemory, opt.Memory = true, limit
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	_, b := guestMemory(t, "a-guest", size)
	pid := l.Status().PID
	lendOne(t, k, o, block.OpRead, [][]byte{b[:512]})
	const step = 256 << 10
	for at := 0; at < size; at += step {
		on(r, func() {
			if !k.Lend(0, [][]byte{b[at : at+step]}) {
				t.Error("it is not lent")
			}
			k.Submit(0, block.OpRead, 0, 0, step)
			k.Push()
		})
		if st := within(t, o.finished, "a read"); st != block.OK {
			t.Fatalf("status %v", st)
		}
	}
	if n := residentShared(t, pid); n < size {
		t.Errorf("%d bytes of shared memory are in the process: the test is about %d", n, size)
	}
	if s := l.Status(); s.PID != pid || s.Memory == 0 || s.Memory > limit {
		t.Errorf("the status is %+v", s)
	}
	shut(t, r, k)
}

// residentShared is how much memory of files in memory a process has touched, in bytes.
func residentShared(t testing.TB, pid int) (n int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "RssShmem:")
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}
