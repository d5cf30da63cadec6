package builtin

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"blockengine/sdk/block"
)

// loopDevice makes a block device of a sparse file in dir, or skips the test.
func loopDevice(t testing.TB, dir string, size uint64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	losetup, err := exec.LookPath("losetup")
	if err != nil {
		t.Skip("losetup is missing: install the package mount (util-linux)")
	}
	back := filepath.Join(dir, "back")
	f, err := os.Create(back)
	if err == nil {
		err = f.Truncate(int64(size))
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", back).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %s", out)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", name).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %s", name, out)
		}
	})
	return name
}

// TestBlockDevice: geometry, identity, exclusive use, and space given back.
func TestBlockDevice(t *testing.T) {
	dir := t.TempDir()
	path := loopDevice(t, dir, 8<<20)
	d := openDisk(t, File(), fileOptions(path, 0))
	if d.info.Size != 8<<20 || d.info.BlockSize != 512 || !strings.HasPrefix(d.info.Identity, "blockdev:7:") {
		t.Errorf("info %+v", d.info)
	}
	if _, err := File().Open(context.Background(), fileOptions(path, 0)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second opener: %v", err)
	}
	if !d.info.Has(block.CapDiscard | block.CapFastZero) {
		t.Skip("this loop device cannot discard")
	}
	back := filepath.Join(dir, "back")
	for _, r := range []*block.Request{
		zeroRequest(block.OpDiscard, 1<<20, 4<<20, block.FUA),
		zeroRequest(block.OpWriteZeroes, 1<<20, 4<<20, block.FastZero|block.FUA),
		zeroRequest(block.OpWriteZeroes, 1<<20, 4<<20, block.NoHole),
	} {
		if st := d.write(0, bytes.Repeat([]byte{1}, 8<<20), block.FUA); st != block.OK {
			t.Fatal(st)
		}
		full := allocated(t, back)
		d.must(r)
		if freed := full - allocated(t, back); r.Flags&block.NoHole == 0 && freed < 3<<20 {
			t.Errorf("%v flags %x gave %d bytes of 4 MiB back", r.Op, r.Flags, freed)
		}
		if got := d.read(0, 8<<20); r.Op == block.OpWriteZeroes && (bytes.IndexByte(got, 0) != 1<<20 || bytes.LastIndexByte(got, 0) != 5<<20-1) {
			t.Errorf("%v flags %x: zeroes are not where they belong", r.Op, r.Flags)
		}
	}
}

// TestDeviceSize: a device cannot be made another size.
func TestDeviceSize(t *testing.T) {
	path := loopDevice(t, t.TempDir(), 8<<20)
	for _, size := range []uint64{4 << 20, 16 << 20} {
		checkLeaks(t)
		if _, err := File().Open(context.Background(), fileOptions(path, size)); err == nil || !strings.Contains(err.Error(), "remove the option size") {
			t.Errorf("size %d: %v", size, err)
		}
	}
	openDisk(t, File(), fileOptions(path, 8<<20))
}
