package worker

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
	"blockengine/sdk/store"
)

// guestFile is what a virtual machine's memory could be: a file, mapped here, too.
func guestFile(t testing.TB, size int) (f *os.File, b []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "guest memory"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	if b, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	return f, b
}

// mappedTimes counts a file's mappings of this process.
func mappedTimes(t testing.TB, f *os.File) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte(f.Name()))
}

func startWith(t *testing.T, e *engine, k *keeper, m *Memory) *Worker {
	t.Helper()
	w, err := Channel(k, e.files, e.layout, Options{Memory: m})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A payload lies where its pieces say, in several mappings; the next one of the
// slot lies in the buffer again.
func TestPayloadInPieces(t *testing.T) {
	e, k, m := storeEngine(t), newKeeper(), NewMemory()
	f, guest := guestFile(t, 5*4096)
	for number, offset := range map[uint64]uint64{1 << 40: 0, 7: 4096} {
		if err := m.Map(number, int(f.Fd()), offset, 4*4096); err != nil {
			t.Fatal(err)
		}
	}
	w := startWith(t, e, k, m)
	copy(e.Pieces(3), []ring.Piece{{Memory: 7, Offset: 4096, Length: 512}, {Memory: 1 << 40, Offset: 1, Length: 4095}, {Memory: 7, Offset: 4*4096 - 1, Length: 1}})
	e.submit(ring.Submission{Slot: 3, Op: uint8(block.OpRead), Length: 4608, Pieces: 3})
	r := k.take(t)
	want := [][]byte{guest[8192:8704], guest[1:4096], guest[5*4096-1:]}
	if len(r.Data) != len(want) {
		t.Fatalf("%d pieces, wanted %d", len(r.Data), len(want))
	}
	for i, piece := range r.Data {
		copy(piece, bytes.Repeat([]byte{byte(i + 1)}, len(piece)))
		if len(piece) != len(want[i]) || cap(piece) != len(piece) || want[i][0] != byte(i+1) || want[i][len(want[i])-1] != byte(i+1) {
			t.Errorf("piece %d of %d bytes (%d) lies elsewhere", i, len(piece), cap(piece))
		}
	}
	r.Filled = r.Length
	k.done.Post([]*block.Request{r})
	if c := e.completion(); c != (ring.Completion{Slot: 3, Filled: 4608}) {
		t.Errorf("it ended as %+v", c)
	}
	e.submit(ring.Submission{Slot: 3, Op: uint8(block.OpWrite), Length: 100})
	r = k.take(t)
	if r.Data[0][0] = 99; len(r.Data) != 1 || e.Buffer(3)[0] != 99 {
		t.Error("the next payload does not lie in the buffer")
	}
	k.done.Post([]*block.Request{r})
	e.completion()
	w.Close()
}

// Memory is unmapped when it is forgotten, and no request lies in it.
func TestForget(t *testing.T) {
	e, k, m := storeEngine(t), newKeeper(), NewMemory()
	f, _ := guestFile(t, 4096)
	if err := m.Map(1, int(f.Fd()), 0, 4096); err != nil {
		t.Fatal(err)
	}
	if err := m.Map(1, int(f.Fd()), 0, 4096); err == nil {
		t.Error("the same number again")
	}
	w := startWith(t, e, k, m)
	e.Pieces(0)[0] = ring.Piece{Memory: 1, Length: 4096}
	e.submit(ring.Submission{Op: uint8(block.OpWrite), Length: 4096, Pieces: 1})
	r := k.take(t)
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.Forget(soon, 1); !errors.Is(err, context.DeadlineExceeded) || mappedTimes(t, f) != 2 {
		t.Errorf("forgotten while a request lies in it: %v, mapped %d times", err, mappedTimes(t, f))
	}
	k.done.Post([]*block.Request{r})
	e.completion()
	for end := time.Now().Add(patience); mappedTimes(t, f) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it stays mapped")
		}
	}
	if err := m.Map(2, int(f.Fd()), 0, 4096); err != nil {
		t.Fatal(err)
	}
	if err := m.Forget(t.Context(), 2); err != nil || mappedTimes(t, f) != 1 {
		t.Errorf("%v, mapped %d times", err, mappedTimes(t, f))
	}
	if err := m.Forget(t.Context(), 2); err != nil {
		t.Errorf("forgotten twice: %v", err)
	}
	w.Close()
}

// What the engine must not name is refused.
func TestBorrow(t *testing.T) {
	m := NewMemory()
	f, _ := guestFile(t, 8192)
	if err := m.Map(1, int(f.Fd()), 0, 8192); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]ring.Piece{
		"unknown": {Memory: 2, Length: 1}, "too long": {Memory: 1, Offset: 8191, Length: 2}, "beyond": {Memory: 1, Offset: 9000, Length: 1},
		"around": {Memory: 1, Offset: 1<<64 - 1, Length: 4096},
	} {
		if _, _, err := m.borrow([]ring.Piece{p}, nil, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, _, err := (*Memory)(nil).borrow(make([]ring.Piece, 1), nil, nil); err == nil {
		t.Error("taken where there is none")
	}
	if err := m.Map(3, int(f.Fd()), 0, 0); err == nil {
		t.Error("mapped nothing")
	}
	if err := m.Map(3, int(f.Fd()), 1<<63, 4096); err == nil {
		t.Error("mapped from beyond what an offset can be")
	}
}

// toucher is a disk whose channel looks at a write's last byte within Submit.
type toucher struct{ *keeper }

func (d toucher) Channel(store.Completer) (store.Channel, error) { return toucherChannel{}, nil }

type toucherChannel struct{}

func (toucherChannel) Submit(batch []*block.Request) {
	last := batch[0].Data[len(batch[0].Data)-1]
	os.Exit(100 + int(last[len(last)-1]))
}
func (toucherChannel) Close() {}

const touchVanished = "BLOCKENGINE_TEST_VANISHED"

// Memory that is taken away under a request ends the process with a line that says so.
func TestVanishedMemoryEndsTheProcess(t *testing.T) {
	if os.Getenv(touchVanished) != "" {
		e, m := storeEngine(t), NewMemory()
		f, _ := guestFile(t, 8192)
		if err := m.Map(1, int(f.Fd()), 0, 8192); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := Channel(toucher{newKeeper()}, e.files, e.layout, Options{Memory: m}); err != nil {
			t.Fatal(err)
		}
		e.Pieces(0)[0] = ring.Piece{Memory: 1, Length: 8192}
		e.submit(ring.Submission{Op: uint8(block.OpWrite), Length: 8192, Pieces: 1})
		select {}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestVanishedMemoryEndsTheProcess$", "-test.timeout=20s")
	cmd.Env = append(os.Environ(), touchVanished+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "memory of a virtual machine cannot be accessed") {
		t.Errorf("%v: %s", err, out)
	}
}
