package builtin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"syscall"
	"unsafe"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// maxMemoryZeroes bounds one write-zeroes or discard of a memory disk, in
// bytes, because giving populated pages back takes the kernel about 50 ns
// each and happens on the reactor.
const maxMemoryZeroes = 16 << 20

// Memory gives the plugin "memory": a sparse disk in anonymous memory.
func Memory() store.Plugin { return memoryPlugin{} }

type memoryPlugin struct{}

// Manifest implements store.Plugin.
func (memoryPlugin) Manifest() store.Manifest {
	return store.Manifest{
		Name:    "memory",
		Version: "1",
		Options: []store.Option{
			{Name: "size", Type: store.Size, Required: true, Help: "size of the disk; memory is used for what is written only"},
		},
	}
}

// Open implements store.Plugin.
func (memoryPlugin) Open(_ context.Context, o store.Options) (store.Device, error) {
	size, err := checkSize("memory", o)
	if err != nil {
		return nil, err
	}
	d := &memoryDevice{
		shift: uint(bits.TrailingZeros(uint(os.Getpagesize()))),
		info: block.Info{
			Size:           size,
			BlockSize:      1,
			PreferredBlock: 4096,
			MaxZeroes:      maxMemoryZeroes,
			MaxDiscard:     maxMemoryZeroes,
			Caps:           capsFor(inlineCaps, o.ReadOnly),
			Identity:       "memory:" + rand.Text(), // what it holds goes with it: opened again it is another disk
		},
	}
	if err := d.reserve(); err != nil {
		return nil, fmt.Errorf("volume %q, plugin memory: cannot reserve %d bytes of address space: %w; give a smaller size, or allow overcommit (sysctl vm.overcommit_memory=1)", o.Volume, size, err)
	}
	return d, nil
}

// memoryDevice is one private anonymous mapping as large as the disk: the
// kernel makes it sparse and gives zeroes for nothing. pages tells which of
// it was ever written, for block status and to read holes without touching
// (and so populating) them.
//
// Reactors use it concurrently without locks. Requests that overlap and are
// outstanding together may land in any order, so all that must hold is that
// pages is never clear over data that may be read: see write and zeroPages.
type memoryDevice struct {
	info  block.Info
	shift uint // log2 of the page size
	mem   []byte
	bits  []byte // the mapping behind pages
	pages pageMap
}

// reserve maps the disk and its page map.
func (d *memoryDevice) reserve() error {
	const prot, flags = syscall.PROT_READ | syscall.PROT_WRITE, syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_NORESERVE
	mem, err := syscall.Mmap(-1, 0, int(d.info.Size), prot, flags)
	if err != nil {
		return err
	}
	count := (d.info.Size + 1<<d.shift - 1) >> d.shift
	table, err := syscall.Mmap(-1, 0, int(pageMapBytes(count)), prot, flags)
	if err != nil {
		_ = syscall.Munmap(mem) // the mapping was made above: nothing can fail
		return err
	}
	d.mem, d.bits = mem, table
	d.pages.words = unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(table))), len(table)/8)
	return nil
}

// Info implements store.Device.
func (d *memoryDevice) Info() block.Info { return d.info }

// Channel implements store.Device.
func (d *memoryDevice) Channel(done store.Completer) (store.Channel, error) {
	return &inlineChannel{dev: d, done: done}, nil
}

// Close implements store.Device; the content is gone.
func (d *memoryDevice) Close() error {
	err := errors.Join(syscall.Munmap(d.mem), syscall.Munmap(d.bits))
	d.mem, d.bits, d.pages.words = nil, nil, nil
	return err
}
