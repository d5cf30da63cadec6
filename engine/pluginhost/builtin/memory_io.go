package builtin

import (
	"syscall"

	"blockengine/sdk/block"
)

// maxStatusPages bounds how far one block status looks, in pages: the scan
// of a huge hole is a walk over its page map, on the reactor. The range that
// is left is for the next request.
const maxStatusPages = 1 << 22

func (d *memoryDevice) serve(r *block.Request) block.Status {
	if r.Op.Modifies() && d.info.Has(block.CapReadOnly) {
		return block.EROFS
	}
	switch r.Op {
	case block.OpRead:
		d.read(r)
	case block.OpWrite:
		d.write(r)
	case block.OpDiscard:
		first, end := d.wholePages(r.Offset, r.Offset+r.Length)
		return d.zeroPages(first, end)
	case block.OpWriteZeroes:
		return d.writeZeroes(r)
	case block.OpBlockStatus:
		return d.status(r)
	case block.OpFlush, block.OpCache:
	default:
		return block.EINVAL
	}
	return block.OK
}

// pageSpan gives the pages that bytes [from, to) touch.
func (d *memoryDevice) pageSpan(from, to uint64) (first, end uint64) {
	return from >> d.shift, (to + 1<<d.shift - 1) >> d.shift
}

// wholePages gives the pages that lie in bytes [from, to) altogether; the
// disk's last page counts as whole where the range reaches the disk's end.
func (d *memoryDevice) wholePages(from, to uint64) (first, end uint64) {
	first, end = (from+1<<d.shift-1)>>d.shift, to>>d.shift
	if to == d.info.Size {
		_, end = d.pageSpan(from, to)
	}
	return first, max(first, end)
}

func (d *memoryDevice) read(r *block.Request) {
	pos := r.Offset
	for _, seg := range r.Data {
		d.readInto(seg, pos)
		pos += uint64(len(seg))
	}
	r.Filled = pos - r.Offset
}

// readInto fills dst from byte pos of the disk.
func (d *memoryDevice) readInto(dst []byte, pos uint64) {
	end := pos + uint64(len(dst))
	_, lastPage := d.pageSpan(pos, end)
	for pos < end {
		written, stop := d.pages.run(pos>>d.shift, lastPage)
		n := min(stop<<d.shift, end) - pos
		if written {
			copy(dst[:n], d.mem[pos:])
		} else {
			clear(dst[:n])
		}
		dst, pos = dst[n:], pos+n
	}
}

// write copies, with the pages marked before and after. After, because a
// write-zeroes that runs on another reactor may have unmarked a page between
// the marking and the copy; before, because a copy cut by a fault must not
// leave bytes behind that a later write to the same page uncovers.
func (d *memoryDevice) write(r *block.Request) {
	first, end := d.pageSpan(r.Offset, r.Offset+r.Length)
	d.pages.mark(first, end)
	pos := r.Offset
	for _, seg := range r.Data {
		pos += uint64(copy(d.mem[pos:], seg))
	}
	d.pages.mark(first, end)
}

// writeZeroes gives whole pages back to the kernel and clears the edges.
func (d *memoryDevice) writeZeroes(r *block.Request) block.Status {
	from, to := r.Offset, r.Offset+r.Length
	if r.Flags&block.NoHole != 0 {
		if r.Flags&block.FastZero != 0 {
			return block.ENOTSUP // keeping the memory means to write to all of it
		}
		first, end := d.pageSpan(from, to)
		d.pages.mark(first, end)
		clear(d.mem[from:to])
		d.pages.mark(first, end)
		return block.OK
	}
	first, end := d.wholePages(from, to)
	if first == end {
		d.clearWritten(from, to)
		return block.OK
	}
	d.clearWritten(from, min(first<<d.shift, to))
	d.clearWritten(min(end<<d.shift, to), to)
	return d.zeroPages(first, end)
}

// clearWritten clears bytes [from, to), which lie in at most two pages,
// where there is something to clear.
func (d *memoryDevice) clearWritten(from, to uint64) {
	for from < to {
		_, lastPage := d.pageSpan(from, to)
		written, stop := d.pages.run(from>>d.shift, lastPage)
		n := min(stop<<d.shift, to)
		if written {
			clear(d.mem[from:n])
		}
		from = n
	}
}

// zeroPages makes pages [first, end) holes. They are unmarked first: a write
// that comes in between marks its page again and keeps the mark whether the
// kernel takes the page before or after, so that the map never calls a page
// empty that holds data.
func (d *memoryDevice) zeroPages(first, end uint64) block.Status {
	if first >= end || !d.pages.wipe(first, end) {
		return block.OK
	}
	from, to := first<<d.shift, min(end<<d.shift, d.info.Size)
	if err := syscall.Madvise(d.mem[from:to], syscall.MADV_DONTNEED); err != nil {
		// Only locked memory (mlockall) refuses; the promise is kept by hand.
		clear(d.mem[from:to])
	}
	return block.OK
}

func (d *memoryDevice) status(r *block.Request) block.Status {
	first := len(r.Extents)
	pos, end := r.Offset, r.Offset+r.Length
	from, lastPage := d.pageSpan(pos, end)
	if lastPage > from+maxStatusPages {
		lastPage = from + maxStatusPages
		end = lastPage << d.shift
	}
	for pos < end {
		written, stop := d.pages.run(pos>>d.shift, lastPage)
		state := block.Hole | block.Zero
		if written {
			state = 0
		}
		stopByte := min(stop<<d.shift, end)
		if !appendExtent(r, first, stopByte-pos, state) {
			break
		}
		if pos = stopByte; r.Flags&block.OneExtent != 0 {
			break
		}
	}
	if len(r.Extents) == first {
		return block.EINVAL
	}
	return block.OK
}
