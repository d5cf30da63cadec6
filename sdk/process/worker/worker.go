package worker

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"blockengine/sdk/process/ring"
)

// Files are the descriptors of a region, in the order in which the engine
// passes them.
type Files struct {
	Memory int // the region, ring.Layout.Size() bytes
	Bell   int // the event counter that wakes the engine; non-blocking
}

// FilesOf names the descriptors that came for a region. They are the worker's
// from Channel or Machine on, also if that fails.
func FilesOf(fds []int) (Files, error) {
	if len(fds) != 2 {
		return Files{}, fmt.Errorf("%d descriptors came for a region: 2, its memory and its event counter", len(fds))
	}
	return Files{Memory: fds[0], Bell: fds[1]}, nil
}

// close gives the descriptors back.
func (f Files) close() {
	_ = syscall.Close(f.Memory)
	_ = syscall.Close(f.Bell)
}

// Options are the same for all workers of a process.
type Options struct {
	// Spin is how long a worker looks for more before it sleeps; 0: not at all.
	Spin time.Duration
	// Memory is what requests' payload may lie in besides their region; nil: none.
	Memory *Memory
}

// Worker serves one region: a goroutine of its own calls the plugin, and sleeps
// in the kernel when there is nothing to do.
type Worker struct {
	region *ring.Region
	files  Files
	mem    []byte
	memory *Memory
	taken  uint32 // submissions, or calls, so far
	lonely uint32 // so many times running there was one only

	spin  int64  // ns: how long to look before sleeping
	skip  uint32 // so many times it is not looked
	skips uint32 // when it was last looked in vain, so many were to be skipped

	closing atomic.Bool
	ended   chan struct{} // closed by the goroutine
}

// ringServer is what a worker serves a region with.
type ringServer interface {
	// serve handles what has come up to tail.
	serve(tail uint32)
	// finish waits until what the plugin holds has ended.
	finish()
}

// newWorker maps the region. The descriptors are its own, also if it fails.
func newWorker(f Files, l ring.Layout, o Options) (*Worker, error) {
	w := &Worker{files: f, memory: o.Memory, spin: int64(o.Spin), ended: make(chan struct{})}
	if err := w.attach(l); err != nil {
		w.free()
		return nil, err
	}
	addWorker()
	return w, nil
}

func (w *Worker) attach(l ring.Layout) (err error) {
	if err = l.Check(); err != nil {
		return err
	}
	var st syscall.Stat_t
	if err = syscall.Fstat(w.files.Memory, &st); err != nil {
		return fmt.Errorf("the shared memory's size: %w", err)
	}
	if st.Size != int64(l.Size()) {
		return fmt.Errorf("the shared memory has %d bytes, its layout %d", st.Size, l.Size())
	}
	if w.mem, err = syscall.Mmap(w.files.Memory, 0, l.Size(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return fmt.Errorf("map the shared memory: %w", err)
	}
	w.region, err = ring.Attach(l, w.mem)
	return err
}

// free gives back what newWorker took.
func (w *Worker) free() {
	if w.mem != nil {
		_ = syscall.Munmap(w.mem)
	}
	w.files.close()
}

// run is the worker's goroutine.
func (w *Worker) run(s ringServer) {
	for {
		tail := w.await()
		if w.closing.Load() {
			break
		}
		if w.lonely++; tail-w.taken > 1 {
			w.lonely = 0
		}
		s.serve(tail)
	}
	s.finish()
	close(w.ended)
}

// Close takes nothing new, waits until what the plugin holds has ended, and gives
// everything back. It is called once, from any goroutine but the worker's.
func (w *Worker) Close() {
	w.closing.Store(true)
	// The worker may look at closing just before it sleeps; so it is woken until
	// it has ended.
	for every := time.NewTicker(time.Millisecond); ; {
		futexWake(&w.region.SubArmed)
		select {
		case <-w.ended:
			every.Stop()
			w.free()
			dropWorker()
			return
		case <-every.C:
		}
	}
}

// await waits for more than what has been taken, or for Close, and gives how
// much has come so far.
func (w *Worker) await() (tail uint32) {
	r := w.region
	if tail = r.SubTail.Load(); tail != w.taken || w.look(&tail) {
		return tail
	}
	for {
		// The engine looks at SubArmed after it has stored SubTail; we look at
		// SubTail after having stored SubArmed. One of the two sees the other. We
		// sleep on SubArmed, not on SubTail: a wake that was meant for earlier may
		// come between our look and our sleep, and then there is none to follow.
		r.SubArmed.Swap(ring.Asleep) // see ring: not Store
		if tail = r.SubTail.Load(); tail != w.taken || w.closing.Load() {
			r.SubArmed.Store(ring.Looking)
			return tail
		}
		futexWait(&r.SubArmed, ring.Asleep)
	}
}

// maxSkips is how seldom it is tried whether looking pays, once it does not: what
// a look in vain costs is nothing, shared among so many sleeps.
const maxSkips = 1024

// Who gets one request at a time, again and again, has a client that waits for the
// answer. Before the next one lie the engine's turn, the way to the client and the
// client's own time, and a worker that gives up before lets its processor halt: to
// wake that costs more than the request. Where many come at a time that is shared
// among them, and to look for long takes the processor from the engine, or from the
// client.
const (
	many   = 8 // times running
	longer = 4 // the window then
)

// look looks for more before sleeping. It pays if the engine is quick and runs on
// another processor; if they share one, the engine cannot submit while somebody
// looks. So each look in vain is followed by twice as many sleeps without one.
func (w *Worker) look(tail *uint32) bool {
	if w.spin == 0 {
		return false
	}
	if w.skip > 0 {
		w.skip--
		return false
	}
	window := w.spin
	if w.lonely >= many {
		window *= longer
	}
	// Other goroutines get their turn, should processors be few.
	for end := nanotime() + window; ; runtime.Gosched() {
		for range 16 {
			if *tail = w.region.SubTail.Load(); *tail != w.taken {
				w.skips = 0
				return true
			}
		}
		if w.closing.Load() || nanotime() >= end {
			w.skips = min(2*w.skips+1, maxSkips)
			w.skip = w.skips
			return false
		}
	}
}

// wakeEngine tells the engine of what has been published, if it wants to be told.
func (w *Worker) wakeEngine() {
	r := w.region
	if r.CompArmed.Load() == ring.Awake {
		return
	}
	switch r.CompArmed.Swap(ring.Awake) {
	case ring.WakeEvent:
		signal(w.files.Bell)
	case ring.WakeFutex:
		futexWake(&r.CompArmed)
	}
}

var clock = time.Now()

// nanotime is a monotonic time in ns.
func nanotime() int64 { return int64(time.Since(clock)) }
