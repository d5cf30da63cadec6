package builtin

import (
	"bytes"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

var _ volume.FixedStore = (*fileChannel)(nil)

// fixedDisk is a disk with two registered buffers of 64 KiB.
type fixedDisk struct {
	*disk
	ch    *fileChannel
	r     *reactorDevice
	hub   *iouring.Hub
	first int
	mem   [2][]byte
}

func newFixedDisk(t *testing.T, direct, readOnly bool) *fixedDisk {
	needRing(t)
	o := fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20)
	if readOnly {
		openDisk(t, File(), o).close()
		o = fileOptions(o.Strings["path"], 0)
		o.ReadOnly = true
	}
	o.Bools["direct"] = direct
	f := &fixedDisk{disk: openDisk(t, onReactor{File(), ioAuto}, o)}
	f.ch, f.r = f.disk.ch.(*reactorChannel).Channel.(*fileChannel), f.dev.(*reactorDevice)
	f.r.r.Do(func() {
		var err error
		if f.hub, err = iouring.Of(f.r.r); err == nil {
			f.first, err = f.hub.ReserveBuffers(2)
		}
		if err != nil {
			t.Error(err)
		}
		for i := range f.mem {
			if f.mem[i], err = sys.MapMemory(64 << 10); err == nil {
				err = f.hub.PutBuffer(f.first+i, f.mem[i])
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, m := range f.mem {
			_ = sys.Unmap(m)
		}
	})
	return f
}

// do does a request with buffer i; res, if it is not 0, is what the kernel is
// said to have answered to its first entry.
func (f *fixedDisk) do(op block.Op, flags block.Flags, off, n uint64, i int, res int32) *block.Request {
	r := &block.Request{Op: op, Flags: flags, Offset: off, Length: n}
	ch := f.disk.ch
	f.disk.ch = submitFunc(func([]*block.Request) {
		f.r.r.Do(func() {
			if f.ch.ring != nil {
				f.ch.ring.base = uint64(uintptr(unsafe.Pointer(&f.mem[i][0])))
			}
			if res == 0 {
				f.ch.SubmitFixed(r, uint16(f.first+i))
				return
			}
			op := f.ch.ring.op(r)
			op.moved, op.fixed, op.buffer = 0, true, uint16(f.first+i)
			f.ch.ring.Reap(iouring.CQE{UserData: uint64(op.place), Res: res})
		})
	})
	f.c.do(f.disk.ch, r)
	f.disk.ch = ch
	return r
}

// TestFixedBuffers: requests move registered buffers to and from the file.
func TestFixedBuffers(t *testing.T) {
	for name, direct := range map[string]bool{"page cache": false, "direct": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixedDisk(t, direct, false)
			if f.ch.dev.memAlign > 512 {
				t.Skip("the file system of the temporary folder wants direct I/O from whole pages")
			}
			if got := f.ch.FixedMax(f.hub); got != maxFixed {
				t.Errorf("requests of at most %d bytes", got)
			}
			if got := f.ch.FixedMax(&iouring.Hub{}); got != 0 {
				t.Errorf("requests of at most %d bytes in another ring's buffers", got)
			}
			for i := range f.mem[0] {
				f.mem[0][i] = byte(i>>9 + i)
			}
			for round, flags := range []block.Flags{0, block.FUA} {
				off := uint64(round) * 128 << 10
				if r := f.do(block.OpWrite, flags, off, 64<<10, 0, 0); r.Status != block.OK {
					t.Fatalf("write with flags %x: %v", flags, r.Status)
				}
				for _, res := range []int32{0, -int32(syscall.EINTR), -int32(syscall.EAGAIN)} {
					clear(f.mem[1])
					if r := f.do(block.OpRead, 0, off, 64<<10, 1, res); r.Status != block.OK || !bytes.Equal(f.mem[1], f.mem[0]) {
						t.Fatalf("read after %d: %v, and what was written: %v", res, r.Status, bytes.Equal(f.mem[1], f.mem[0]))
					}
				}
				clear(f.mem[1][8192:]) // the first 8 KiB are there already
				if r := f.do(block.OpRead, 0, off, 64<<10, 1, 8192); r.Status != block.OK || !bytes.Equal(f.mem[1], f.mem[0]) {
					t.Fatalf("read that was short: %v, and what was written: %v", r.Status, bytes.Equal(f.mem[1], f.mem[0]))
				}
			}
			if !bytes.Equal(f.read(0, 64<<10), f.mem[0]) {
				t.Error("the file does not hold what was written")
			}
			if r := f.do(block.OpRead, 0, 0, 4096, 1, -int32(syscall.ENOSPC)); r.Status != block.Status(syscall.ENOSPC) {
				t.Errorf("an error of the kernel's: %v", r.Status)
			}
		})
	}
}

// TestFixedRefused: what cannot be done is refused, whatever the caller has asked
// before.
func TestFixedRefused(t *testing.T) {
	f := newFixedDisk(t, false, true)
	if r := f.do(block.OpWrite, 0, 0, 4096, 0, 0); r.Status != block.EROFS {
		t.Errorf("write to a read-only disk: %v", r.Status)
	}
	ring := f.ch.ring
	f.ch.ring = nil
	if r := f.do(block.OpRead, 0, 0, 4096, 0, 0); r.Status != block.EIO {
		t.Errorf("read without a ring: %v", r.Status)
	}
	if f.ch.FixedMax(f.hub) != 0 {
		t.Error("requests without a ring")
	}
	f.ch.ring = ring
}

// TestFixedSyncFails: a durable write with a registered buffer fails if its sync
// does, and the next flush says so, too.
func TestFixedSyncFails(t *testing.T) {
	f := newFixedDisk(t, false, false)
	dev := f.r.Device.(*fileDevice)
	tapSyncs(f.disk, -int32(syscall.ENOSPC))
	if r := f.do(block.OpWrite, block.FUA, 0, 4096, 0, 0); r.Status != block.ENOSPC {
		t.Errorf("a durable write whose sync failed: %v", r.Status)
	}
	if r := f.do(block.OpWrite, 0, 0, 4096, 0, 0); r.Status != block.OK {
		t.Errorf("a write that is not durable: %v", r.Status)
	}
	if r := f.one(&block.Request{Op: block.OpFlush}); r != block.ENOSPC {
		t.Errorf("the next flush: %v", r)
	}
	if r := f.one(&block.Request{Op: block.OpFlush}); r != block.OK || dev.sync.running {
		t.Errorf("the one after it: %v", r)
	}
}
