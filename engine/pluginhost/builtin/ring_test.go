package builtin

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// needRing skips the test where the machine has no io_uring.
func needRing(t testing.TB) {
	t.Helper()
	err := RingUsable()
	if errors.Is(err, iouring.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// onReactor is the file plugin on a reactor, as volumes use it.
type onReactor struct {
	store.Plugin
	how string // the option io
}

func (p onReactor) Open(ctx context.Context, o store.Options) (store.Device, error) {
	o.Strings["io"] = p.how
	dev, err := p.Plugin.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	r.Start()
	return &reactorDevice{dev, r}, nil
}

type reactorDevice struct {
	store.Device
	r *reactor.Reactor
}

func (d *reactorDevice) Channel(done store.Completer) (store.Channel, error) {
	ch := &reactorChannel{r: d.r}
	var err error
	d.r.Do(func() { ch.Channel, err = d.Device.Channel(&reactorCompleter{done, d.r}) })
	return ch, err
}

func (d *reactorDevice) Close() error {
	d.r.Stop()
	return d.Device.Close()
}

type reactorCompleter struct {
	store.Completer
	r *reactor.Reactor
}

func (c *reactorCompleter) Ring() (*iouring.Hub, error) { return iouring.Of(c.r) }

// reactorChannel does on the reactor what is asked of it elsewhere.
type reactorChannel struct {
	store.Channel
	r     *reactor.Reactor
	batch []*block.Request
	over  chan struct{}
}

// Deliver is a Submit, on the reactor.
func (c *reactorChannel) Deliver() {
	c.Channel.Submit(c.batch)
	c.over <- struct{}{}
}

func (c *reactorChannel) Submit(batch []*block.Request) {
	if c.over == nil {
		c.over = make(chan struct{})
	}
	c.batch = batch
	c.r.Post(c)
	<-c.over
}

func (c *reactorChannel) Close() { c.r.Do(c.Channel.Close) }

// ringKinds are disks on a file that use the reactor's ring.
func ringKinds() []kind {
	open := func(how string, direct, device bool) func(t testing.TB, size uint64) *disk {
		return func(t testing.TB, size uint64) *disk {
			needRing(t)
			o := fileOptions(filepath.Join(t.TempDir(), "disk"), size)
			if device {
				o = fileOptions(loopDevice(t, t.TempDir(), size), 0)
			}
			o.Bools["direct"] = direct
			return openDisk(t, onReactor{File(), how}, o)
		}
	}
	return []kind{
		{"file by ring", open(ioRing, false, false)},
		{"file by ring or not", open(ioAuto, false, false)},
		{"file direct by ring", open(ioRing, true, false)},
		{"block device by ring", open(ioRing, false, true)},
		{"block device direct by ring", open(ioAuto, true, true)},
	}
}

// ringOf gives the ring's side of a disk's channel.
func ringOf(d *disk) *fileRing { return d.ch.(*reactorChannel).Channel.(*fileChannel).ring }

// TestRingIsUsed: what the suites say of rings, they say of rings.
func TestRingIsUsed(t *testing.T) {
	for _, k := range ringKinds() {
		t.Run(k.name, func(t *testing.T) {
			d := k.open(t, 1<<20)
			x := ringOf(d)
			mem, err := sys.MapMemory(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Unmap(mem)
			for i := range mem {
				mem[i] = byte(i>>12 + i)
			}
			d.must(&block.Request{Op: block.OpWrite, Offset: 4096, Length: 8192, Data: [][]byte{mem[:4096], mem[8192:12288]}})
			if len(x.ops) == 0 {
				t.Error("a write did not go through the ring")
			}
			got := mem[1<<19:]
			d.must(&block.Request{Op: block.OpRead, Offset: 4096, Length: 8192, Data: [][]byte{got[:4096], got[4096:8192]}})
			if !bytes.Equal(got[:4096], mem[:4096]) || !bytes.Equal(got[4096:8192], mem[8192:12288]) {
				t.Error("what was read is not what was written")
			}
			if len(x.free) != len(x.ops) {
				t.Errorf("%d of %d places are free when nothing is outstanding", len(x.free), len(x.ops))
			}
		})
	}
}

// TestRingTruncated: a file that somebody has cut gives an error, not old memory.
func TestRingTruncated(t *testing.T) {
	for _, direct := range []bool{false, true} {
		needRing(t)
		path := filepath.Join(t.TempDir(), "disk")
		o := fileOptions(path, 64<<10)
		o.Bools["direct"] = direct
		d := openDisk(t, onReactor{File(), ioRing}, o)
		if err := os.Truncate(path, 12<<10); err != nil {
			t.Fatal(err)
		}
		for _, off := range []uint64{8 << 10, 12 << 10, 32 << 10} {
			r := &block.Request{Op: block.OpRead, Offset: off, Length: 8192, Data: [][]byte{make([]byte, 8192)}}
			if st := d.one(r); st != block.EIO {
				t.Errorf("direct %v: read at %d of a file of 12 KiB: %v", direct, off, st)
			}
		}
	}
}

// TestRingResults: whatever the kernel answers, the request ends as it would with
// a worker. The answers cannot be had from a real kernel, so they are made up,
// and the request goes on for real after them.
func TestRingResults(t *testing.T) {
	needRing(t)
	for _, c := range []struct {
		direct bool
		skew   int // of the payload's memory
	}{{false, 0}, {true, 0}, {true, 7}} {
		direct, skew := c.direct, c.skew
		o := fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20)
		o.Bools["direct"] = direct
		d := openDisk(t, onReactor{File(), ioRing}, o)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1024)
		if st := d.write(8192, want, 0); st != block.OK {
			t.Fatal(st)
		}
		partial := block.OK
		if direct {
			partial = block.EIO // inside a block
		}
		for _, c := range []struct {
			name string
			res  int32
			want block.Status
		}{
			{"interrupted", -int32(syscall.EINTR), block.OK},
			{"not now", -int32(syscall.EAGAIN), block.OK},
			{"cancelled", -int32(syscall.ECANCELED), block.OK},
			{"short", 4096, block.OK},
			{"short by bytes", 4096 + 7, partial},
			{"nothing", 0, block.EIO},
			{"no space", -int32(syscall.ENOSPC), block.Status(syscall.ENOSPC)},
			{"no memory there", -int32(syscall.EFAULT), efault},
		} {
			for _, op := range []block.Op{block.OpRead, block.OpWrite} {
				all, err := sys.MapMemory(20 << 10)
				if err != nil {
					t.Fatal(err)
				}
				defer sys.Unmap(all)
				mem := all[skew : skew+16<<10]
				copy(mem, want)
				if op == block.OpRead {
					clear(mem[max(c.res, 0):])
				}
				r := &block.Request{Op: op, Offset: 8192, Length: 16 << 10, Data: [][]byte{mem[:4096], mem[4096:]}}
				d.answer(r, c.res)
				if r.Status != c.want || r.Status == block.OK && !bytes.Equal(mem, want) {
					t.Errorf("direct %v, skew %d, %v, %s: %v, data as it should be: %v", direct, skew, op, c.name, r.Status, bytes.Equal(mem, want))
				}
			}
		}
		if !bytes.Equal(d.read(8192, 16<<10), want) {
			t.Error("the disk does not hold what was written")
		}
	}
}

// answer has r done as if the kernel had answered res to its first entry.
func (d *disk) answer(r *block.Request, res int32) {
	x := ringOf(d)
	ch := d.ch
	d.ch = submitFunc(func([]*block.Request) {
		d.dev.(*reactorDevice).r.Do(func() {
			op := x.op(r)
			op.moved = 0
			if dev := x.ch.dev; dev.direct && !dev.alignedMemory(r) {
				op.slot, op.staged = x.staging.take(r.Length)
				copyGuarded(r, 0, op.staged, false)
			}
			x.Reap(iouring.CQE{UserData: uint64(op.place), Res: res})
		})
	})
	d.c.do(d.ch, r)
	d.ch = ch
}

type submitFunc func([]*block.Request)

func (f submitFunc) Submit(batch []*block.Request) { f(batch) }
func (submitFunc) Close()                          {}

// TestRingWhereThereIsNone: who asks for a ring gets one or an error; others work.
func TestRingWhereThereIsNone(t *testing.T) {
	needRing(t)
	o := fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20)
	d := openDisk(t, File(), o) // no reactor: a process, for instance
	if st := d.write(0, []byte("works"), 0); st != block.OK {
		t.Error(st)
	}
	d.close()
	o.Strings["io"] = ioRing
	dev, err := File().Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := dev.Channel(newCompleter(t)); err == nil || !strings.Contains(err.Error(), `io = "auto"`) {
		t.Errorf("a ring without a reactor: %v", err)
	}
}

