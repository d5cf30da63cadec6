package vhosttest

import (
	"blockengine/engine/sys"
)

// waiter sleeps until an event is signalled, in the kernel and not in Go's
// poller: a wait ends when the kernel says so.
type waiter struct {
	ep, event int
	events    [1]sys.EpollEvent
}

func newWaiter(event int) (*waiter, error) {
	ep, err := sys.EpollCreate()
	if err != nil {
		return nil, err
	}
	w := &waiter{ep: ep, event: event}
	if err := sys.EpollAdd(ep, event, sys.EpollIn, 0); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// wait ends at an event, which it takes, or after ms milliseconds.
func (w *waiter) wait(ms int) (event bool, err error) {
	n, errno := sys.EpollWait(w.ep, w.events[:], ms)
	if errno != 0 && errno != sys.EINTR {
		return false, errno
	}
	if n > 0 {
		sys.EventfdClear(w.event)
	}
	return n > 0, nil
}

// takeEvent clears an event and says whether it was there.
func takeEvent(fd int) bool {
	var b [8]byte
	_, errno := sys.RawRead(fd, b[:])
	return errno == 0
}

func (w *waiter) close() { sys.Close(w.ep) }
