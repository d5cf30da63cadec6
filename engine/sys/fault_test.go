package sys

import (
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vanishing is a memfd of pages pages, mapped and registered, which truncate
// takes away from a page on.
func vanishing(t testing.TB, name string, pages int) (b []byte, truncate func(pages int)) {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	truncate = func(pages int) {
		if err := unix.Ftruncate(fd, int64(pages*page)); err != nil {
			t.Fatal(err)
		}
	}
	truncate(pages)
	if b, err = unix.Mmap(fd, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	m, err := RegisterMapping(name, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Unregister()
		_ = unix.Munmap(b)
		_ = unix.Close(fd)
	})
	return b, truncate
}

// onReactor runs f as a reactor would: on a goroutine on which faults panic.
func onReactor(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		debug.SetPanicOnFault(true)
		f()
	})
	wg.Wait()
}

func TestGuardOfVanishedMemory(t *testing.T) {
	page := os.Getpagesize()
	b, truncate := vanishing(t, "guest memory of vm1", 4)
	truncate(2)
	private := make([]byte, 4*page)
	for name, c := range map[string]struct {
		f  func()
		at int // the first page that the fault can be in, -1: none
	}{
		"load":               {func() { private[0] = b[2*page] }, 2},
		"store":              {func() { b[3*page+5] = 1 }, 3},
		"copy out":           {func() { copy(private, b) }, 2},
		"copy in":            {func() { copy(b[page:], private[:3*page]) }, 2},
		"clear":              {func() { clear(b[page:]) }, 2},
		"what is there":      {func() { copy(private, b[:2*page]); b[0] = 1 }, -1},
		"within another one": {func() { _ = Guard(func() { b[2*page] = 1 }) }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			onReactor(func() {
				err := Guard(c.f)
				if c.at < 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var fault *FaultError
				if !errors.As(err, &fault) || !errors.Is(err, ErrFault) || !errors.Is(err, EFAULT) {
					t.Fatalf("got %v", err)
				}
				if int(fault.Offset)/page < c.at || fault.Mapping.Name() != "guest memory of vm1" {
					t.Errorf("at byte %d, page %d: %v", fault.Offset, int(fault.Offset)/page, err)
				}
				if !strings.Contains(err.Error(), "guest memory of vm1") || !strings.Contains(err.Error(), "truncated") {
					t.Errorf("the text is %q", err)
				}
			})
		})
	}
}

// What is no fault in a registered mapping goes on as the panic that it was.
func TestGuardLetsOtherPanicsPass(t *testing.T) {
	b, truncate := vanishing(t, "registered", 1)
	truncate(0)
	stranger, takeAway := vanishing(t, "unregistered", 1)
	takeAway(0)
	for _, m := range registered() {
		if m.name == "unregistered" {
			m.Unregister()
			m.Unregister() // does nothing
		}
	}
	own := errors.New("own")
	var none *[8]byte
	for name, f := range map[string]func(){
		"an own panic":       func() { panic(own) },
		"a nil pointer":      func() { none[1] = 1 },
		"an index":           func() { b[len(b)+len(none)-8] = 1 },
		"a fault of others":  func() { stranger[0] = 1 },
		"not in the mapping": func() { panic("fault") },
	} {
		t.Run(name, func(t *testing.T) {
			onReactor(func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic did not pass")
					}
				}()
				t.Errorf("it became an error: %v", Guard(f))
			})
		})
	}
}

