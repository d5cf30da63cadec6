package vhostuser

import (
	"os"
	"strings"
	"testing"

	"blockengine/engine/sys"
)

// file makes a file in memory.
func file(t testing.TB, pages int) int {
	t.Helper()
	fd, err := sys.Memfd("test", int64(pages*os.Getpagesize()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Close(fd) })
	return fd
}

func TestMapSlot(t *testing.T) {
	page := uint64(os.Getpagesize())
	fd := file(t, 4)
	for _, c := range []struct {
		r    region
		want string
	}{
		{region{0, 4 * page, 1 << 40, 0}, ""},
		{region{0, 2 * page, 1 << 40, page}, ""},
		{region{0, page, 1 << 40, page + 512}, ""}, // not at a page
		{region{0, 100, 1 << 40, 7}, ""},
		{region{0, 0, 1 << 40, 0}, "empty"},
		{region{0, 4*page + 1, 1 << 40, 0}, "has 16384 bytes only"},
		{region{0, page, 1 << 40, 4 * page}, "bytes only"},
		{region{-page, page + 1, 1 << 40, 0}, "over the end"},
		{region{0, page, 1<<64 - 1, 0}, "over the end"},
		{region{0, page, 1 << 40, 1<<64 - 1}, "over the end"},
		{region{0, 1 << 63, 0, 0}, "bytes only"},
	} {
		s, err := mapSlot("test", c.r, fd)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: %v", c.r, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.r, err)
			continue
		}
		whole, err := sys.MapShared(fd, 0, int(4*page))
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			whole[i] = byte(i % 251)
		}
		if uint64(len(s.host)) != c.r.size || s.host[0] != byte(c.r.offset%251) {
			t.Errorf("%v: %d bytes, the first is %d", c.r, len(s.host), s.host[0])
		}
		_ = sys.Unmap(whole)
		if err := s.unmap(); err != nil {
			t.Error(err)
		}
	}
	if _, err := mapSlot("test", region{0, page, 0, 0}, -1); err == nil {
		t.Error("nothing was mapped")
	}
	null, err := sys.OpenSpare()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(null)
	if _, err := mapSlot("test", region{0, 1 << 63, 0, 0}, null); err == nil {
		t.Error("more than there can be was mapped")
	}
}

func TestMemory(t *testing.T) {
	page := uint64(os.Getpagesize())
	fd := file(t, 8)
	mapped := func(guest, pages, user, offset uint64) *slot {
		s, err := mapSlot("test", region{guest, pages * page, user, offset * page}, fd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.unmap() })
		return s
	}
	a, b := mapped(0, 2, 1<<40, 0), mapped(1<<32, 2, 1<<40+2*page, 2)
	m, err := (&memory{}).with(a, b)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*slot{
		"guest addresses": mapped(page, 1, 1<<30, 4),
		"user addresses":  mapped(1<<36, 1, 1<<40+3*page, 4),
		"all of it":       mapped(1<<36, 2, 1<<40, 4),
	} {
		if _, err := m.with(s); err == nil || !strings.Contains(err.Error(), "overlap") {
			t.Errorf("%s overlap: %v", name, err)
		}
	}
	for _, c := range []struct {
		user, n uint64
		ok      bool
	}{
		{1 << 40, 2 * page, true}, {1 << 40, 2*page + 1, false}, {1<<40 + 2*page, 1, true}, {1<<40 + 2*page - 1, 2, false},
		{1<<40 + 4*page, 1, false}, {1<<40 - 1, 1, false}, {1 << 40, 1<<64 - 1, false}, {1<<40 + 5, 1<<64 - 5, false},
	} {
		b, err := m.at(c.user, c.n)
		if (err == nil) != c.ok || c.ok && uint64(len(b)) != c.n {
			t.Errorf("%d bytes at %#x: %d, %v", c.n, c.user, len(b), err)
		}
	}
	if m.find(region{guest: 0, size: 2 * page, user: 1 << 40, offset: 99}) != a || m.find(region{guest: 0, size: page, user: 1 << 40}) != nil {
		t.Error("a region is found by guest address, user address and size")
	}
	less, err := m.without(a)
	if err != nil || len(less.slots) != 1 || len(m.slots) != 2 || less.slots[0] != b {
		t.Errorf("%v, %v", less, err)
	}
}

// Guest memory that cannot shrink can be given to who serves the disk, with its
// place in the file; the in-flight region cannot.
func TestGuestMemoryIsShareable(t *testing.T) {
	page := os.Getpagesize()
	fd, err := sys.SealedMemfd("test", int64(4*page))
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	s, err := mapSlot("test", region{0, uint64(page), 1 << 40, uint64(2*page + 512)}, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer s.unmap()
	m, at := sys.MappingOf(s.host)
	if m == nil || at != 512 {
		t.Fatalf("%v at %d", m, at)
	}
	err = m.File(func(_ int, offset uint64) error {
		if offset != uint64(2*page) || m.Size() != 2*page {
			t.Errorf("%d bytes at %d of the file", m.Size(), offset)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	other, err := mapArea("test", fd, 0, uint64(page), unshared)
	if err != nil {
		t.Fatal(err)
	}
	defer other.unmap()
	if m, _ := sys.MappingOf(other.host); m == nil || m.Shareable() == nil {
		t.Errorf("%v can be given away", m)
	}
}
