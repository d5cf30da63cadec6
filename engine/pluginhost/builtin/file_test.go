package builtin

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

func tempFile(t testing.TB, size uint64) (string, *disk) {
	path := filepath.Join(t.TempDir(), "disk")
	return path, openDisk(t, File(), fileOptions(path, size))
}

// allocated gives how many bytes a file takes on its disk.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func zeroRequest(op block.Op, off, n uint64, flags block.Flags) *block.Request {
	return &block.Request{Op: op, Flags: flags, Offset: off, Length: n}
}

// TestHolesArePunched: discard and write-zeroes give the space back, and
// NoHole keeps it.
func TestHolesArePunched(t *testing.T) {
	path, d := tempFile(t, 4<<20)
	if !d.info.Has(block.CapDiscard | block.CapFastZero) {
		t.Skip("the file system of the temporary folder cannot punch holes")
	}
	for _, tc := range []struct {
		name  string
		op    block.Op
		flags block.Flags
		keeps bool
	}{
		{"discard", block.OpDiscard, 0, false},
		{"write-zeroes", block.OpWriteZeroes, 0, false},
		{"fast write-zeroes with FUA", block.OpWriteZeroes, block.FastZero | block.FUA, false},
		{"write-zeroes without hole", block.OpWriteZeroes, block.NoHole, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if st := d.write(0, bytes.Repeat([]byte{1}, 4<<20), 0); st != block.OK {
				t.Fatal(st)
			}
			d.must(&block.Request{Op: block.OpFlush})
			full := allocated(t, path)
			d.must(zeroRequest(tc.op, 1<<20, 2<<20, tc.flags))
			d.must(&block.Request{Op: block.OpFlush})
			if freed := full - allocated(t, path); tc.keeps != (freed < 1<<20) {
				t.Errorf("%d bytes of 2 MiB were given back", freed)
			}
			if len(bytes.Trim(d.read(1<<20, 2<<20), "\x00")) > 0 {
				t.Error("the range does not read as zeroes")
			}
			if bytes.IndexByte(d.read(0, 1<<20), 0) >= 0 || bytes.IndexByte(d.read(3<<20, 1<<20), 0) >= 0 {
				t.Error("bytes outside the range are gone")
			}
		})
	}
}

// TestZeroesWithoutSupport: on ramfs, which can neither punch nor zero, the
// disk promises neither, writes zeroes out, and refuses the fast kind.
func TestZeroesWithoutSupport(t *testing.T) {
	d := openDisk(t, File(), fileOptions(filepath.Join(mountAt(t, "ramfs", ""), "disk"), 6<<20))
	if d.info.Caps&(block.CapDiscard|block.CapFastZero) != 0 || !d.info.Has(block.CapWriteZeroes) {
		t.Fatalf("capabilities are %x", d.info.Caps)
	}
	if st := d.write(0, bytes.Repeat([]byte{1}, 6<<20), 0); st != block.OK {
		t.Fatal(st)
	}
	if st := d.one(zeroRequest(block.OpWriteZeroes, 0, 4096, block.FastZero)); st != block.ENOTSUP {
		t.Errorf("fast zero: %v", st)
	}
	d.must(zeroRequest(block.OpDiscard, 0, 4096, 0)) // a hint, so it succeeds
	d.must(zeroRequest(block.OpWriteZeroes, 100, 5<<20, block.FUA))
	got := d.read(0, 6<<20)
	if len(bytes.Trim(got[100:100+5<<20], "\x00")) > 0 || got[99] != 1 || got[100+5<<20] != 1 {
		t.Error("the zeroes are not where they belong")
	}
}

// TestFileStatus: block status shows a known layout.
func TestFileStatus(t *testing.T) {
	_, d := tempFile(t, 1<<20)
	if !d.info.Has(block.CapDiscard) {
		t.Skip("the file system of the temporary folder has no holes")
	}
	for _, off := range []uint64{256 << 10, 640 << 10} {
		if st := d.write(off, bytes.Repeat([]byte{1}, 128<<10), 0); st != block.OK {
			t.Fatal(st)
		}
	}
	data := func(n uint64) block.Extent { return block.Extent{Length: n} }
	hole := func(n uint64) block.Extent { return block.Extent{Length: n, State: block.Hole | block.Zero} }
	want := []block.Extent{hole(256 << 10), data(128 << 10), hole(256 << 10), data(128 << 10), hole(256 << 10)}
	expect := func(got, want []block.Extent) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("extents %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("extents %v, want %v", got, want)
			}
		}
	}
	expect(d.extents(0, 1<<20, 16, 0), want)
	expect(d.extents(0, 1<<20, 3, 0), want[:3])
	expect(d.extents(0, 1<<20, 16, block.OneExtent), want[:1])
	expect(d.extents(300<<10, 100<<10, 16, 0), []block.Extent{data(84 << 10), hole(16 << 10)})
}

