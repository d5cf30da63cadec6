package main

import (
	"fmt"
	"time"
)

// Sizes of the measured disks, in bytes.
const (
	diskSize   = 1 << 30
	regionSize = 256 << 20 // the part of it that is filled and used
)

// load is what the client does.
type load struct {
	rw    string // as fio calls it
	block int    // bytes a request
	depth int
}

func (l load) String() string {
	name := map[string]string{"randread": "random read", "randwrite": "random write", "read": "sequential read"}[l.rw]
	return fmt.Sprintf("%s %d KiB, depth %d", name, l.block>>10, l.depth)
}

// The loads.
var (
	read64  = load{"randread", 4 << 10, 64}
	write64 = load{"randwrite", 4 << 10, 64}
	read1   = load{"randread", 4 << 10, 1}
	write1  = load{"randwrite", 4 << 10, 1}
	stream  = load{"read", 256 << 10, 8}
)

// group is a kind of disk, the servers that have it, and its loads.
type group struct {
	name    string
	loads   []load
	servers []string // names in servers.go, ours and peers
}

var groups = []group{
	{"memory", []load{read64, write64, read1, write1, stream},
		[]string{"engine, memory", "engine, memory, poll 0", "nbdkit, memory", "qemu-storage-daemon, tmpfs"}},
	{"null", []load{read64, write64, read1, write1},
		[]string{"engine, null", "engine, null, poll 0", "nbdkit, null", "qemu-storage-daemon, null-co"}},
	{"proxy", []load{read64, write64, read1, write1, stream},
		[]string{"engine, nbd in wasm", "engine, nbd builtin", "nbdkit, nbd", "qemu-storage-daemon, nbd"}},
}

// caseName is what -run matches: "memory randread 4k depth 64".
func caseName(g group, l load) string {
	return fmt.Sprintf("%s %s %dk depth %d", g.name, l.rw, l.block>>10, l.depth)
}

// limit is when a client that should run for d is given up.
func limit(d time.Duration) time.Duration { return d + 20*time.Second }
