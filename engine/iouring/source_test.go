package iouring

import (
	"syscall"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// start gives a running reactor.
func start(t testing.TB, spin time.Duration) *reactor.Reactor {
	t.Helper()
	r, err := reactor.New(reactor.Options{Spin: spin})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// reader reads a pipe by a ring, again and again.
type reader struct {
	*Source
	fd   int
	mem  []byte
	got  chan byte
	left int
}

func (x *reader) read() {
	e := x.Get()
	e.Opcode, e.Fd, e.Addr, e.Len, e.Off = sys.UringOpRead, int32(x.fd), uint64(uintptr(unsafe.Pointer(&x.mem[0]))), 1, ^uint64(0)
}

func (x *reader) reap(c CQE) {
	if c.Res != 1 {
		close(x.got)
		return
	}
	x.got <- x.mem[0]
	if x.left--; x.left > 0 {
		x.read()
		x.Flush()
	}
}

// A reactor is woken by its ring, whether it sleeps or spins, and each time.
func TestSource(t *testing.T) {
	need(t, Options{Entries: 1})
	for name, spin := range map[string]time.Duration{"asleep": 0, "spinning": time.Hour} {
		t.Run(name, func(t *testing.T) {
			const n = 200
			r := start(t, spin)
			var pipe [2]int
			if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(pipe[0])
			defer syscall.Close(pipe[1])
			mem, err := sys.MapMemory(4096)
			if err != nil {
				t.Fatal(err)
			}
			x := &reader{fd: pipe[0], mem: mem, got: make(chan byte, n), left: n}
			r.Do(func() {
				x.Source, err = NewSource(r, Options{Entries: 4}, Events{2, x.reap, func() {}, func(err error) { t.Error(err) }})
				if err == nil {
					x.read()
					x.Flush()
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if _, err := syscall.Write(pipe[1], []byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				select {
				case b, ok := <-x.got:
					if !ok || b != byte(i) {
						t.Fatalf("%d: %d, %v", i, b, ok)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("nobody was told of byte %d", i)
				}
			}
			r.Do(func() { x.Close(); x.Close() })
		})
	}
}

// A turn of a ring allocates nothing.
func TestSourceAllocatesNothing(t *testing.T) {
	own(t)
	need(t, Options{Entries: 1})
	r, err := reactor.New(reactor.Options{}) // not running: the test is its thread
	if err != nil {
		t.Fatal(err)
	}
	n, batches := 0, 0
	s, err := NewSource(r, Options{Entries: 8}, Events{8, func(CQE) { n++ }, func() { batches++ }, func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	per := testing.AllocsPerRun(100, func() {
		for range 8 {
			s.Get().UserData = 1
		}
		s.Flush()
		for s.look() {
		}
	})
	if per != 0 || n != 101*8 || batches != 101 {
		t.Errorf("%v allocations in a turn, %d reaped", per, n)
	}
}
