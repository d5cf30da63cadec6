package builtin

import (
	"syscall"

	"blockengine/sdk/block"
)

// blockStatus walks the file's data and holes through r's range, for as many
// extents as r has room for.
func (d *fileDevice) blockStatus(r *block.Request) block.Status {
	first := len(r.Extents)
	pos, end := r.Offset, r.Offset+r.Length
	for pos < end {
		stop, state, st := d.extentAt(pos, end)
		if st != block.OK {
			return st
		}
		if !appendExtent(r, first, stop-pos, state) {
			break
		}
		// The next extent may have the same state if somebody changed the
		// file between two looks; it is joined to this one then.
		if pos = stop; r.Flags&block.OneExtent != 0 {
			break
		}
	}
	if len(r.Extents) == first {
		return block.EINVAL
	}
	return block.OK
}

// extentAt gives where the extent at pos ends, at end at the latest, and
// what it is.
func (d *fileDevice) extentAt(pos, end uint64) (stop uint64, state block.ExtentState, st block.Status) {
	data, errno := seek(d.fd, pos, seekData)
	switch {
	case errno == syscall.ENXIO: // no data up to the end of the file
		if !d.stillWhole() {
			return 0, 0, block.EIO
		}
		return end, block.Hole | block.Zero, block.OK
	case errno != 0:
		return 0, 0, block.Status(errno)
	case data > pos:
		return min(data, end), block.Hole | block.Zero, block.OK
	}
	hole, errno := seek(d.fd, pos, seekHole)
	if errno != 0 {
		return 0, 0, block.Status(errno)
	}
	if hole <= pos {
		// Punched between the two calls. To call a page of it data is safe,
		// and goes on.
		hole = (pos | (pageBlock - 1)) + 1
	}
	return min(hole, end), 0, block.OK
}

// stillWhole reports whether the file still reaches the end of the disk.
func (d *fileDevice) stillWhole() bool {
	var st syscall.Stat_t
	errno := retry(func() error { return syscall.Fstat(d.fd, &st) })
	return errno == 0 && uint64(st.Size) >= d.size.Load()
}
