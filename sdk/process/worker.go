package process

import (
	"errors"
	"fmt"
	"time"

	"blockengine/sdk/process/ring"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// ringFiles are the descriptors of a region, in the order in which the engine
// passes them.
type ringFiles struct {
	memory int // the region, ring.Layout.Size() bytes
	bell   int // the event counter that wakes the engine
}

// filesOf names the descriptors that came for a region. They are the worker's
// from serveChannel or serveMachine on, also if that fails.
func filesOf(fds []int) (ringFiles, error) {
	if len(fds) != 2 {
		return ringFiles{}, fmt.Errorf("%d descriptors came for a region: 2, its memory and its event counter", len(fds))
	}
	return ringFiles{memory: fds[0], bell: fds[1]}, nil
}

// workerOptions are the same for all workers of a process.
type workerOptions struct {
	// spin is how long a worker looks for more before it sleeps; 0: not at all.
	spin time.Duration
}

// worker is what serves one region: a goroutine of its own, which calls the
// plugin, and sleeps in the kernel.
type worker struct{}

var errNoWorker = errors.New("workers are not there yet")

// serveChannel opens a channel of dev and serves the region from now on.
func serveChannel(dev store.Device, f ringFiles, l ring.Layout, o workerOptions) (*worker, error) {
	return nil, errNoWorker
}

// serveMachine makes a state machine and serves the region from now on.
func serveMachine(p protocol.Plugin, f ringFiles, l ring.Layout, o workerOptions) (*worker, error) {
	return nil, errNoWorker
}

// Close takes nothing new, waits until what the plugin holds has ended, closes
// the channel and unmaps the region.
func (w *worker) Close() {}
