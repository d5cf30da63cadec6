//go:build linux

package virtqueue

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

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

// TestGuestThatScribbles has a guest write anywhere into its rings, tables and
// buffers while the device reads them: what was checked is what is used.
func TestGuestThatScribbles(t *testing.T) {
	r := newRigOn(t, 16, true, 0, anonymous(t))
	stop, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		scribble(r, stop)
	}()
	lives := 20000
	if testing.Short() {
		lives = 2000
	}
	served, refused := 0, 0
	chains := make([]Chain, 16)
	for range lives {
		c := r.config()
		c.LastAvail = UsedIndex(r.used)
		c.MaxChain = 32
		q := r.queueOf(c)
		n, err := q.Pop(chains)
		for i := range chains[:n] {
			r.judge(&chains[i], c.MaxChain, 1)
			q.Push(chains[i].Head, 0)
		}
		if served += n; err != nil {
			refused++
		}
		q.Publish()
		q.Arm()
	}
	close(stop)
	<-ended
	if served == 0 || refused == 0 {
		t.Errorf("%d chains served, %d queues ended: one of them was not tried", served, refused)
	}
}

// scribble writes descriptors that are half right, and indices.
func scribble(r *rig, stop chan bool) {
	rng := rand.New(rand.NewPCG(5, 6))
	for {
		select {
		case <-stop:
			return
		default:
		}
		for range 100 {
			h := uint16(rng.IntN(int(r.size)))
			d := desc{r.buffer(h) + uint64(rng.IntN(64)), uint32(rng.IntN(300)), uint16(rng.IntN(8)), uint16(rng.IntN(17))}
			if d.flags&descIndirect != 0 {
				d.n &^= 15
			}
			put(r.desc, int(h), d)
			put(r.at(r.buffer(h), 1024), rng.IntN(64), d)
			r.avail[ringHeader+availEntry*int(h)] = byte(rng.IntN(17))
			r.setIdx(r.usedIdx() + uint16(rng.IntN(18)))
		}
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
