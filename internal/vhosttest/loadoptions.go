package vhosttest

import (
	"fmt"
	"time"
)

// LoadOptions say what load to make. The zero value of a field has the meaning
// that is given for it.
type LoadOptions struct {
	// Frontend is a started one, of which nobody else uses a ring; it stays open.
	// nil: Options say how to make one, with memory of the right size if they say
	// nothing of it, for the time of the load.
	Frontend *Frontend
	Options  Options

	Depth       int    // requests outstanding on each queue; 0: 32
	Batch       int    // so many are published at once, when so many are free; 0: what is free
	BlockSize   int    // bytes of a request, a multiple of 512; 0: 4096
	Offset      uint64 // bytes; where the range starts, a multiple of BlockSize
	Length      uint64 // bytes of the range, which the queues share evenly; 0: 64 MiB or what the disk has
	ReadPercent int    // of the requests are reads, the others writes
	FlushEvery  int    // writes of a queue from one flush to the next; 0: no flushes
	Sequential  bool   // blocks in order, instead of at random
	Seed        uint64
	Layout      Layout

	Poll   bool // look at the rings without a pause and want no calls; else sleep until called
	Verify bool // write every block once before the load, and check every read
	// History is told of every request instead of Verify; requests may then
	// overlap.
	History History

	Run       time.Duration // how long, unless it is stopped before
	Timeout   time.Duration // after which a request is hung, and for the start; 0: 30 s
	Reconnect bool          // go on when the back-end is lost, as soon as there is one again
}

// History is told what happens to blocks. It is called by the queues'
// goroutines.
type History interface {
	// BeginRead and BeginWrite note a request; a write's payload is filled in.
	BeginRead(client int, block uint64) HistoryOp
	BeginWrite(client int, block uint64, payload []byte) HistoryOp
}

// HistoryOp is a request in a history.
type HistoryOp interface {
	// End notes the result: what a read gave, or nil for a write, and the error.
	End(data []byte, err error)
}

// Bounds of what LoadOptions may ask for.
const (
	MaxRun       = time.Hour
	maxBlock     = 1 << 20 // bytes
	maxBlocks    = 1 << 24 // of the range
	defaultRange = 64 << 20
)

func (o *LoadOptions) complete() error {
	for _, d := range []struct {
		n     *int
		value int
	}{{&o.Depth, 32}, {&o.BlockSize, 4096}, {&o.Batch, 1}} {
		if *d.n == 0 {
			*d.n = d.value
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	switch {
	case o.Depth < 1 || o.Depth > MaxQueueSize:
		return fmt.Errorf("vhosttest: depth %d: use 1 to %d", o.Depth, MaxQueueSize)
	case o.Batch < 1 || o.Batch > o.Depth:
		return fmt.Errorf("vhosttest: batches of %d: use 1 to the depth, %d", o.Batch, o.Depth)
	case o.BlockSize < SectorSize || o.BlockSize > maxBlock || o.BlockSize%SectorSize != 0:
		return fmt.Errorf("vhosttest: block size %d: use a multiple of %d up to %d", o.BlockSize, SectorSize, maxBlock)
	case o.Offset%uint64(o.BlockSize) != 0:
		return fmt.Errorf("vhosttest: offset %d is no multiple of the block size %d", o.Offset, o.BlockSize)
	case o.ReadPercent < 0 || o.ReadPercent > 100:
		return fmt.Errorf("vhosttest: %d percent reads: use 0 to 100", o.ReadPercent)
	case o.Run <= 0 || o.Run > MaxRun:
		return fmt.Errorf("vhosttest: run for %v: use more than 0 and up to %v", o.Run, MaxRun)
	case o.Verify && o.History != nil:
		return fmt.Errorf("vhosttest: a load with a history is judged by that: leave Verify away")
	}
	return nil
}

// memorySlots is how many a load has; back-ends take at least eight.
const memorySlots = 4

// memory that the load's rings and requests need.
func (o *LoadOptions) memory() []Slot {
	queues := uint64(max(o.Options.Queues, 1))
	request := uint64(o.BlockSize + 3*pageSize + descSize*MaxQueueSize)
	each := (queues*(uint64(o.Depth)*request+1<<20))/memorySlots + 2<<20
	each = (each + 1<<21 - 1) &^ (1<<21 - 1)
	var slots []Slot
	for i := range memorySlots {
		slots = append(slots, Slot{Guest: 1<<32 + uint64(i)*2*each, Size: each, File: i % 2})
	}
	return slots
}

// share gives the blocks of the disk, in numbers of BlockSize, that each queue
// uses, and the first one.
func (o *LoadOptions) share(sectors uint64, queues int) (first, each uint64, err error) {
	size := sectors * SectorSize
	length := o.Length
	if length == 0 {
		length = defaultRange
		if size > o.Offset {
			length = min(length, size-o.Offset)
		}
	}
	if o.Offset > size || length > size-o.Offset {
		return 0, 0, fmt.Errorf("vhosttest: range [%d, +%d) of a disk of %d bytes", o.Offset, length, size)
	}
	each = length / uint64(o.BlockSize) / uint64(queues)
	// Two blocks for each request, so that one is soon found that is free.
	least := uint64(1)
	if o.Verify {
		least = uint64(2 * o.Depth)
	}
	if each < least {
		return 0, 0, fmt.Errorf("vhosttest: %d bytes are %d blocks for each of %d queues: %d are needed at depth %d", length, each, queues, least, o.Depth)
	}
	if each*uint64(queues) > maxBlocks {
		return 0, 0, fmt.Errorf("vhosttest: %d bytes are more than %d blocks: use a shorter range", length, maxBlocks)
	}
	return o.Offset / uint64(o.BlockSize), each, nil
}