// TestRingFails: a ring that has failed leaves the disk to the workers.
func TestRingFails(t *testing.T) {
	needRing(t)
	d := openDisk(t, onReactor{File(), ioAuto}, fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20))
	x := ringOf(d)
	d.dev.(*reactorDevice).r.Do(func() { x.Failed(errors.New("failed")) })
	if st := d.write(0, []byte("works"), 0); st != block.OK || len(x.ops) != 0 {
		t.Errorf("%v, %d places in the ring", st, len(x.ops))
	}
	d.dev.(*reactorDevice).r.Do(x.close)
}

// skewed gives n bytes of memory that direct I/O cannot use.
func skewed(t testing.TB, n int) []byte {
	mem, err := sys.MapMemory(n + 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Unmap(mem) })
	return mem[7 : 7+n]
}

// TestRingStaged: payload that direct I/O cannot use goes through staging memory,
// for as much as there is; more of it goes to the workers.
func TestRingStaged(t *testing.T) {
	needRing(t)
	o := fileOptions(filepath.Join(t.TempDir(), "disk"), 32<<20)
	o.Bools["direct"] = true
	d := openDisk(t, onReactor{File(), ioAuto}, o)
	x := ringOf(d)
	for _, c := range []struct {
		name          string
		length, count int
		ring          int // how many of them go through the ring
	}{
		{"one", 4096, 1, 1},
		{"the longest", stagedBytes, 1, 1},
		{"longer", stagedBytes + 4096, 1, 0},
		{"all that fit", 8192, stagedSlots, stagedSlots},
		{"one more", 4096, stagedSlots + 1, stagedSlots},
	} {
		x.ops, x.free = nil, nil
		want := skewed(t, c.length*c.count)
		for i := range want {
			want[i] = byte(i>>8*7 + i + c.length)
		}
		got := skewed(t, len(want))
		for _, op := range []block.Op{block.OpWrite, block.OpRead} {
			from := want
			if op == block.OpRead {
				from = got
			}
			batch := make([]*block.Request, c.count)
			for i := range batch {
				// In two pieces, the first of an odd length.
				part := from[i*c.length : (i+1)*c.length]
				batch[i] = &block.Request{Op: op, Offset: uint64(i * c.length), Length: uint64(c.length), Data: [][]byte{part[:101], part[101:]}}
			}
			d.c.do(d.ch, batch...)
			for _, r := range batch {
				if r.Status != block.OK {
					t.Fatalf("%s: %v at %d: %v", c.name, op, r.Offset, r.Status)
				}
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: what was read is not what was written", c.name)
		}
		if len(x.ops) != c.ring || len(x.free) != c.ring {
			t.Errorf("%s: %d requests went through the ring, want %d; %d places are free", c.name, len(x.ops), c.ring, len(x.free))
		}
		if n := len(x.staging.free); n != stagedSlots {
			t.Errorf("%s: %d of %d places are free when nothing is outstanding", c.name, n, stagedSlots)
		}
	}
}

// TestRingStagedFault: memory that has gone is an error, before and after the disk
// was asked, and no place is lost by it.
func TestRingStagedFault(t *testing.T) {
	needRing(t)
	o := fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20)
	o.Bools["direct"] = true
	d := openDisk(t, onReactor{File(), ioRing}, o)
	gone := vanishing(t) // two pages, the second of which is no more
	for _, op := range []block.Op{block.OpWrite, block.OpRead} {
		r := &block.Request{Op: op, Offset: 8192, Length: 4096, Data: [][]byte{gone[7 : 7+4096]}}
		if st := d.one(r); st != efault {
			t.Errorf("%v: %v", op, st)
		}
	}
	if n := len(ringOf(d).staging.free); n != stagedSlots {
		t.Errorf("%d of %d places are free", n, stagedSlots)
	}
}

// TestStagingIsShared: files on a reactor have one staging memory, and the last one
// gives it back, unless a ring has failed with some of it.
func TestStagingIsShared(t *testing.T) {
	needRing(t)
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	defer r.Stop()
	r.Do(func() {
		hub, err := iouring.Of(r)
		if err != nil {
			t.Error(err)
			return
		}
		a, _ := joinStaging(hub)
		b, _ := joinStaging(hub)
		if a == nil || a != b {
			t.Errorf("two on one reactor have %p and %p", a, b)
			return
		}
		a.leave(hub)
		slot, mem := a.take(stagedBytes)
		mem[0], mem[stagedBytes-1] = 1, 1
		a.leave(hub)
		mem[0]++ // still there: slot was never given back
		if next, _ := joinStaging(hub); next == a {
			t.Error("what a failed ring may still use is used again")
		} else {
			next.leave(hub)
		}
		a.give(slot)
		_ = sys.Unmap(a.mem)
	})
}
