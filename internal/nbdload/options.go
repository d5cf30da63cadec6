package nbdload

import (
	"fmt"
	"time"
)

// Options say what load to make. The zero value of a field has the meaning that
// is given for it.
type Options struct {
	Network string // "unix" or "tcp"
	Addr    string // a path, or host:port
	Export  string

	Connections int    // 0: one
	Depth       int    // requests outstanding on each connection; 0: 32
	BlockSize   int    // bytes of a request, a multiple of 512; 0: 4096
	Offset      uint64 // bytes; where the range starts that is used, a multiple of BlockSize
	Length      uint64 // bytes of that range, which the connections share evenly; 0: 64 MiB or what the disk has
	ReadPercent int    // of the requests are reads, the others writes
	FlushEvery  int    // writes of a connection from one flush to the next; 0: no flushes
	Seed        uint64 // of the offsets and of what is written

	// Run is how long the load goes on unless it is stopped before. Memory for
	// what is recorded is taken at the start: about 55 KB a second and connection.
	Run time.Duration
	// Timeout is how long the start, and what is outstanding at the end, may
	// take; 0: 30 s.
	Timeout time.Duration
}

// Bounds of what Options may ask for.
const (
	MaxRun         = 30 * time.Minute
	maxConnections = 64
	maxDepth       = 1 << 10
	maxBlock       = 1 << 20  // bytes
	maxOutstanding = 64 << 20 // bytes on all connections
	maxBlocks      = 1 << 24  // of the range
	defaultRange   = 64 << 20 // bytes
)

// complete fills in what was left open and refuses what cannot be done.
func (o *Options) complete() error {
	fill(&o.Connections, 1)
	fill(&o.Depth, 32)
	fill(&o.BlockSize, 4096)
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	switch {
	case o.Network != "unix" && o.Network != "tcp":
		return fmt.Errorf("nbdload: network %q: use unix or tcp", o.Network)
	case len(o.Export) > maxName:
		return fmt.Errorf("nbdload: the export's name has %d bytes: the protocol allows %d", len(o.Export), maxName)
	case o.Connections < 1 || o.Connections > maxConnections:
		return fmt.Errorf("nbdload: %d connections: use 1 to %d", o.Connections, maxConnections)
	case o.Depth < 1 || o.Depth > maxDepth:
		return fmt.Errorf("nbdload: depth %d: use 1 to %d", o.Depth, maxDepth)
	case o.BlockSize < sectorSize || o.BlockSize > maxBlock || o.BlockSize%sectorSize != 0:
		return fmt.Errorf("nbdload: block size %d: use a multiple of %d up to %d", o.BlockSize, sectorSize, maxBlock)
	case o.Connections*o.Depth*o.BlockSize > maxOutstanding:
		return fmt.Errorf("nbdload: %d connections with %d blocks of %d bytes outstanding: that is more than %d bytes", o.Connections, o.Depth, o.BlockSize, maxOutstanding)
	case o.Offset%uint64(o.BlockSize) != 0:
		return fmt.Errorf("nbdload: offset %d is no multiple of the block size %d", o.Offset, o.BlockSize)
	case o.ReadPercent < 0 || o.ReadPercent > 100:
		return fmt.Errorf("nbdload: %d percent reads: use 0 to 100", o.ReadPercent)
	case o.FlushEvery < 0:
		return fmt.Errorf("nbdload: a flush every %d writes: use 0 or more", o.FlushEvery)
	case o.Run <= 0 || o.Run > MaxRun:
		return fmt.Errorf("nbdload: run for %v: use more than 0 and up to %v", o.Run, MaxRun)
	case o.Timeout < 0:
		return fmt.Errorf("nbdload: timeout %v: use more than 0", o.Timeout)
	}
	return nil
}

func fill(n *int, value int) {
	if *n == 0 {
		*n = value
	}
}

// share gives the blocks of the disk, in numbers of BlockSize, that each
// connection uses, and their first one.
func (o *Options) share(size uint64) (first, each uint64, err error) {
	length := o.Length
	if length == 0 {
		length = defaultRange
		if size > o.Offset {
			length = min(length, size-o.Offset)
		}
	}
	if o.Offset > size || length > size-o.Offset {
		return 0, 0, fmt.Errorf("nbdload: range [%d, +%d) of a disk of %d bytes", o.Offset, length, size)
	}
	each = length / uint64(o.BlockSize) / uint64(o.Connections)
	// Two blocks for each request, so that one is soon found that is free.
	if least := uint64(2 * o.Depth); each < least {
		return 0, 0, fmt.Errorf("nbdload: %d bytes are %d blocks for each of %d connections: %d are needed at depth %d", length, each, o.Connections, least, o.Depth)
	}
	if each*uint64(o.Connections) > maxBlocks {
		return 0, 0, fmt.Errorf("nbdload: %d bytes are more than %d blocks: use a shorter range", length, maxBlocks)
	}
	return o.Offset / uint64(o.BlockSize), each, nil
}
