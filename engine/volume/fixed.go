package volume

import (
	"blockengine/engine/iouring"
	"blockengine/sdk/block"
)

// FixedStore is a store's channel that can do a request's I/O without the
// request's payload passing through this process: the payload lies in a place of
// the table of registered buffers of the reactor's ring, into which a driver has
// put the pages of its own request.
type FixedStore interface {
	// FixedMax is how many bytes such a request may have whose buffer is
	// registered with h; 0: there cannot be any.
	FixedMax(h *iouring.Hub) uint64
	// SubmitFixed takes a read or write whose payload is in place buffer, from
	// the buffer's beginning, which is address 0: so the kernel has it for a
	// driver's pages. The place must keep it until the request completes.
	SubmitFixed(r *block.Request, buffer uint16)
}

// FixedMax is how many bytes a read or write with IO.Fixed may have whose buffer
// is registered with h, the ring of the queue's reactor; 0: the volume takes
// none. The volume passes such requests on in one piece, so a longer one is
// refused. It is asked once, before the first of them.
func (q *Queue) FixedMax(h *iouring.Hub) uint64 {
	l := q.lane
	l.fixedMax = 0
	if c, ok := l.ch.(*storeChannel); ok && c.fixed != nil {
		l.fixedMax = min(c.fixed.FixedMax(h), inOnePiece(l.v.info.Load()))
	}
	return l.fixedMax
}

// inOnePiece is how many bytes a read or write may have that is not split.
func inOnePiece(info *block.Info) uint64 {
	if info.MaxTransfer == 0 { // the device has no limit
		return MaxTransfer
	}
	return uint64(info.MaxTransfer)
}
