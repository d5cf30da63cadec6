package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// server is one that is measured: the engine in some configuration, or a peer.
type server struct {
	ours       bool
	backed     bool // a proxy before the storage server
	sparse     bool // forgets what is written: no use to fill it
	depth1Only bool // how it waits matters only where it waits
	onDisk     bool // keeps its disk in a file of a disk, place.disk
	start      func(ctx context.Context, at place) (*instance, error)
}

// place is where a server lives.
type place struct {
	settings *settings
	dir      string // of its own
	backing  string // socket of the storage server, for proxies
	disk     string // a directory on a disk, for servers that are there
}

func (p place) socket() string { return filepath.Join(p.dir, "s") }

// instance is a server that runs.
type instance struct {
	*process
	socket string // where it listens
}

// uri of an export. nbdkit serves its only disk under every name.
func (in *instance) uri(export string) string {
	return "nbd+unix:///" + export + "?socket=" + in.socket
}

// backingServer is what all proxies stand before.
const backingServer = "nbdkit, memory behind proxies"

var servers = map[string]server{
	"engine, memory":         {ours: true, start: engineWith("memory", "")},
	"engine, memory, poll 0": {ours: true, start: engineWith("memory", "0"), depth1Only: true},
	"engine, null":           {ours: true, sparse: true, start: engineWith("null", "")},
	"engine, null, poll 0":   {ours: true, sparse: true, start: engineWith("null", "0"), depth1Only: true},
	"engine, nbd in wasm":    {ours: true, backed: true, start: engineWith("nbdwasm", "")},
	"engine, nbd builtin":    {ours: true, backed: true, start: engineWith("nbd", "")},

	"engine, null in a process":         {ours: true, sparse: true, start: engineWith("nullprocess", "")},
	"engine, null in a process, poll 0": {ours: true, sparse: true, start: engineWith("nullprocess", "0"), depth1Only: true},

	"engine, file":                      {ours: true, onDisk: true, start: engineFile("", false)},
	"engine, file, io threads":          {ours: true, onDisk: true, start: engineFile("threads", false)},
	"engine, file, io io_uring":         {ours: true, onDisk: true, start: engineFile("io_uring", false)},
	"nbdkit, file":                      {onDisk: true, start: nbdkitFile},
	"qemu-storage-daemon, file":         {onDisk: true, start: qemuOnDisk("")},
	"engine, file, direct":              {ours: true, onDisk: true, start: engineFile("", true)},
	"engine, file, direct, io threads":  {ours: true, onDisk: true, start: engineFile("threads", true)},
	"qemu-storage-daemon, file, direct": {onDisk: true, start: qemuOnDisk(",cache.direct=on,aio=native")},

	"nbdkit, memory": {start: nbdkit("memory", strconv.Itoa(diskSize))},
	"nbdkit, null":   {sparse: true, start: nbdkit("null", strconv.Itoa(diskSize))},
	"nbdkit, nbd":    {backed: true, start: nbdkitProxy},
	backingServer:    {start: nbdkit("memory", strconv.Itoa(diskSize))},

	"qemu-storage-daemon, tmpfs":   {start: qemuFile(overNBD)},
	"qemu-storage-daemon, null-co": {sparse: true, start: qemuNull(overNBD)},
	"qemu-storage-daemon, nbd":     {backed: true, start: qemuProxy(overNBD)},

	"engine, null, vhost-user":              {ours: true, sparse: true, start: engineVhostUser("null", "")},
	"engine, null, vhost-user, poll 0":      {ours: true, sparse: true, start: engineVhostUser("null", "0"), depth1Only: true},
	"engine, null in a process, vhost-user": {ours: true, sparse: true, start: engineVhostUser("nullprocess", "")},
	"engine, memory, vhost-user":            {ours: true, start: engineVhostUser("memory", "")},
	"engine, nbd in wasm, vhost-user":       {ours: true, backed: true, start: engineVhostUser("nbdwasm", "")},

	"qemu-storage-daemon, null-co, vhost-user": {sparse: true, start: qemuNull(overVhostUser)},
	"qemu-storage-daemon, tmpfs, vhost-user":   {start: qemuFile(overVhostUser)},
	"qemu-storage-daemon, nbd, vhost-user":     {backed: true, start: qemuProxy(overVhostUser)},
}

