package iouring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// guest is a user of a hub that notes what it is told.
type guest struct {
	*User
	got     []CQE
	batches int
	err     error
	reap    func(c CQE) // nil: nothing more
}

func (g *guest) Reap(c CQE) {
	g.got = append(g.got, c)
	if g.reap != nil {
		g.reap(c)
	}
}
func (g *guest) Reaped()          { g.batches++ }
func (g *guest) Failed(err error) { g.err = err }

func (g *guest) nops(n int) {
	for range n {
		e := g.Get(uint64(len(g.got)))
		e.Opcode = sys.UringOpNop
	}
}

// stage is a hub on a reactor that does not run: the test is its thread, and
// turns it by hand.
type stage struct {
	t testing.TB
	r *reactor.Reactor
	h *Hub
}

func newStage(t testing.TB, o Options) *stage {
	t.Helper()
	own(t)
	need(t, Options{Entries: 1})
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHub(r, o)
	if err != nil {
		t.Fatal(err)
	}
	return &stage{t: t, r: r, h: h}
}

func (s *stage) join(slow bool) *guest {
	s.t.Helper()
	g := &guest{}
	var err error
	if g.User, err = s.h.Join(g, slow); err != nil {
		s.t.Fatal(err)
	}
	return g
}

// turn ends a turn and looks for what has come, as a reactor would.
func (s *stage) turn() {
	s.h.turn()
	for s.h.src.look() {
	}
}

// open tells whether the ring is.
func (s *stage) open() bool { return s.h.src.Ring != nil }

// Each user gets what is its own, all of it and in order, however much more than
// the ring has room for they fill in.
func TestHubUsers(t *testing.T) {
	s := newStage(t, Options{Entries: 4, Completions: 8})
	a, b, c := s.join(false), s.join(true), s.join(false)
	for round := range 20 {
		for i := range 30 {
			for k, g := range []*guest{a, b, c} {
				e := g.Get(uint64(round*30+i) | uint64(k)<<40)
				e.Opcode = sys.UringOpNop
			}
		}
		for len(c.got) < (round+1)*30 {
			s.turn()
		}
	}
	for k, g := range []*guest{a, b, c} {
		if len(g.got) != 600 || g.batches == 0 || g.Outstanding() != 0 {
			t.Fatalf("user %d has %d completions in %d batches, %d outstanding", k, len(g.got), g.batches, g.Outstanding())
		}
		for i, cqe := range g.got {
			if cqe.UserData != uint64(i)|uint64(k)<<40 || cqe.Res != 0 {
				t.Fatalf("user %d, completion %d: %+v", k, i, cqe)
			}
		}
	}
	if s.h.src.slow || s.h.slow != 0 {
		t.Errorf("%d entries that may block are under way", s.h.slow)
	}
	for _, g := range []*guest{a, b, c} {
		if !s.open() {
			t.Fatal("the ring was closed before its last user had left")
		}
		g.Leave(nil)
		g.Leave(nil)
	}
	if s.open() {
		t.Error("the ring is open though all have left")
	}
	s.h.turn() // what was deferred finds it closed
}

// A reactor has one hub, and another one after that has ended.
func TestHubOf(t *testing.T) {
	own(t)
	need(t, Options{Entries: 1})
	r := start(t, 0)
	r.Do(func() {
		first, err := Of(r)
		if err != nil {
			t.Error(err)
			return
		}
		again, _ := Of(r)
		if again != first {
			t.Error("two hubs on one reactor")
		}
		g := &guest{}
		g.User, _ = first.Join(g, false)
		if g.Hub() != first {
			t.Error("the user is another hub's")
		}
		g.Leave(nil)
		next, err := Of(r)
		if err != nil || next == first {
			t.Errorf("%v: the hub that has ended is given out again: %v", err, next == first)
			return
		}
		g.User, _ = next.Join(g, false)
		g.Leave(nil)
	})
}

// readOf fills in a read of one byte of a pipe.
func readOf(e *SQE, fd int, to []byte) {
	e.Opcode, e.Fd, e.Addr, e.Len, e.Off = sys.UringOpRead, int32(fd), uint64(uintptr(unsafe.Pointer(&to[0]))), 1, ^uint64(0)
}

