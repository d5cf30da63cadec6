package builtin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"blockengine/sdk/store"
)

// A file that somebody has made larger, or smaller, is seen when it is looked at,
// and not before; it is the same disk.
func TestRescan(t *testing.T) {
	for _, direct := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "disk")
		resize := func(n int64) {
			t.Helper()
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		resize(1 << 20)
		dev, err := File().Open(context.Background(), store.Options{Volume: "v", Strings: map[string]string{"path": path}, Bools: map[string]bool{"direct": direct}})
		if err != nil && direct {
			continue // its file system has no direct I/O
		}
		if err != nil {
			t.Fatal(err)
		}
		first := dev.Info()
		for _, size := range []int64{2 << 20, 3<<20 + 5, 512 << 10} {
			before := dev.Info()
			resize(size)
			if now := dev.Info(); now != before {
				t.Errorf("nobody has looked, and it is %+v", now)
			}
			if err := dev.(store.Rescanner).Rescan(context.Background()); err != nil {
				t.Fatal(err)
			}
			want := first
			want.Size = uint64(size) - uint64(size)%uint64(first.BlockSize)
			if now := dev.Info(); now != want {
				t.Errorf("direct %t: with %d bytes it is %+v, want %+v", direct, size, now, want)
			}
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A block device that has grown is the same device, also for who opens it anew.
func TestRescanBlockDevice(t *testing.T) {
	dir := t.TempDir()
	path := loopDevice(t, dir, 8<<20)
	if _, err := os.Stat(filepath.Join("/sys/block", filepath.Base(path), "diskseq")); err != nil {
		t.Skip("this kernel does not number its disks (diskseq, from 5.15 on)")
	}
	o := store.Options{Volume: "v", Strings: map[string]string{"path": path}}
	dev, err := File().Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "back"), 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := dev.Info()
	want.Size = 16 << 20
	if err := dev.(store.Rescanner).Rescan(context.Background()); err != nil || dev.Info() != want {
		t.Errorf("%+v, %v, want %+v", dev.Info(), err, want)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	if dev, err = File().Open(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if dev.Info() != want {
		t.Errorf("opened anew %+v, want %+v", dev.Info(), want)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}
