package sys

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSealedMemfd(t *testing.T) {
	fd, err := SealedMemfd("test", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	if size, known, err := FileSize(fd); size != 8192 || !known || err != nil {
		t.Errorf("%d bytes, %v, %v", size, known, err)
	}
	for _, size := range []int64{0, 4096, 16384} {
		if err := Truncate(fd, size); err == nil {
			t.Errorf("its size became %d", size)
		}
	}
	if page, err := FilePages(fd); page != os.Getpagesize() || err != nil {
		t.Errorf("pages of %d bytes, %v", page, err)
	}
	b, err := MapShared(fd, 0, 8192)
	if err != nil {
		t.Fatal(err)
	}
	b[8191] = 1
	if err := Unmap(b); err != nil {
		t.Error(err)
	}
}

func TestFilesOfOtherKinds(t *testing.T) {
	null, err := OpenSpare()
	if err != nil {
		t.Fatal(err)
	}
	defer Close(null)
	if _, known, err := FileSize(null); known || err != nil {
		t.Errorf("a device has a size: %v, %v", known, err)
	}
	if _, err := FilePages(-1); err == nil {
		t.Error("no file has pages")
	}
	huge, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skipf("no huge pages here: %v", err)
	}
	defer Close(huge)
	if page, err := FilePages(huge); page <= os.Getpagesize() || err != nil {
		t.Errorf("huge pages of %d bytes, %v", page, err)
	}
}

func TestAdoptEventfd(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC) // blocking
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	if err := AdoptEventfd(fd); err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	if _, e := RawRead(fd, b[:]); e != EAGAIN {
		t.Errorf("reading an empty counter: %v", e)
	}
	for range 2 { // the second time there is nothing to drain
		DrainEventfd(fd)
		if _, e := RawRead(fd, b[:]); e != EAGAIN {
			t.Errorf("reading a drained counter: %v", e)
		}
	}
	EventfdSignal(fd)
	DrainEventfd(fd)
	if _, e := RawRead(fd, b[:]); e != EAGAIN {
		t.Errorf("reading a counter that was drained: %v", e)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, s, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = Close(a), Close(s) }()
	for _, fd := range []int{int(f.Fd()), a, -1, 1 << 20} {
		if err := AdoptEventfd(fd); err == nil {
			t.Errorf("descriptor %d is no eventfd", fd)
		}
	}
}
