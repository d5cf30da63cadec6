package builtin

import (
	"syscall"
	"unsafe"

	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// fillIovecs describes r's payload from byte done on in iov and gives how
// many entries that took; what does not fit is for the next call.
func fillIovecs(iov []syscall.Iovec, r *block.Request, done uint64) int {
	n := 0
	for _, seg := range r.Data {
		if done >= uint64(len(seg)) {
			done -= uint64(len(seg))
			continue
		}
		if n == len(iov) {
			break
		}
		seg = seg[done:]
		done = 0
		iov[n].Base = unsafe.SliceData(seg)
		iov[n].SetLen(len(seg))
		n++
	}
	return n
}

// readFull reads what r.Filled says is still missing. A file that ends
// inside the disk was truncated by somebody: EIO.
func (d *fileDevice) readFull(r *block.Request, flags uintptr, iov []syscall.Iovec) block.Status {
	for r.Filled < r.Length {
		n := fillIovecs(iov, r, r.Filled)
		got, errno := ioVectored(sysPreadv2, d.fd, iov[:n], r.Offset+r.Filled, flags)
		clear(iov[:n])
		if errno != 0 {
			return block.Status(errno)
		}
		r.Filled += uint64(got)
		if got == 0 || d.direct && r.Filled%uint64(d.info.BlockSize) != 0 {
			return block.EIO // direct I/O cannot go on inside a block either
		}
	}
	return block.OK
}

// read reads on a worker, through the bounce memory where O_DIRECT cannot
// use r's own.
func (w *worker) read(r *block.Request) block.Status {
	if w.d.alignedMemory(r) {
		return w.d.readFull(r, 0, w.iov[:])
	}
	if st := w.needBounce(); st != block.OK {
		return st
	}
	for r.Filled < r.Length {
		part := w.bounce[:min(uint64(len(w.bounce)), r.Length-r.Filled)]
		w.iov[0].Base = unsafe.SliceData(part)
		w.iov[0].SetLen(len(part))
		got, errno := ioVectored(sysPreadv2, w.d.fd, w.iov[:1], r.Offset+r.Filled, 0)
		if errno != 0 {
			return block.Status(errno)
		}
		if got == 0 || got%int(w.d.info.BlockSize) != 0 {
			return block.EIO
		}
		if st := copyGuarded(r, r.Filled, part[:got], true); st != block.OK {
			return st
		}
		r.Filled += uint64(got)
	}
	return block.OK
}

// write writes all of r.
func (w *worker) write(fd int, r *block.Request, flags uintptr) block.Status {
	bounce := !w.d.alignedMemory(r)
	if bounce {
		if st := w.needBounce(); st != block.OK {
			return st
		}
	}
	for done := uint64(0); done < r.Length; {
		n := 1
		if bounce {
			part := w.bounce[:min(uint64(len(w.bounce)), r.Length-done)]
			if st := copyGuarded(r, done, part, false); st != block.OK {
				return st
			}
			w.iov[0].Base = unsafe.SliceData(part)
			w.iov[0].SetLen(len(part))
		} else {
			n = fillIovecs(w.iov[:], r, done)
		}
		put, errno := ioVectored(sysPwritev2, fd, w.iov[:n], r.Offset+done, flags)
		clear(w.iov[:n])
		if errno != 0 {
			return block.Status(errno)
		}
		if put == 0 {
			return block.EIO // no progress and no reason: do not spin
		}
		done += uint64(put)
	}
	return block.OK
}

// writeDurable does a write with FUA, or, where the kernel or the descriptor
// limit stands against it, a plain write that a sync has to follow.
func (w *worker) writeDurable(r *block.Request) (st block.Status, sync bool) {
	if w.dsyncFD == notOpened {
		fd, err := w.d.reopen()
		if err != nil {
			fd = unavailable
		}
		w.dsyncFD = fd
	}
	if w.dsyncFD >= 0 {
		if st = w.write(w.dsyncFD, r, rwfDsync); st != block.ENOTSUP {
			return st, false
		}
		_ = syscall.Close(w.dsyncFD) // it wrote nothing
		w.dsyncFD = unavailable
	}
	return w.write(w.d.fd, r, 0), true
}

// mergeable counts the jobs from the first on that are quick writes to
// adjacent ranges and fit in so many segments.
func (d *fileDevice) mergeable(jobs []job, segments int) int {
	if d.readOnly {
		return 1
	}
	for i, j := range jobs {
		segments -= len(j.r.Data)
		if j.r.Op != block.OpWrite || !d.quick(j.r) || segments < 0 ||
			i > 0 && j.r.Offset != jobs[i-1].r.Offset+jobs[i-1].r.Length {
			return i
		}
	}
	return len(jobs)
}

// writeMerged writes adjacent jobs with one system call. If that does not
// take all of it, nothing is known of any: the caller does them one by one,
// which finds the one that fails and writes the others' same bytes again.
func (w *worker) writeMerged(jobs []job) bool {
	n, length := 0, 0
	for _, j := range jobs {
		n += fillIovecs(w.iov[n:], j.r, 0)
		length += int(j.r.Length)
	}
	put, errno := ioVectored(sysPwritev2, w.d.fd, w.iov[:n], jobs[0].r.Offset, 0)
	clear(w.iov[:n])
	return errno == 0 && put == length
}

// alignedMemory reports whether the kernel can move data from and to r's
// memory as it is.
func (d *fileDevice) alignedMemory(r *block.Request) bool {
	if !d.direct {
		return true
	}
	for _, seg := range r.Data {
		if uintptr(unsafe.Pointer(unsafe.SliceData(seg)))%d.memAlign != 0 || len(seg)%int(d.info.BlockSize) != 0 {
			return false
		}
	}
	return true
}

// needBounce makes sure that the worker has its bounce memory.
func (w *worker) needBounce() block.Status {
	if w.bounce != nil {
		return block.OK
	}
	mem, err := sys.MapMemory(bounceSize)
	if err != nil {
		return block.ENOMEM
	}
	w.bounce = mem
	return block.OK
}

// copyGuarded copies between part and r's payload from byte from on, into
// the payload or out of it. Memory that has gone away gives EFAULT.
func copyGuarded(r *block.Request, from uint64, part []byte, into bool) (st block.Status) {
	defer func() {
		if v := recover(); v != nil {
			st = faultStatus(r, v)
		}
	}()
	for _, seg := range r.Data {
		if from >= uint64(len(seg)) {
			from -= uint64(len(seg))
			continue
		}
		var n int
		if into {
			n = copy(seg[from:], part)
		} else {
			n = copy(part, seg[from:])
		}
		if part, from = part[n:], 0; len(part) == 0 {
			break
		}
	}
	return block.OK
}
