package worker

import (
	"runtime"
	"sync"
)

// maxProcs bounds what many workers, most of them asleep, cost the scheduler and
// the garbage collector.
const maxProcs = 16

// procs counts the workers of the process.
var procs struct {
	mu      sync.Mutex // guards the rest
	workers int
	own     int // GOMAXPROCS without workers
}

// addWorker gives Go's scheduler a processor more for each worker. One that sleeps
// in the kernel keeps its processor until the runtime takes it away, after 20 µs to
// 10 ms; meanwhile others that have been woken would wait. How much of the real
// processors the process gets is not decided here, but by the kernel.
func addWorker() {
	procs.mu.Lock()
	defer procs.mu.Unlock()
	if procs.own == 0 {
		procs.own = runtime.GOMAXPROCS(0)
	}
	procs.workers++
	if want := procs.own + min(procs.workers, maxProcs); want > runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(want)
	}
}

// dropWorker is called when one has ended. The processors stay: it would stop all
// of the process for a moment to take them away.
func dropWorker() {
	procs.mu.Lock()
	procs.workers--
	procs.mu.Unlock()
}
