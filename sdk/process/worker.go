package process

import (
	"time"

	"blockengine/sdk/process/ring"
	serving "blockengine/sdk/process/worker"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

type (
	ringFiles = serving.Files
	worker    = serving.Worker
)

// workerOptions are the same for all workers of a process.
type workerOptions struct {
	spin   time.Duration   // how long one looks for more before it sleeps
	memory *serving.Memory // of virtual machines
}

// filesOf names the descriptors that came for a region.
func filesOf(fds []int) (ringFiles, error) { return serving.FilesOf(fds) }

// serveChannel serves a region with a channel of dev.
func serveChannel(dev store.Device, f ringFiles, l ring.Layout, o workerOptions) (*worker, error) {
	return serving.Channel(dev, f, l, serving.Options{Spin: o.spin, Memory: o.memory})
}

// serveMachine serves a region with a state machine of p's.
func serveMachine(p protocol.Plugin, f ringFiles, l ring.Layout, o workerOptions) (*worker, error) {
	return serving.Machine(p, f, l, serving.Options{Spin: o.spin})
}