// TestDiskFull: ENOSPC comes through as it is, and what was there stays.
func TestDiskFull(t *testing.T) {
	d := openDisk(t, File(), fileOptions(filepath.Join(mountAt(t, "tmpfs", "size=1m"), "disk"), 8<<20))
	if st := d.write(0, []byte("here before"), 0); st != block.OK {
		t.Fatal(st)
	}
	if st := d.write(4096, make([]byte, 4<<20), 0); st != block.ENOSPC {
		t.Errorf("write to a full file system: %v", st)
	}
	var batch []*block.Request // small and adjacent, so that they are merged
	for off := uint64(0); off < 2<<20; off += 4096 {
		batch = append(batch, &block.Request{Op: block.OpWrite, Offset: 5<<20 + off, Length: 4096, Data: [][]byte{make([]byte, 4096)}})
	}
	d.c.do(d.ch, batch...)
	for _, r := range batch {
		if r.Status != block.OK && r.Status != block.ENOSPC {
			t.Fatalf("write at %d: %v", r.Offset, r.Status)
		}
	}
	if batch[len(batch)-1].Status != block.ENOSPC {
		t.Errorf("last of the merged writes: %v", batch[len(batch)-1].Status)
	}
	if string(d.read(0, 11)) != "here before" {
		t.Error("old data is gone")
	}
}

// TestTruncatedBehind: somebody shortens the file under the open disk.
func TestTruncatedBehind(t *testing.T) {
	for _, direct := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "disk")
		o := fileOptions(path, 1<<20)
		o.Bools["direct"] = direct
		d := openDisk(t, File(), o)
		if st := d.write(0, bytes.Repeat([]byte{7}, 1<<20), 0); st != block.OK {
			t.Fatal(st)
		}
		if err := os.Truncate(path, 100<<10+10); err != nil {
			t.Fatal(err)
		}
		for _, off := range []uint64{96 << 10, 512 << 10} {
			r := &block.Request{Op: block.OpRead, Offset: off, Length: 16 << 10, Data: [][]byte{payload(16 << 10)}}
			if st := d.one(r); st != block.EIO {
				t.Errorf("direct %v: read at %d of the cut file: %v", direct, off, st)
			}
		}
		r := &block.Request{Op: block.OpBlockStatus, Offset: 512 << 10, Length: 4096, Extents: make([]block.Extent, 0, 4)}
		if st := d.one(r); st != block.EIO {
			t.Errorf("direct %v: block status behind the end of the cut file: %v", direct, st)
		}
		if got := d.read(0, 8192); got[0] != 7 || got[8191] != 7 {
			t.Error("what is left of the file does not read")
		}
		d.close()
	}
}

// TestLock: one writer, or many readers.
func TestLock(t *testing.T) {
	path, w := tempFile(t, 1<<20)
	try := func(readOnly bool) (store.Device, error) {
		o := fileOptions(path, 0)
		o.ReadOnly = readOnly
		return File().Open(context.Background(), o)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := try(readOnly); err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), path) {
			t.Errorf("second opener (read-only %v) beside a writer: %v", readOnly, err)
		}
	}
	w.close()
	a, err := try(true)
	if err != nil {
		t.Fatal(err)
	}
	b, err := try(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := try(false); err == nil {
		t.Error("a writer got in beside readers")
	}
	for _, dev := range []store.Device{a, b} {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenModes: a read-only disk's descriptor cannot write at all, and
// nothing is inherited by child processes.
func TestOpenModes(t *testing.T) {
	path, w := tempFile(t, 1<<20)
	w.close()
	o := fileOptions(path, 0)
	o.ReadOnly = true
	d := openDisk(t, File(), o)
	fd := d.dev.(*fileDevice).fd
	flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		t.Errorf("flags are %x", flags)
	}
	if _, err := syscall.Pwrite(fd, []byte{1}, 0); err != syscall.EBADF {
		t.Errorf("write past the checks: %v", err)
	}
	if flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); flags&syscall.FD_CLOEXEC == 0 {
		t.Error("the descriptor would be inherited")
	}
}

// TestReplacedFile: another file under the same name is another disk, even
// if it got the same inode number.
func TestReplacedFile(t *testing.T) {
	path, d := tempFile(t, 1<<20)
	old := d.info.Identity
	d.close()
	moved := path + ".moved"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, File(), fileOptions(moved, 0))
	if d.info.Identity != old {
		t.Errorf("moved it is %q, was %q", d.info.Identity, old)
	}
	d.close()
	if err := os.Remove(moved); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, File(), fileOptions(moved, 1<<20))
	if d.info.Identity == old {
		t.Errorf("a new file has the old one's identity %q", old)
	}
}

// TestDirectGeometry: direct promises no smaller block than the kernel takes.
func TestDirectGeometry(t *testing.T) {
	o := fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20)
	o.Bools["direct"] = true
	d := openDisk(t, File(), o)
	if d.info.BlockSize < 512 || d.info.PreferredBlock < d.info.BlockSize {
		t.Errorf("block sizes are %d and %d", d.info.BlockSize, d.info.PreferredBlock)
	}
	fd := d.dev.(*fileDevice).fd
	if flags, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0); flags&syscall.O_DIRECT == 0 {
		t.Error("the file is not open for direct I/O")
	}
	// Larger than the bounce memory, at an odd address.
	data := payload(700 << 10)
	for i := range data {
		data[i] = byte(i * 13 >> 3)
	}
	for _, flags := range []block.Flags{0, block.FUA} {
		if st := d.write(4096, data, flags); st != block.OK {
			t.Fatal(st)
		}
		got := payload(uint64(len(data)))
		d.must(&block.Request{Op: block.OpRead, Offset: 4096, Length: uint64(len(got)), Data: [][]byte{got[:777:777], got[777:]}})
		if !bytes.Equal(got, data) {
			t.Error("what was read is not what was written")
		}
		clear(data[100:600])
	}
}
