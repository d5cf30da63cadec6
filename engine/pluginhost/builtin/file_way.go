package builtin

import (
	"fmt"

	"blockengine/engine/iouring"
	"blockengine/sdk/block"
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
	ringOnly bool // all that can be, and without a ring there is no disk
}

// ways are the values of the option io.
var ways = map[string]ioWay{
	"":        {ring: true},
	ioAuto:    {ring: true},
	ioThreads: {},
	ioRing:    {ring: true, ringOnly: true},
}

// WayError says why a value of the option io cannot be taken.
type WayError struct {
	What string // continues the name of the option: `"fast" is no way of doing I/O`
	Fix  string // how to mend it
}

// Error gives both parts on one line.
func (e *WayError) Error() string { return "io " + e.What + ": " + e.Fix }

// CheckWay says why the option io cannot have this value on this host, a
// *WayError; nil: it can. Without the option, or with "auto", a file is served
// on every host.
func CheckWay(how string) error {
	way, ok := ways[how]
	switch {
	case !ok:
		return &WayError{fmt.Sprintf("%q is no way of doing I/O", how), fmt.Sprintf("give %q, %q or %q", ioAuto, ioThreads, ioRing)}
	case !way.ringOnly:
		return nil
	}
	if err := RingUsable(); err != nil {
		return &WayError{fmt.Sprintf("%q cannot be had on this host", how), fmt.Sprintf("%v; or give %q", err, ioAuto)}
	}
	return nil
}

// RingUsable says why files cannot be read and written through io_uring on this
// host; nil: they can.
func RingUsable() error { return iouring.Usable(ringOps...) }

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