func TestRegistry(t *testing.T) {
	b := heapBytes(100)
	at := func(i int) string {
		base := mappingBase(b)
		if m := mappingAt(base + uintptr(i)); m != nil {
			return m.name
		}
		return ""
	}
	add := func(name string, from, to int) *Mapping {
		m, err := RegisterMapping(name, b[from:to])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	middle, last, first := add("middle", 30, 60), add("last", 80, 90), add("first", 10, 30)
	for i, want := range map[int]string{9: "", 10: "first", 29: "first", 30: "middle", 59: "middle", 60: "", 79: "", 80: "last", 89: "last", 90: ""} {
		if got := at(i); got != want {
			t.Errorf("byte %d is in %q, want %q", i, got, want)
		}
	}
	for _, r := range [][2]int{{30, 60}, {29, 30}, {59, 61}, {0, 100}, {40, 41}, {60, 81}, {89, 95}} {
		if _, err := RegisterMapping("again", b[r[0]:r[1]]); err == nil || !strings.Contains(err.Error(), "overlaps") {
			t.Errorf("[%d, %d) was registered over what is there: %v", r[0], r[1], err)
		}
	}
	if _, err := RegisterMapping("empty", nil); err == nil {
		t.Error("nothing was registered")
	}
	middle.Unregister()
	if at(40) != "" || at(20) != "first" || at(85) != "last" {
		t.Error("the wrong one was unregistered")
	}
	add("new", 30, 80).Unregister()
	first.Unregister()
	last.Unregister()
	if at(20) != "" || at(85) != "" {
		t.Error("it is still there")
	}
}

// Look-ups go on while others register and unregister.
func TestRegistryWhileItChanges(t *testing.T) {
	b := heapBytes(1000)
	base := mappingBase(b)
	fixed, err := RegisterMapping("fixed", b[500:510])
	if err != nil {
		t.Fatal(err)
	}
	defer fixed.Unregister()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 300 {
				m, err := RegisterMapping("", b[i*10:i*10+10])
				if err != nil {
					t.Error(err)
					return
				}
				if mappingAt(base+505) != fixed || mappingAt(base+uintptr(i*10)) != m {
					t.Error("a registered mapping was not found")
				}
				m.Unregister()
			}
		})
	}
	wg.Wait()
}

func TestFirstBadIovec(t *testing.T) {
	page := os.Getpagesize()
	b, truncate := vanishing(t, "vanishing", 4)
	heap := make([]byte, 3*page)
	pieces := func(bs ...[]byte) []Iovec {
		v := make([]Iovec, len(bs))
		for i, b := range bs {
			if len(b) > 0 {
				SetIovec(&v[i], b)
			}
		}
		return v
	}
	v := pieces(heap, nil, b[:2*page], b[page+7:2*page+1], b[3*page:])
	if i := FirstBadIovec(v); i != -1 {
		t.Errorf("all is there, and piece %d is bad", i)
	}
	truncate(2)
	for want, v := range map[int][]Iovec{
		-1: pieces(heap, nil, b[:2*page], heap[1:1]),
		0:  pieces(b, heap),
		2:  pieces(heap, b[:2*page], b[2*page-1:2*page+1], b[3*page:]), // one byte beyond
		3:  v,
	} {
		if i := FirstBadIovec(v); i != want {
			t.Errorf("piece %d is bad, want %d", i, want)
		}
	}
	if i := FirstBadIovec(pieces(b[page+1 : 4*page])); i != 0 {
		t.Error("pages in the middle of a piece are not looked at")
	}
}

// The way that it is meant for: writev fails as a whole, the culprit is left
// out, the rest goes.
func TestWritevWithoutTheCulprit(t *testing.T) {
	r, w, err := SocketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = Close(r), Close(w) }()
	b, truncate := vanishing(t, "vanishing", 1)
	truncate(0)
	parts := [][]byte{b[:10], []byte("rest")}
	v := make([]Iovec, 2)
	for i := range v {
		SetIovec(&v[i], parts[i])
	}
	if n, e := RawWritev(w, v); e != EFAULT {
		t.Fatalf("writev gave %d, %v", n, e)
	}
	i := FirstBadIovec(v)
	if i != 0 {
		t.Fatalf("the culprit is %d", i)
	}
	if n, e := RawWritev(w, slices.Delete(v, i, i+1)); n != 4 || e != 0 {
		t.Fatalf("the rest gave %d, %v", n, e)
	}
	got := make([]byte, 10)
	if n, _ := RawRead(r, got); string(got[:n]) != "rest" {
		t.Errorf("%q arrived", got[:n])
	}
}

func TestGuardAllocatesNothing(t *testing.T) {
	b := make([]byte, 8)
	if n := testing.AllocsPerRun(100, func() { _ = Guard(func() { b[0]++ }) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGuard(b *testing.B) {
	x := 0
	for b.Loop() {
		_ = Guard(func() { x++ })
	}
}

// heapBytes gives memory that does not move, as a stack would.
func heapBytes(n int) []byte {
	b := make([]byte, n)
	escaped = b
	return b
}

var escaped []byte

func mappingBase(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
