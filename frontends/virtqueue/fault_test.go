//go:build linux

package virtqueue

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

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

// anonymous memory is not the Go heap's: the race detector leaves it alone, as
// it must, because the other side is no goroutine of ours.
func anonymous(t *testing.T) func(n int) []byte {
	return func(n int) []byte {
		b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Munmap(b) })
		return b
	}
}

// TestNoWakeupIsLost runs both sides at once, each asleep whenever the rules
// allow it: a kick or an interrupt that is missing shows as a standstill.
func TestNoWakeupIsLost(t *testing.T) {
	n := uint16(20000)
	if testing.Short() {
		n = 2000
	}
	for _, eventIdx := range []bool{false, true} {
		r := newRigOn(t, 8, eventIdx, 2, anonymous(t))
		for i := range uint16(8) {
			r.set(i, desc{r.buffer(i), 1, 0, 0})
		}
		kick, call, stop := make(chan bool, 1), make(chan bool, 1), make(chan bool)
		q := r.queueOf(r.tracked())
		ended := make(chan error, 1)
		go func() { ended <- sleepyDevice(q, kick, call, stop) }()
		sleepyDriver(t, r, n, kick, call)
		close(stop)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func signal(c chan bool) {
	select {
	case c <- true:
	default:
	}
}

func sleepyDevice(q *Queue, kick, call, stop chan bool) error {
	chains := make([]Chain, 3)
	for {
		n, err := q.Pop(chains)
		if err != nil {
			return err
		}
		if n == 0 {
			if q.Arm() {
				continue
			}
			select {
			case <-kick:
			case <-stop:
				return nil
			}
			q.Suppress()
			continue
		}
		for i := range chains[:n] {
			q.Push(chains[i].Head, 0)
		}
		if q.Publish() {
			signal(call)
		}
	}
}

// sleepyDriver keeps up to 4 chains out until n have come back.
func sleepyDriver(t *testing.T, r *rig, n uint16, kick, call chan bool) {
	usedIdx, avoid := halfAt(unsafe.Pointer(&r.used[2])), halfAt(unsafe.Pointer(&r.used[0]))
	event := halfAt(unsafe.Pointer(&r.used[ringHeader+usedEntry*int(r.size)]))
	var back uint16
	var fence uint32
	for back != n {
		was := r.idx
		for r.idx-back < 4 && r.idx != n {
			r.avail[ringHeader+availEntry*int(r.idx&7)] = byte(r.idx & 7)
			r.idx++
		}
		r.setIdx(r.idx)
		wants := avoid.load()&usedNoNotify == 0
		if r.eventIdx {
			wants = r.idx-event.load()-1 < r.idx-was
		}
		if wants && r.idx != was {
			signal(kick)
		}
		for usedIdx.load() == back {
			r.setUsedEvent(back)
			atomic.AddUint32(&fence, 1)
			if usedIdx.load() != back {
				break
			}
			select {
			case <-call:
			case <-time.After(20 * time.Second):
				t.Fatalf("nothing moves: %d offered, %d back", r.idx, back)
			}
		}
		back = usedIdx.load()
		runtime.Gosched()
	}
}
