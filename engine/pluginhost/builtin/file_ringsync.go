package builtin

import (
	"syscall"

	"blockengine/engine/sys"
	"blockengine/sdk/block"
)

// syncEntry is the value of the entry that syncs; there is one at a time.
const syncEntry = 1<<32 - 1

// sync lets j wait for a sync. If nobody is at one, the kernel does it for this
// channel.
func (x *fileRing) sync(j job) {
	if x.ch.dev.sync.add(j) {
		x.syncNext()
	}
}

// syncNext begins a sync for those who wait. One of them is this channel's, so
// that it is not closed before the sync has ended.
func (x *fileRing) syncNext() {
	if x.round = x.ch.dev.sync.next(); x.round != nil {
		x.enterSync()
	}
}

func (x *fileRing) enterSync() {
	e := x.user.Get(syncEntry)
	e.Opcode, e.Fd, e.OpFlags = sys.UringOpFsync, int32(x.ch.dev.fd), sys.UringFsyncData
}

// synced takes the result of a sync.
func (x *fileRing) synced(errno syscall.Errno) {
	s := &x.ch.dev.sync
	switch errno {
	case syscall.EINTR:
		x.enterSync()
		return
	case syscall.EAGAIN, syscall.ECANCELED: // it has not begun
		x.leaveSync()
		return
	}
	round := x.round
	x.round = nil
	s.done(round, block.Status(errno))
	// A request of this channel that waits keeps the channel open. Without one
	// it may be closed as soon as these are handed back.
	goOn := s.waits(x.ch)
	if !goOn {
		x.leaveSync()
	}
	x.handBack(round)
	s.recycle(round)
	if goOn {
		x.syncNext()
	}
}

// leaveSync leaves the syncs to a worker, those of x.round included.
func (x *fileRing) leaveSync() {
	round := x.round
	x.round = nil
	if j, any := x.ch.dev.sync.leave(round); any {
		x.ch.stage = append(x.ch.stage, j)
		x.ch.hand()
	}
}

// handBack gives requests back that waited for a sync.
func (x *fileRing) handBack(round []job) {
	for i := range round {
		j := round[i]
		if j.ch == x.ch {
			j.ch.done.Complete(j.r)
			continue
		}
		x.out = append(x.out[:0], j.r)
		j.ch.done.Post(x.out)
		x.out[0] = nil
	}
}
