package ublk

import "fmt"

// Copy says how payload comes from a request's pages into memory of ours, and
// back. A device keeps the way in which it was made.
type Copy uint8

// The ways of copying.
const (
	// CopyAuto takes what is best for this kernel and volume.
	CopyAuto Copy = iota
	// CopyKernel has the driver copy while it hands requests over and takes them
	// back, in the same system call. Each tag has a buffer of MaxIO bytes.
	CopyKernel
	// CopyGetData is CopyKernel with buffers that requests share: a write is
	// shown first, and copied when it has been given one, at the cost of one more
	// trip through the ring.
	CopyGetData
	// CopyUser has us read and write the payload, by a system call for each
	// request that has some. Buffers are shared.
	CopyUser
	// CopyZero copies nothing for a volume that can do its I/O straight from and to
	// the pages of its users' requests (plugin file with io_uring), and is CopyUser
	// for what else there is. It needs Linux 6.16.
	CopyZero
)

var copyNames = [...]string{"auto", "kernel", "get-data", "user", "zero"}

func (c Copy) String() string {
	if int(c) < len(copyNames) {
		return copyNames[c]
	}
	return "unknown"
}

// flags are what a device has in the kernel that is made so.
func (c Copy) flags() uint64 {
	switch c {
	case CopyGetData:
		return flagNeedGetData
	case CopyUser:
		return flagUserCopy
	case CopyZero:
		return flagUserCopy | flagZeroCopy | flagAutoBufReg
	}
	return 0
}

// copyOf tells how a device was made. The driver drops NEED_GET_DATA where the
// server copies.
func copyOf(flags uint64) Copy {
	switch {
	case flags&flagAutoBufReg != 0:
		return CopyZero
	case flags&flagUserCopy != 0:
		return CopyUser
	case flags&flagNeedGetData != 0:
		return CopyGetData
	}
	return CopyKernel
}

// shares tells whether the requests of a queue share buffers.
func (c Copy) shares() bool { return c != CopyKernel }

// DefaultBuffers gives how much memory a queue has for requests that share it,
// where nothing else is said: enough for 16 of the largest, or for all.
func DefaultBuffers(depth, maxIO int) int { return min(depth, 16) * pieceSize(maxIO) }

// checkCopy refuses what does not go together.
func (o *Options) checkCopy() error {
	switch {
	case o.Copy > CopyZero:
		return fmt.Errorf("copy %d is unknown", o.Copy)
	case (o.Copy == CopyUser || o.Copy == CopyZero) && o.Unprivileged:
		return fmt.Errorf("the kernel does not let the server of an unprivileged device at its payload: choose copy %q or %q", CopyKernel, CopyGetData)
	case o.Buffers < 0 || o.Buffers != 0 && o.Buffers < o.MaxIO:
		return fmt.Errorf("buffers of %d bytes: give the largest request room, %d bytes or more", o.Buffers, o.MaxIO)
	case o.Buffers > o.Depth*pieceSize(o.MaxIO):
		return fmt.Errorf("buffers of %d bytes: %d requests of %d bytes never need more than %d", o.Buffers, o.Depth, o.MaxIO, o.Depth*pieceSize(o.MaxIO))
	}
	return nil
}

// chooseCopy gives the way for a new device.
func (d *Device) chooseCopy() Copy {
	if d.o.Copy == CopyAuto {
		return CopyKernel
	}
	return d.o.Copy
}

// keepsCopy says so if a device that was found is not as it was asked for: it
// cannot be changed.
func (d *Device) keepsCopy(flags uint64) {
	if is := copyOf(flags); d.o.Copy != CopyAuto && d.o.Copy != is {
		d.log.Warn("device keeps its way of copying, the one that it was made with: delete it to have another",
			"export", d.o.Name, "device", d.Path(), "copy", is, "asked", d.o.Copy)
	}
}
