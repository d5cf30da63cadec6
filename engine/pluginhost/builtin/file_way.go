package builtin

import (
	"fmt"

	"blockengine/engine/iouring"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// Values of the option io.
const (
	ioAuto    = "auto"
	ioThreads = "threads"
	ioRing    = "io_uring"
)

const ioHelp = `who waits for the disk: "io_uring", the kernel; "threads", workers of the engine; "auto", the default, whichever is better and there`

// ioWay says how a file's reads and writes are done.
type ioWay struct {
	ring     bool // through the reactor's ring, if it has one
	ringOnly bool // for measurements: all that can be, and without a ring there is no disk
}

// wayOf chooses by the option io, and by what the kernel has.
func wayOf(o store.Options) (ioWay, error) {
	switch how := o.Strings["io"]; how {
	case "", ioAuto:
		return ioWay{ring: true}, nil
	case ioThreads:
		return ioWay{}, nil
	case ioRing:
		if err := iouring.Usable(ringOps...); err != nil {
			return ioWay{}, fmt.Errorf("io = %q: %w; or use io = %q", ioRing, err, ioAuto)
		}
		return ioWay{ring: true, ringOnly: true}, nil
	default:
		return ioWay{}, fmt.Errorf("io = %q is none of the ways there are; give %q, %q or %q", how, ioAuto, ioThreads, ioRing)
	}
}

// Where workers are better than the ring, past direct I/O (BenchmarkWays).
const (
	// maxRingCopy bounds a request that the ring may copy from or to the page
	// cache, in bytes: the kernel does that on the reactor's thread.
	maxRingCopy = 512 << 10
	// maxRingWrites bounds the batch that is written through the ring into the
	// page cache. The kernel has such writes done by a thread of its own, one
	// after the other; in long batches our workers need less CPU.
	maxRingWrites = 16
)

// lookFirst reports whether reads of a batch are tried in the page cache at once.
// For one alone that is quicker than the ring.
func (c *fileChannel) lookFirst(batch []*block.Request) bool {
	return c.cached && (c.ring == nil || len(batch) == 1)
}

// ringWrites reports whether writes of a batch go to the ring. Those into the
// page cache do if they are few and not in a row, which workers merge.
func (c *fileChannel) ringWrites(batch []*block.Request) bool {
	if c.ring == nil || c.dev.direct || c.dev.ringOnly {
		return c.ring != nil
	}
	return len(batch) < 2 || len(batch) <= maxRingWrites && !follows(batch[0], batch[1])
}

// follows reports whether b begins where a ends.
func follows(a, b *block.Request) bool { return b.Offset == a.Offset+a.Length }
