package vhosttest

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"blockengine/engine/sys"
)

// Desc is a descriptor as it lies in memory (virtio 1.2, 2.7.5).
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Flags of a descriptor.
const (
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

const descSize = int(unsafe.Sizeof(Desc{}))

// Flags of the rings: do not notify.
const (
	availNoInterrupt = 1
	usedNoNotify     = 1
)

// MaxQueueSize that is supported here.
const MaxQueueSize = 1024

// usedElem is an element of the used ring (virtio 1.2, 2.7.8).
type usedElem struct{ id, len uint32 }

// Completion is a chain that the device has given back.
type Completion struct {
	Head    uint16
	Written uint32 // bytes, as the device says
}

// Ring is the driver's side of a split virtqueue (virtio 1.2, 2.7). It publishes
// and reaps in batches and allocates nothing. It belongs to one goroutine, but
// for AvailIdx, UsedIdx, Kick and the descriptors of its events.
//
// Each index and the flags beside it are read and written as one 32-bit word,
// because that is the smallest atomic access of Go. The driver owns both halves
// of its word, so nothing is overwritten.
type Ring struct {
	size     uint16
	eventIdx bool

	descMem, availMem, usedMem Buffer
	desc                       []Desc
	avail                      []uint16
	used                       []usedElem
	availWord, usedWord        *uint32 // flags, index<<16
	usedEvent, availEvent      *uint32 // low half; the high half is nobody's

	flags     uint16 // of the available ring
	next      uint16 // index of what is offered next
	published uint16 // up to here the device knows
	lastUsed  uint16 // up to here completions have been taken
	quiet     bool   // no calls are wanted
	quietAt   uint16 // where the used event was last put out of the way
	out       []bool // by head: with the device
	length    int    // of out that are set

	kick, call int // events
	masked     int // is called while nobody listens: QEMU, before it has started
	kicks      uint64
}

// ringPad keeps the parts of a ring on cache lines of their own, and makes room
// for the other half of the last words.
const ringPad = 64

// newRing takes guest memory for a ring and makes its events. size is a power of
// two from 2 to MaxQueueSize.
func newRing(m *Memory, region int, size uint16) (*Ring, error) {
	r := &Ring{size: size, kick: -1, call: -1, masked: -1, out: make([]bool, size)}
	n := int(size)
	var err error
	for _, part := range []struct {
		b *Buffer
		n int
	}{{&r.descMem, descSize * n}, {&r.availMem, 6 + 2*n + 2}, {&r.usedMem, 6 + 8*n + 2}} {
		if *part.b, err = m.Alloc(region, (part.n+ringPad-1)/ringPad*ringPad, 4096); err != nil {
			return nil, err
		}
	}
	r.desc = unsafe.Slice((*Desc)(unsafe.Pointer(&r.descMem.B[0])), n)
	r.avail = unsafe.Slice((*uint16)(unsafe.Pointer(&r.availMem.B[4])), n)
	r.used = unsafe.Slice((*usedElem)(unsafe.Pointer(&r.usedMem.B[4])), n)
	r.availWord, r.usedWord = word(r.availMem, 0), word(r.usedMem, 0)
	r.usedEvent, r.availEvent = word(r.availMem, 4+2*n), word(r.usedMem, 4+8*n)
	if r.kick, err = sys.Eventfd(); err == nil {
		r.call, err = sys.Eventfd()
	}
	if err == nil {
		r.masked, err = sys.Eventfd()
	}
	return r, err
}

func word(b Buffer, at int) *uint32 { return (*uint32)(unsafe.Pointer(&b.B[at])) }

func (r *Ring) close() {
	for _, fd := range []int{r.kick, r.call, r.masked} {
		if fd >= 0 {
			sys.Close(fd)
		}
	}
}

// reset is what a driver does before it hands a ring over for the first time.
func (r *Ring) reset(eventIdx bool) {
	for _, m := range []Buffer{r.descMem, r.availMem, r.usedMem} {
		clear(m.B)
	}
	clear(r.out)
	r.eventIdx, r.flags, r.quiet = eventIdx, 0, false
	r.next, r.published, r.lastUsed, r.quietAt, r.length = 0, 0, 0, 0, 0
	sys.EventfdClear(r.kick)
	sys.EventfdClear(r.call)
	sys.EventfdClear(r.masked)
}

// Size of the ring.
func (r *Ring) Size() int { return int(r.size) }

// Outstanding is how many chains the device has.
func (r *Ring) Outstanding() int { return r.length }

// AvailIdx is what the device may read as the available ring's index.
func (r *Ring) AvailIdx() uint16 { return uint16(atomic.LoadUint32(r.availWord) >> 16) }

// UsedIdx is the used ring's index in memory.
func (r *Ring) UsedIdx() uint16 { return uint16(atomic.LoadUint32(r.usedWord) >> 16) }

// SetDesc writes a descriptor of the table.
func (r *Ring) SetDesc(i uint16, d Desc) { r.desc[i] = d }

// Offer puts the chain that starts at head into the available ring. The device
// does not see it before Publish.
func (r *Ring) Offer(head uint16) {
	r.avail[r.next&(r.size-1)] = head
	r.next++
	r.out[head] = true
	r.length++
}

// Publish shows what was offered, and kicks the device if it wants that
// (virtio 1.2, 2.7.13.3 and 2.7.13.4.1). The swap is a full barrier, so what the
// device wants is read after it. A store is none with the race detector, in memory
// that is not Go's.
func (r *Ring) Publish() {
	old, now := r.published, r.next
	if old == now {
		return
	}
	r.published = now
	atomic.SwapUint32(r.availWord, uint32(r.flags)|uint32(now)<<16)
	if r.eventIdx {
		if needEvent(uint16(atomic.LoadUint32(r.availEvent)), now, old) {
			r.notify()
		}
	} else if atomic.LoadUint32(r.usedWord)&usedNoNotify == 0 {
		r.notify()
	}
}

// needEvent says whether an index that goes from old to now passes event
// (virtio 1.2, 2.7.7.2 and 2.7.10).
func needEvent(event, now, old uint16) bool { return now-event-1 < now-old }

// Kick notifies the device, whatever it wants. Any goroutine may do so.
func (r *Ring) Kick() { sys.EventfdSignal(r.kick) }

// notify is a kick that the device has asked for.
func (r *Ring) notify() {
	r.kicks++
	r.Kick()
}

// Kicks is how often the device wanted a notification.
func (r *Ring) Kicks() uint64 { return r.kicks }

// Reap takes completions, at most len(dst). A completion of a head that is not
// out is an error, as is an index that is ahead of what was published.
func (r *Ring) Reap(dst []Completion) (int, error) {
	now := r.UsedIdx()
	n := int(now - r.lastUsed)
	if n == 0 {
		return 0, nil
	}
	if n > r.length {
		return 0, fmt.Errorf("vhosttest: the used index went from %d to %d with %d chains outstanding", r.lastUsed, now, r.length)
	}
	n = min(n, len(dst))
	for i := range n {
		e := r.used[r.lastUsed&(r.size-1)]
		if e.id >= uint32(r.size) || !r.out[e.id] {
			return i, fmt.Errorf("vhosttest: used element %d gives back head %d, which the device does not have: completed twice, or never asked for", r.lastUsed, e.id)
		}
		r.out[e.id] = false
		r.length--
		r.lastUsed++
		dst[i] = Completion{uint16(e.id), e.len}
	}
	return n, nil
}

// quietEvery is how often the used event has to be put out of the way, so that
// the index does not run into it.
const quietEvery = 1 << 14

// Quiet asks the device not to call. With EVENT_IDX that is done by wanting a
// call far ahead; it costs a store every 16,384 completions.
func (r *Ring) Quiet() {
	if !r.eventIdx {
		if r.flags&availNoInterrupt == 0 {
			r.setFlags(availNoInterrupt)
		}
		return
	}
	if at := r.lastUsed; !r.quiet || at-r.quietAt >= quietEvery {
		r.quiet, r.quietAt = true, at
		atomic.StoreUint32(r.usedEvent, uint32(at+1<<15))
	}
}

// Arm asks the device to call at the next completion. more says that there is
// one already, so that there may be no call.
func (r *Ring) Arm() (more bool) {
	if r.eventIdx {
		r.quiet = false
		atomic.SwapUint32(r.usedEvent, uint32(r.lastUsed))
	} else if r.flags != 0 {
		r.setFlags(0)
	}
	return r.UsedIdx() != r.lastUsed
}

func (r *Ring) setFlags(flags uint16) {
	r.flags = flags
	atomic.SwapUint32(r.availWord, uint32(flags)|uint32(r.published)<<16)
}

// LieAvail publishes an available index that is not true.
func (r *Ring) LieAvail(idx uint16) {
	atomic.StoreUint32(r.availWord, uint32(r.flags)|uint32(idx)<<16)
}

// LieHead puts any number into the available ring at the next place, and counts
// it as offered.
func (r *Ring) LieHead(head uint16) {
	r.avail[r.next&(r.size-1)] = head
	r.next++
}
