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
	guest guest // of loads that go through a virtqueue
}

// guest is how a virtual machine's side of a virtqueue behaves, "" where there
// is none.
type guest string

// The guests. Those that poll look at the ring without a pause; the other one
// sleeps until it is called.
const (
	polling   guest = "polling"
	sleeping  guest = "sleeping"
	untracked guest = "polling, no in-flight region"
)

func (l load) String() string {
	name := map[string]string{"randread": "random read", "randwrite": "random write", "read": "sequential read"}[l.rw]
	text := fmt.Sprintf("%s %d KiB, depth %d", name, l.block>>10, l.depth)
	if l.guest != "" {
		text += ", guest " + string(l.guest)
	}
	return text
}

// The loads.
var (
	read64  = load{rw: "randread", block: 4 << 10, depth: 64}
	write64 = load{rw: "randwrite", block: 4 << 10, depth: 64}
	read1   = load{rw: "randread", block: 4 << 10, depth: 1}
	write1  = load{rw: "randwrite", block: 4 << 10, depth: 1}
	stream  = load{rw: "read", block: 256 << 10, depth: 8}
)

// by is the load through a virtqueue.
func (l load) by(g guest) load {
	l.guest = g
	return l
}

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
		[]string{"engine, null", "engine, null, poll 0", "engine, null in a process", "engine, null in a process, poll 0", "nbdkit, null", "qemu-storage-daemon, null-co"}},
	{"proxy", []load{read64, write64, read1, write1, stream},
		[]string{"engine, nbd in wasm", "engine, nbd builtin", "nbdkit, nbd", "qemu-storage-daemon, nbd"}},
	{"file", []load{read64, write64, read1, write1, stream},
		[]string{"engine, file", "engine, file, io threads", "engine, file, io io_uring", "nbdkit, file", "qemu-storage-daemon, file"}},
	{"direct file", []load{read64, write64, read1, write1, stream},
		[]string{"engine, file, direct", "engine, file, direct, io threads", "qemu-storage-daemon, file, direct"}},
	{"virtqueue null", []load{read64.by(polling), read64.by(untracked), read1.by(polling), read1.by(sleeping)},
		[]string{"engine, null, vhost-user", "engine, null, vhost-user, poll 0", "engine, null in a process, vhost-user", "qemu-storage-daemon, null-co, vhost-user"}},
	{"virtqueue memory", []load{read64.by(polling), write64.by(polling), read1.by(sleeping)},
		[]string{"engine, memory, vhost-user", "qemu-storage-daemon, tmpfs, vhost-user"}},
	{"virtqueue proxy", []load{read64.by(polling), write64.by(polling)},
		[]string{"engine, nbd in wasm, vhost-user", "qemu-storage-daemon, nbd, vhost-user"}},
}

// caseName is what -run matches: "memory randread 4k depth 64".
func caseName(g group, l load) string {
	name := fmt.Sprintf("%s %s %dk depth %d", g.name, l.rw, l.block>>10, l.depth)
	if l.guest != "" {
		name += " " + string(l.guest)
	}
	return name
}

// limit is when a client that should run for d is given up.
func limit(d time.Duration) time.Duration { return d + 20*time.Second }