// serve starts a server and waits until it can be used.
func serve(ctx context.Context, at place, program string, args ...string) (*instance, error) {
	p, err := start(program, args...)
	if err != nil {
		return nil, err
	}
	if err := p.await(ctx, "listener", func() bool { return listening(at.socket()) }); err != nil {
		p.stop()
		return nil, err
	}
	return &instance{p, at.socket()}, nil
}

func nbdkit(args ...string) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		return serve(ctx, at, "nbdkit", append([]string{"-f", "-U", at.socket()}, args...)...)
	}
}

func nbdkitProxy(ctx context.Context, at place) (*instance, error) {
	return nbdkit("nbd", "socket="+at.backing)(ctx, at)
}

// qemuFrontend gives the arguments by which a storage daemon exports node disk.
type qemuFrontend func(at place) []string

func overNBD(at place) []string {
	return []string{"--nbd-server", "addr.type=unix,addr.path=" + at.socket(),
		"--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on"}
}

// overVhostUser has a thread of its own for the queue, as the engine has.
func overVhostUser(at place) []string {
	return []string{"--object", "iothread,id=thread",
		"--export", "type=vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path=" + at.socket() + ",num-queues=1,writable=on,iothread=thread"}
}

// qemu starts a storage daemon that exports a block device.
func qemu(ctx context.Context, at place, blockdev string, front qemuFrontend) (*instance, error) {
	return serve(ctx, at, "qemu-storage-daemon", append([]string{"--blockdev", blockdev + ",node-name=disk"}, front(at)...)...)
}

func qemuNull(front qemuFrontend) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		return qemu(ctx, at, fmt.Sprintf("driver=null-co,size=%d,read-zeroes=on", diskSize), front)
	}
}

// qemuFile is the daemon's nearest thing to a disk in memory: a file on tmpfs.
func qemuFile(front qemuFrontend) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		file, err := sparseFile(at.dir)
		if err != nil {
			return nil, err
		}
		return qemu(ctx, at, "driver=file,filename="+file, front)
	}
}

// qemuOnDisk exports a file of a disk.
func qemuOnDisk(how string) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		file, err := sparseFile(at.disk)
		if err != nil {
			return nil, err
		}
		return qemu(ctx, at, "driver=file,filename="+file+how, overNBD)
	}
}

func nbdkitFile(ctx context.Context, at place) (*instance, error) {
	file, err := sparseFile(at.disk)
	if err != nil {
		return nil, err
	}
	return nbdkit("file", file)(ctx, at)
}

// sparseFile makes a disk's file.
func sparseFile(dir string) (string, error) {
	file := filepath.Join(dir, "disk")
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	return file, errors.Join(f.Truncate(diskSize), f.Close())
}

func qemuProxy(front qemuFrontend) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		return qemu(ctx, at, "driver=nbd,server.type=unix,server.path="+at.backing+",export=disk", front)
	}
}

// engineWith starts the engine with one volume on a plugin. poll is as in the
// configuration, "" the default.
func engineWith(plugin, poll string) func(context.Context, place) (*instance, error) {
	return engineServing(volumeConfig{name: "disk", plugin: plugin}, poll)
}

// engineFile starts the engine with a volume in a file of a disk.
func engineFile(io string, direct bool) func(context.Context, place) (*instance, error) {
	return engineServing(volumeConfig{name: "disk", plugin: "file", io: io, direct: direct}, "")
}

// engineVhostUser is engineWith for virtual machines.
func engineVhostUser(plugin, poll string) func(context.Context, place) (*instance, error) {
	return engineServing(volumeConfig{name: "disk", plugin: plugin, vhostUser: true}, poll)
}

func engineServing(v volumeConfig, poll string) func(context.Context, place) (*instance, error) {
	return func(ctx context.Context, at place) (*instance, error) {
		return startEngine(ctx, at, engineConfig{poll: poll, volumes: []volumeConfig{v}})
	}
}

// startEngine starts the engine and waits until it is ready and listens: it
// does so with an unreachable volume too, but without its export.
func startEngine(ctx context.Context, at place, c engineConfig) (*instance, error) {
	file := filepath.Join(at.dir, "engine.toml")
	if err := os.WriteFile(file, []byte(c.toml(at)), 0o600); err != nil {
		return nil, err
	}
	p, err := start(at.settings.engine, "run", "-c", file)
	if err != nil {
		return nil, err
	}
	err = p.await(ctx, "ready", func() bool { return p.out.hasLine("ready") && listening(at.socket()) })
	if err != nil {
		p.stop()
		return nil, err
	}
	return &instance{p, at.socket()}, nil
}
