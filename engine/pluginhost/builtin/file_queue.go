package builtin

import (
	"sync"

	"blockengine/sdk/block"
)

// The way of a request through a file disk:
//
//	reactor: Submit ── a single read that is cached ──► Complete
//	            │ └── most else, if there is io_uring: fileRing, one call a turn ──► Complete
//	            │ the rest, one lock a batch
//	            ▼
//	        fileQueue ──► worker: serve ──► Post (a run of quick ones together)
//	                         │ flush, or FUA without RWF_DSYNC
//	                         ▼
//	                       syncer: one fdatasync for all that wait ──► Post
//	                         (by a worker, or by the ring of one of them)
//
// Workers are started when there is something to do and none is free, up to
// the limit, so an idle disk has none until its first request.

// job is a request on its way through the queue.
type job struct {
	r  *block.Request
	ch *fileChannel
	// failures is how many syncs had failed when r was submitted.
	failures uint64
	written  bool // all but the sync is done
}

// maxRun bounds how many quick requests a worker takes at once, and so how
// many completions are posted together.
const maxRun = 16

// minRun is how many quick requests a worker takes before others are woken for the
// rest: that costs more than to do some, and writes into one file wait for each
// other in the kernel.
const minRun = 8

// fileQueue is a first-in first-out ring between reactors and workers. It
// grows to the most requests that were ever outstanding, which the engine
// bounds, and then allocates no more.
type fileQueue struct {
	max   int
	start func() // the body of a worker, which calls take until it gives 0
	wg    sync.WaitGroup

	mu      sync.Mutex // guards all below
	free    sync.Cond  // a worker waits here for jobs
	ring    []job      // length is a power of two
	head    uint64     // index of the oldest; modulo len(ring)
	tail    uint64     // index after the youngest
	idle    int        // workers in free.Wait
	started int
	closed  bool
}

func (q *fileQueue) init(workers int, start func()) {
	q.max, q.start = workers, start
	q.free.L = &q.mu
	q.ring = make([]job, maxRun)
}

// push adds a batch and wakes one worker; that one wakes the next if there
// is more than it takes.
func (q *fileQueue) push(batch []job) {
	q.mu.Lock()
	for _, j := range batch {
		if q.tail-q.head == uint64(len(q.ring)) {
			q.grow()
		}
		q.ring[q.tail&uint64(len(q.ring)-1)] = j
		q.tail++
	}
	q.help()
	q.mu.Unlock()
}

// grow doubles the ring. The caller holds mu.
func (q *fileQueue) grow() {
	bigger := make([]job, 2*len(q.ring))
	for i := q.head; i != q.tail; i++ {
		bigger[i&uint64(len(bigger)-1)] = q.ring[i&uint64(len(q.ring)-1)]
	}
	q.ring = bigger
}

// help brings in one more worker if there is one to bring. The caller holds mu.
func (q *fileQueue) help() {
	switch {
	case q.idle > 0:
		q.free.Signal()
	case q.started < q.max:
		q.started++
		q.wg.Go(q.start)
	}
}

// take waits for work and moves it to into: either one request that may wait
// for the disk, so that none waits behind it needlessly, or a run of at most
// len(into) quick ones, shared out among the free workers if they are many. It
// gives 0 when the queue is closed and empty.
func (q *fileQueue) take(into []job) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == q.tail {
		if q.closed {
			return 0
		}
		q.idle++
		q.free.Wait()
		q.idle--
	}
	waiting := int(q.tail - q.head)
	share := min(len(into), waiting, max(minRun, (waiting+q.idle)/(q.idle+1)))
	n := 0
	for n < share {
		slot := &q.ring[q.head&uint64(len(q.ring)-1)]
		if quick := slot.ch.dev.quick(slot.r); n > 0 && !quick {
			break
		} else if !quick {
			share = 1
		}
		into[n], *slot = *slot, job{}
		q.head++
		n++
	}
	if q.head != q.tail {
		q.help()
	}
	return n
}

// close ends the workers and waits for them. Nothing is outstanding.
func (q *fileQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.free.Broadcast()
	q.mu.Unlock()
	q.wg.Wait()
}
