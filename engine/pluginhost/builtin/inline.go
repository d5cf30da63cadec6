package builtin

import (
	"fmt"
	"unsafe"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// efault is what a request gets whose memory has gone away.
const efault block.Status = 14

// maxSize bounds the sizes that null and memory accept, in bytes: half of
// what a process can address with four-level page tables, so that offsets
// and lengths also fit every signed type of the system call interface.
const maxSize = 1 << 46

// inlineDevice is a disk whose requests finish at once, without a system
// call that waits.
type inlineDevice interface {
	// serve does a request and gives its result; for a read it sets Filled.
	serve(r *block.Request) block.Status
}

// inlineChannel is a store.Channel that completes everything inside Submit.
type inlineChannel struct {
	dev  inlineDevice
	done store.Completer
}

// Submit implements store.Channel.
func (c *inlineChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		r.Status = c.serve(r)
		c.done.Complete(r)
	}
}

// Close implements store.Channel.
func (c *inlineChannel) Close() {}

// serve turns a fault in the request's own memory into EFAULT: a VMM that
// truncates its memory file costs that request and nothing else. It takes
// effect where the calling goroutine has debug.SetPanicOnFault set, which
// the reactors have.
func (c *inlineChannel) serve(r *block.Request) (st block.Status) {
	defer func() {
		if v := recover(); v != nil {
			st = faultStatus(r, v)
		}
	}()
	return c.dev.serve(r)
}

// faultStatus gives EFAULT if the recovered value v is a memory fault inside
// the request's segments; any other panic goes on.
func faultStatus(r *block.Request, v any) block.Status {
	fault, ok := v.(interface{ Addr() uintptr })
	if !ok {
		panic(v)
	}
	for _, seg := range r.Data {
		base := uintptr(unsafe.Pointer(unsafe.SliceData(seg)))
		if fault.Addr() >= base && fault.Addr()-base < uintptr(len(seg)) {
			return efault
		}
	}
	panic(v)
}

// clearSegments fills the whole of r's memory with zeroes. Buffers are used
// again and again, so a read that has nothing to say must still overwrite
// what the last user left.
func clearSegments(r *block.Request) {
	for _, seg := range r.Data {
		clear(seg)
	}
}

// appendExtent appends a run to r.Extents, joined to the run before if that
// one has the same state and was appended after index first. It reports
// false if there is no room; r.Extents never grows beyond its capacity.
func appendExtent(r *block.Request, first int, length uint64, state block.ExtentState) bool {
	n := len(r.Extents)
	if n > first && r.Extents[n-1].State == state {
		r.Extents[n-1].Length += length
		return true
	}
	if n == cap(r.Extents) {
		return false
	}
	r.Extents = append(r.Extents, block.Extent{Length: length, State: state})
	return true
}

// checkSize validates the size option of a disk that is made up on the spot.
func checkSize(plugin string, o store.Options) (uint64, error) {
	size := o.Sizes["size"]
	switch {
	case size == 0:
		return 0, fmt.Errorf("volume %q, plugin %s: option size is missing or 0; give the disk a size, for example size = \"1GiB\"", o.Volume, plugin)
	case size > maxSize:
		return 0, fmt.Errorf("volume %q, plugin %s: size %d is more than the largest possible, %d (64 TiB); give a smaller one", o.Volume, plugin, size, uint64(maxSize))
	}
	return size, nil
}

// capsFor removes from all what a disk opened for reading only cannot do.
func capsFor(all block.Caps, readOnly bool) block.Caps {
	if !readOnly {
		return all
	}
	const writing = block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero
	return all&^writing | block.CapReadOnly
}

// inlineCaps is everything that null and memory can do.
const inlineCaps = block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero |
	block.CapBlockStatus | block.CapCache | block.CapFlushCoversAll
