package sys

import (
	"errors"
	"os"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sharedMapping is a sealed file of pages pages, mapped from page skip on.
func sharedMapping(t testing.TB, pages, skip int) (m *Mapping, b []byte) {
	t.Helper()
	page := os.Getpagesize()
	fd, err := SealedMemfd("test", int64(pages*page))
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	if b, err = MapShared(fd, int64(skip*page), (pages-skip)*page); err != nil {
		t.Fatal(err)
	}
	if m, err = RegisterShared("memory of vm1", b, fd, uint64(skip*page)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Unregister()
		_ = Unmap(b)
	})
	return m, b
}

// What lies whole in a mapping is found, with its place.
func TestMappingOf(t *testing.T) {
	m, b := sharedMapping(t, 4, 0)
	for name, c := range map[string]struct {
		b  []byte
		at int // -1: not found
	}{
		"all":             {b, 0},
		"the last byte":   {b[len(b)-1:], len(b) - 1},
		"within":          {b[5000:9000], 5000},
		"of no length":    {b[77:77], 77},
		"beyond the end":  {unsafe.Slice(&b[1], len(b)), -1},
		"other memory":    {make([]byte, 10), -1},
		"nothing at all":  {nil, -1},
		"from before":     {unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(&b[0]), -1)), 2), -1},
		"all but the end": {b[:len(b)-1], 0},
	} {
		got, at := MappingOf(c.b)
		switch {
		case c.at < 0 && got != nil:
			t.Errorf("%s: found at %d", name, at)
		case c.at >= 0 && (got != m || at != uint64(c.at)):
			t.Errorf("%s: %v at %d, wanted %d", name, got, at, c.at)
		}
	}
	if n := testing.AllocsPerRun(100, func() { MappingOf(b[100:]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	m.Unregister()
	if got, _ := MappingOf(b); got != nil {
		t.Error("found after Unregister")
	}
}

// The file that File gives is the one behind the mapping, until Unregister.
func TestMappingFile(t *testing.T) {
	m, b := sharedMapping(t, 3, 1)
	b[7] = 42
	if err := m.Shareable(); err != nil {
		t.Fatal(err)
	}
	open := -1
	err := m.File(func(fd int, offset uint64) error {
		open = fd
		var one [1]byte
		if _, err := unix.Pread(fd, one[:], int64(offset)+7); err != nil || one[0] != 42 {
			t.Errorf("the file holds %v, %v", one, err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the descriptor survives an exec: %#x, %v", flags, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Unregister()
	if _, err := unix.FcntlInt(uintptr(open), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor is open after Unregister: %v", err)
	}
	if err := m.File(func(int, uint64) error { t.Error("called"); return nil }); !errors.Is(err, ErrUnregistered) {
		t.Errorf("File after Unregister: %v", err)
	}
	if err := m.Shareable(); !errors.Is(err, ErrUnregistered) {
		t.Errorf("Shareable after Unregister: %v", err)
	}
}

// A file that can shrink is mapped and guarded as before, and given to nobody.
func TestUnsealedIsNotShared(t *testing.T) {
	page := os.Getpagesize()
	fd, err := Memfd("test", int64(page))
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	b, err := MapShared(fd, 0, page)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(b)
	m, err := RegisterShared("memory of vm1", b, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unregister()
	if m.Shareable() == nil {
		t.Error("it can be given away")
	}
	if err := m.File(func(int, uint64) error { t.Error("called"); return nil }); err == nil {
		t.Error("File gives it")
	}
	if err := Truncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	onReactor(func() {
		if err := Touch([][]byte{b}); !errors.Is(err, ErrFault) {
			t.Errorf("touched what is not there: %v", err)
		}
	})
}

// Who watches is told once, and not after Unwatch.
func TestWatchMapping(t *testing.T) {
	m, _ := sharedMapping(t, 1, 0)
	told := map[string]int{}
	for _, key := range []string{"a", "b", "c"} {
		if !m.Watch(key, func() { told[key]++; _ = m.Shareable() }) {
			t.Error("it has gone already")
		}
	}
	m.Unwatch("b")
	m.Unregister()
	m.Unregister()
	if told["a"] != 1 || told["b"] != 0 || told["c"] != 1 {
		t.Errorf("told: %v", told)
	}
	if m.Watch("d", func() { t.Error("called") }) {
		t.Error("watched after Unregister")
	}
}

// Whoever uses the file while the mapping goes has it or has not; what the
// descriptor's number means by then is not used.
func TestFileWhileUnregistered(t *testing.T) {
	for range 50 {
		m, _ := sharedMapping(t, 1, 0)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					err := m.File(func(fd int, _ uint64) error {
						_, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
						return err
					})
					if errors.Is(err, ErrUnregistered) {
						return
					}
					if err != nil {
						t.Errorf("a descriptor of something else: %v", err)
						return
					}
				}
			})
		}
		wg.Go(m.Unregister)
		wg.Wait()
	}
}

// No two mappings have the same number, one after the other at the same place.
func TestMappingNumbers(t *testing.T) {
	b := make([]byte, os.Getpagesize())
	seen := map[uint64]bool{0: true}
	for range 100 {
		m, err := RegisterMapping("x", b)
		if err != nil {
			t.Fatal(err)
		}
		if seen[m.Number()] {
			t.Fatalf("number %d again", m.Number())
		}
		seen[m.Number()] = true
		m.Unregister()
	}
}

// Touch has every page there, from whichever byte on, and allocates nothing.
func TestTouch(t *testing.T) {
	_, b := sharedMapping(t, 8, 0)
	page := os.Getpagesize()
	pieces := [][]byte{b[page-1 : page+1], nil, b[5*page : 7*page]}
	onReactor(func() {
		if err := Touch(pieces); err != nil {
			t.Error(err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = Touch(pieces) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
	there := make([]byte, 8)
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&there[0]))); e != 0 {
		t.Fatal(e)
	}
	for i, want := range []byte{1, 1, 0, 0, 0, 1, 1, 0} {
		if there[i]&1 != want {
			t.Errorf("page %d is there: %v", i, there)
		}
	}
}