func newPipe(t testing.TB) (pipe [2]int) {
	t.Helper()
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(pipe[0]); syscall.Close(pipe[1]) })
	return pipe
}

func mapped4k(t testing.TB) []byte {
	t.Helper()
	mem, err := sys.MapMemory(4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Unmap(mem) })
	return mem
}

// Who leaves is told when the kernel has let go of what it was given, and hears
// nothing else any more.
func TestHubLeave(t *testing.T) {
	s := newStage(t, Options{Entries: 4})
	g, other := s.join(false), s.join(false)
	pipe, mem, over := newPipe(t), mapped4k(t), 0
	readOf(g.Get(1), pipe[0], mem)
	s.turn()
	g.Leave(func() { over++ })
	other.nops(3)
	s.turn()
	if over != 0 || len(g.got) != 0 || len(other.got) != 3 {
		t.Fatalf("over %d times, %d and %d completions, while a read is under way", over, len(g.got), len(other.got))
	}
	if _, err := syscall.Write(pipe[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); over == 0 && time.Now().Before(end); {
		s.turn()
	}
	if over != 1 || len(g.got) != 0 || mem[0] != 'x' {
		t.Fatalf("over %d times, %d completions, %q", over, len(g.got), mem[0])
	}
	if g = s.join(false); g.index != 0 {
		t.Errorf("the place of one who has left is not used again")
	}
	g.nops(1)
	s.turn()
	if len(g.got) != 1 {
		t.Errorf("%d completions in a place that was used before", len(g.got))
	}
	g.Leave(nil)
	other.Leave(nil)
}

// What only the end of the ring ends is over when the last user has left, and
// nobody new comes to such a ring.
func TestHubAbandon(t *testing.T) {
	s := newStage(t, Options{Entries: 4})
	s.r.Share(hubKey{}, s.h)
	g, other := s.join(true), s.join(false)
	pipe, mem, over := newPipe(t), mapped4k(t), 0
	readOf(g.Get(1), pipe[0], mem)
	readOf(g.Get(2), pipe[0], mem)
	s.turn()
	g.Abandon(func() { over++ })
	g.Abandon(nil)
	if s.h.slow != 0 || over != 0 || !s.open() {
		t.Fatalf("%d slow entries, over %d times, open %v", s.h.slow, over, s.open())
	}
	next, err := Of(s.r)
	if err != nil || next == s.h {
		t.Fatalf("%v: a hub with abandoned entries is given out: %v", err, next == s.h)
	}
	if _, err := syscall.Write(pipe[1], []byte("x")); err != nil { // ends one of them
		t.Fatal(err)
	}
	other.nops(2)
	for len(other.got) < 2 {
		s.turn()
	}
	other.Leave(nil)
	if over != 1 || s.open() || len(g.got) != 0 {
		t.Errorf("over %d times, open %v, %d completions", over, s.open(), len(g.got))
	}
	g.User, _ = next.Join(g, false)
	if now, _ := Of(s.r); now != next {
		t.Error("the end of the old hub withdrew the new one")
	}
	g.Leave(nil)
}

// A user may leave while it is told of a completion, and the ring end with it.
func TestHubLeaveWithin(t *testing.T) {
	s := newStage(t, Options{Entries: 8})
	g := s.join(true)
	g.reap = func(CQE) {
		if len(g.got) == 3 {
			g.Leave(nil)
		}
	}
	g.nops(3)
	s.turn()
	if len(g.got) != 3 || s.open() {
		t.Errorf("%d completions, open %v", len(g.got), s.open())
	}
}

// A hub wakes its reactor, whether that sleeps or spins, and each time.
func TestHubWakes(t *testing.T) {
	need(t, Options{Entries: 1})
	for name, spin := range map[string]time.Duration{"asleep": 0, "spinning": time.Hour} {
		t.Run(name, func(t *testing.T) {
			const n = 200
			r := start(t, spin)
			pipe, mem := newPipe(t), mapped4k(t)
			got := make(chan byte, n)
			g := &guest{}
			g.reap = func(c CQE) {
				if c.Res != 1 || c.UserData != uint64(len(g.got)) {
					close(got)
					return
				}
				got <- mem[0]
				if len(g.got) < n {
					readOf(g.Get(uint64(len(g.got)+1)), pipe[0], mem)
				}
			}
			var err error
			r.Do(func() {
				var h *Hub
				if h, err = Of(r); err == nil {
					if g.User, err = h.Join(g, true); err == nil {
						readOf(g.Get(1), pipe[0], mem)
					}
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
				case b, ok := <-got:
					if !ok || b != byte(i) {
						t.Fatalf("%d: %d, %v", i, b, ok)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("nobody was told of byte %d", i)
				}
			}
			r.Do(func() { g.Leave(nil) })
		})
	}
}

// Turns of a hub allocate nothing, those neither in which the ring is too small.
func TestHubAllocatesNothing(t *testing.T) {
	s := newStage(t, Options{Entries: 8, Completions: 64})
	a, b := s.join(false), s.join(true)
	round := func() {
		a.got, b.got = a.got[:0], b.got[:0]
		a.nops(10)
		b.nops(10)
		for len(a.got) < 10 || len(b.got) < 10 {
			s.turn()
		}
	}
	if per := testing.AllocsPerRun(100, round); per != 0 {
		t.Errorf("%v allocations in a turn", per)
	}
	a.Leave(nil)
	b.Leave(nil)
}

// A ring that fails is told to all who are there.
func TestHubFails(t *testing.T) {
	s := newStage(t, Options{Entries: 4})
	a, b := s.join(false), s.join(false)
	want := errors.New("the ring fails")
	s.h.failed(want)
	if a.err != want || b.err != want {
		t.Errorf("%v, %v", a.err, b.err)
	}
	a.Leave(nil)
	b.Leave(nil)
}

// Files are used by index, and an index again after it was given back.
func TestHubFiles(t *testing.T) {
	s := newStage(t, Options{Entries: 4})
	g := s.join(true)
	mem := mapped4k(t)
	dir := t.TempDir()
	for round := range 3 {
		var files [2]*os.File
		var at [2]int
		for i := range files {
			name := filepath.Join(dir, string(rune('a'+i)))
			if err := os.WriteFile(name, []byte{byte(10*round + i)}, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if files[i] = f; err != nil {
				t.Fatal(err)
			}
			if at[i], err = s.h.RegisterFile(int(f.Fd())); err != nil || at[i] != i {
				t.Fatalf("%v: file %d is at %d", err, i, at[i])
			}
		}
		for i := range files {
			e := g.Get(uint64(i))
			readOf(e, at[i], mem[i:])
			e.Flags, e.Off = sys.UringFixedFile, 0
		}
		g.got = g.got[:0]
		for len(g.got) < 2 {
			s.turn()
		}
		if want := []byte{byte(10 * round), byte(10*round + 1)}; !bytes.Equal(mem[:2], want) {
			t.Fatalf("%v: read %v, want %v", g.got, mem[:2], want)
		}
		for _, i := range at {
			if err := s.h.UnregisterFile(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.h.RegisterFile(-7); err == nil || s.h.files.used() != 0 {
		t.Errorf("%v: a file that is none is registered, %d are", err, s.h.files.used())
	}
	g.Leave(nil)
}

// Places of the table of buffers are given out in rows, and are empty.
func TestHubBuffers(t *testing.T) {
	s := newStage(t, Options{Entries: 4})
	g := s.join(true)
	a, err := s.h.ReserveBuffers(100)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.h.ReserveBuffers(tableBuffers - 100)
	if err != nil || a != 0 || b != 100 {
		t.Fatalf("%v: rows at %d and %d", err, a, b)
	}
	if _, err := s.h.ReserveBuffers(1); err == nil {
		t.Error("there is room in a full table")
	}
	if err := s.h.ReturnBuffers(a, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := s.h.ReserveBuffers(101); err == nil {
		t.Error("there is room for more than was given back")
	}
	if a, err = s.h.ReserveBuffers(40); err != nil || a != 0 {
		t.Fatalf("%v: a row at %d", err, a)
	}
	f, err := os.Open("hub_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e := g.Get(0)
	e.Opcode, e.Fd, e.Len, e.BufIndex = sys.UringOpReadFix, int32(f.Fd()), 1, uint16(a)
	for len(g.got) == 0 {
		s.turn()
	}
	if g.got[0].Res != -int32(syscall.EFAULT) {
		t.Errorf("a read into an empty place: %+v", g.got[0])
	}
	g.Leave(nil)
}
