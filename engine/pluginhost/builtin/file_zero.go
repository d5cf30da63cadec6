package builtin

import (
	"sync"
	"syscall"
	"unsafe"

	"blockengine/sdk/block"
)

// missing reports whether errno says that a call is not supported, rather
// than that it failed.
func missing(errno syscall.Errno) bool {
	return errno == syscall.EOPNOTSUPP || errno == syscall.ENOSYS
}

// discard gives the range back. It is a hint: where it is not supported the
// data stays and that is fine.
func (d *fileDevice) discard(r *block.Request) block.Status {
	absent := &d.noPunch
	if d.isBlock {
		absent = &d.noDiscard
	}
	if absent.Load() {
		return block.OK
	}
	var errno syscall.Errno
	if d.isBlock {
		errno = discardBlocks(d.fd, r.Offset, r.Length)
	} else {
		errno = fallocate(d.fd, fallocPunchHole|fallocKeepSize, r.Offset, r.Length)
	}
	if missing(errno) {
		absent.Store(true)
		return block.OK
	}
	return block.Status(errno)
}

// writeZeroes takes the best way that the request allows and the file
// system has: a hole, unwritten blocks, and last zeroes written out.
func (w *worker) writeZeroes(r *block.Request) block.Status {
	d := w.d
	if r.Flags&block.NoHole == 0 && !d.noPunch.Load() {
		// On a block device this is the kernel's own fast zero: it unmaps
		// and never writes.
		errno := fallocate(d.fd, fallocPunchHole|fallocKeepSize, r.Offset, r.Length)
		if !missing(errno) {
			return block.Status(errno)
		}
		d.noPunch.Store(true)
	}
	fast := r.Flags&block.FastZero != 0
	// A block device may do this one by writing.
	if !d.noZeroRange.Load() && !(fast && d.isBlock) {
		errno := fallocate(d.fd, fallocZeroRange|fallocKeepSize, r.Offset, r.Length)
		if !missing(errno) {
			return block.Status(errno)
		}
		d.noZeroRange.Store(true)
	}
	if fast {
		return block.ENOTSUP
	}
	return w.writeOutZeroes(r)
}

// zeroMemory is zeroes to write out, page-aligned and shared by all disks;
// nil if the kernel has no room for it. It is never written to, so that it
// takes no more than page tables.
var zeroMemory = sync.OnceValue(func() []byte {
	mem, err := syscall.Mmap(-1, 0, bounceSize, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil
	}
	return mem
})

// writeOutZeroes writes zeroes, several lots of zeroMemory a call.
func (w *worker) writeOutZeroes(r *block.Request) block.Status {
	zeroes := zeroMemory()
	if zeroes == nil {
		return block.ENOMEM
	}
	const lots = 16
	for done := uint64(0); done < r.Length; {
		n := 0
		for at := done; n < lots && at < r.Length; n++ {
			part := zeroes[:min(uint64(len(zeroes)), r.Length-at)]
			w.iov[n].Base = unsafe.SliceData(part)
			w.iov[n].SetLen(len(part))
			at += uint64(len(part))
		}
		put, errno := ioVectored(sysPwritev2, w.d.fd, w.iov[:n], r.Offset+done, 0)
		if errno != 0 {
			return block.Status(errno)
		}
		if put == 0 {
			return block.EIO
		}
		done += uint64(put)
	}
	return block.OK
}
