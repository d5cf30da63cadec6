//go:build linux

package virtqueue

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"

	"blockengine/engine/sys"
)

// mapped gives n bytes of a file that can be truncated.
func mapped(t *testing.T, n int) ([]byte, *os.File) {
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(n)); err != nil {
		t.Fatal(err)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	m, err := sys.RegisterMapping(t.Name(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Unregister)
	return b, f
}

// TestMemoryVanishes truncates guest memory, or the in-flight region, under a
// queue: every call that touches it becomes an error of a Guard.
func TestMemoryVanishes(t *testing.T) {
	guard := func(f func()) error {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		return sys.Guard(f)
	}
	for name, call := range map[string]func(q *Queue){
		"Pop":      func(q *Queue) { _, _ = q.Pop(make([]Chain, 4)) },
		"Publish":  func(q *Queue) { q.Publish() },
		"Suppress": func(q *Queue) { q.Suppress() },
		"Arm":      func(q *Queue) { q.Arm() },
		"HasWork":  func(q *Queue) { q.HasWork() },
	} {
		t.Run(name, func(t *testing.T) {
			r, f := vanishingRig(t)
			q := r.queueOf(r.tracked())
			r.offer(0, 1)
			q.Push(pop(t, q, 1)[0].Head, 0)
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if err := guard(func() { call(q) }); !errors.Is(err, sys.ErrFault) {
				t.Errorf("error %v", err)
			}
			if q.Outstanding() != 1 {
				t.Errorf("outstanding %d", q.Outstanding())
			}
		})
	}
	t.Run("New", func(t *testing.T) {
		r, f := vanishingRig(t)
		c := r.tracked()
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if err := guard(func() { _, _ = New(c) }); !errors.Is(err, sys.ErrFault) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("region", func(t *testing.T) {
		r := newRig(t, 4, true, 0)
		var f *os.File
		r.region, f = mapped(t, 4096)
		r.set(0, desc{r.buffer(0), 1, 0, 0})
		q := r.queueOf(r.tracked())
		r.offer(0)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if err := guard(func() { _, _ = q.Pop(make([]Chain, 4)) }); !errors.Is(err, sys.ErrFault) {
			t.Errorf("error %v", err)
		}
	})
}

// vanishingRig is a rig of 4 on memory of the file.
func vanishingRig(t *testing.T) (*rig, *os.File) {
	var f *os.File
	r := newRigOn(t, 4, true, 0, func(n int) (b []byte) {
		b, f = mapped(t, n)
		return b
	})
	r.set(0, desc{r.buffer(0), 1, 0, 0})
	r.set(1, desc{r.buffer(1), 1, 0, 0})
	return r, f
}
