package builtin

import (
	"runtime/debug"
	"syscall"

	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// bounceSize is the aligned memory of a worker for direct I/O from and to
// unaligned memory, in bytes; a multiple of every block size. Workers get it
// when they first need it, so the memory is bounded by their number.
const bounceSize = 256 << 10

// maxQuickWrite bounds a write that others may wait behind, in bytes.
const maxQuickWrite = 64 << 10

// States of worker.dsyncFD beside an open descriptor.
const (
	notOpened   = -1
	unavailable = -2
)

// worker is a goroutine that may wait for the disk.
type worker struct {
	d *fileDevice

	// dsyncFD is this worker's own open file description for writes with
	// RWF_DSYNC, opened at the first. The kernel reports a failed write-back
	// once to each description; were it shared, one write could take the
	// error that belongs to another, which would then be acknowledged though
	// it is lost.
	dsyncFD int

	bounce []byte
	iov    [128]syscall.Iovec
	jobs   [maxRun]job
	done   [maxRun]job // finished, not yet posted
	ndone  int
	out    []*block.Request
}

// work is the body of a worker.
func (d *fileDevice) work() {
	// Borrowed memory can vanish while it is copied; see copyGuarded.
	debug.SetPanicOnFault(true)
	w := &worker{d: d, dsyncFD: notOpened, out: make([]*block.Request, 0, maxRun)}
	defer w.close()
	for {
		n := d.queue.take(w.jobs[:])
		if n == 0 {
			return
		}
		w.run(w.jobs[:n])
		clear(w.jobs[:n])
	}
}

func (w *worker) close() {
	if w.dsyncFD >= 0 {
		_ = syscall.Close(w.dsyncFD) // all it wrote was synced, write by write
	}
	if w.bounce != nil {
		_ = sys.Unmap(w.bounce) // our own mapping: nothing can fail
	}
}

// run does jobs and posts them.
func (w *worker) run(jobs []job) {
	for len(jobs) > 0 {
		n := 1
		if n = w.d.mergeable(jobs, len(w.iov)); n > 1 && w.writeMerged(jobs[:n]) {
			for _, j := range jobs[:n] {
				w.finish(j, block.OK)
			}
		} else {
			n = 1
			w.do(jobs[0])
		}
		jobs = jobs[n:]
	}
	w.post()
}

// do does one job, to its end or to where the syncer takes it over.
func (w *worker) do(j job) {
	st, sync := block.OK, true
	if !j.written {
		st, sync = w.serve(j.r)
	}
	if sync && st == block.OK {
		w.post() // not to be held up by what follows
		w.d.sync.join(w, j)
		return
	}
	w.finish(j, st)
}

// serve does a request, and reports whether it is complete only after a sync.
func (w *worker) serve(r *block.Request) (st block.Status, sync bool) {
	if r.Op.Modifies() && w.d.readOnly {
		return block.EROFS, false
	}
	fua := r.Flags&block.FUA != 0
	switch r.Op {
	case block.OpRead:
		return w.read(r), false
	case block.OpWrite:
		if fua {
			return w.writeDurable(r)
		}
		return w.write(w.d.fd, r, 0), false
	case block.OpFlush:
		return block.OK, !w.d.readOnly
	case block.OpDiscard:
		return w.d.discard(r), fua
	case block.OpWriteZeroes:
		return w.writeZeroes(r), fua
	case block.OpBlockStatus:
		return w.d.blockStatus(r), false
	case block.OpCache:
		fadvise(w.d.fd, r.Offset, r.Length, fadvWillNeed)
		return block.OK, false
	}
	return block.EINVAL, false
}

// quick reports whether r normally ends without waiting for the disk.
func (d *fileDevice) quick(r *block.Request) bool {
	switch r.Op {
	case block.OpWrite:
		return !d.direct && r.Flags&block.FUA == 0 && r.Length <= maxQuickWrite
	case block.OpBlockStatus, block.OpCache:
		return true
	}
	return false
}

// finish notes the result of a job; post hands it back.
func (w *worker) finish(j job, st block.Status) {
	j.r.Status = st
	if w.ndone == len(w.done) {
		w.post()
	}
	w.done[w.ndone] = j
	w.ndone++
}

// post hands back all that is finished.
func (w *worker) post() {
	w.postJobs(w.done[:w.ndone])
	clear(w.done[:w.ndone])
	w.ndone = 0
}

// postJobs hands back finished jobs, runs of the same channel together.
func (w *worker) postJobs(jobs []job) {
	for len(jobs) > 0 {
		ch := jobs[0].ch
		w.out = w.out[:0]
		for len(jobs) > 0 && jobs[0].ch == ch {
			w.out = append(w.out, jobs[0].r)
			jobs = jobs[1:]
		}
		ch.done.Post(w.out)
	}
	clear(w.out[:cap(w.out)])
}
