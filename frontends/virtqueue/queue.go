package virtqueue

import (
	"errors"
	"fmt"
	"unsafe"
)

// Config is what a Queue is made of.
type Config struct {
	Index int    // of the queue in its device, for errors
	Size  uint16 // descriptors: a power of two, 1 to MaxSize

	// The three parts of the ring (virtio 1.2, 2.7): at least as long as
	// RingSizes says, aligned to 16, 2 and 4.
	Desc, Avail, Used []byte

	Memory   *Memory // what descriptors point into
	EventIdx bool    // VIRTIO_F_EVENT_IDX was negotiated
	Indirect bool    // VIRTIO_F_INDIRECT_DESC was negotiated

	// MaxChain is the most buffers of a chain. Zero means Size, as the
	// specification says (virtio 1.2, 2.7.5.3.1). Linux fills indirect tables up
	// to the device's segment limit without looking at the queue's size: a device
	// that cannot know the size when it tells that limit sets this to the limit
	// and its header and status. At most MaxSize, at least Size.
	MaxChain int

	// LastAvail is the index of the next chain to take, from SET_VRING_BASE. It is
	// not looked at if there is an in-flight region: then the next chain is the
	// used index and what is in flight. (A front-end whose back-end has died does
	// not know what that one had taken.)
	LastAvail uint16

	Inflight *Inflight // nil: no tracking
}

// State of a head, in private memory.
const (
	headFree    uint8 = iota // the driver's
	headWaiting              // in flight when the last process died, to be popped again
	headTaken                // popped
	headPushed               // finished, not published
)

// chainRoom is how many pieces a chain may have before it needs memory of its
// own. Headers, status and two of data are what most requests have.
const chainRoom = 4

// completion is a finished chain that is not published.
type completion struct {
	written uint32
	head    uint16
}

// Queue is the device's side of a split ring. It belongs to one goroutine.
type Queue struct {
	desc     unsafe.Pointer // table, size × descSize
	ring     unsafe.Pointer // entries of the available ring
	elements unsafe.Pointer // elements of the used ring
	usedWord *uint32        // flags and idx of the used ring: both are ours, so that one store writes both
	availIdx half

	size, mask uint16
	seen       uint16 // the available index as last read
	last       uint16 // next entry of the available ring to take
	used       uint16 // next element of the used ring to write
	usedFlags  uint16
	eventIdx   bool
	indirect   bool
	owed       bool // the driver may wait for a notification from before this Queue was made
	armed      bool // kicks are asked for

	maxChain int
	near     *span // where the last buffer lay
	memory   *Memory
	inflight *Inflight

	state       []uint8      // of each head
	heads       []uint16     // of the batch that is being popped
	done        []completion // finished, not published
	pieces      [][][]byte   // memory for each head's Read and Write
	resubmit    []uint16     // in flight when the last process died, in order
	outstanding int
	err         error

	usedEvent  half     // the driver's: when to interrupt (EVENT_IDX)
	availFlags half     // the driver's: whether to interrupt (without)
	availEvent *uint16  // ours: when to kick
	barrier    uint32   // written to order what is before it and what is after
	table      []uint64 // private copy of an indirect table that is not in one aligned piece
	parts      [][]byte // where that lies
	index      int
}

// New makes a Queue that goes on where the ring and the in-flight region stand.
// It reads both, and repairs the region: memory that may vanish needs a Guard
// around it (engine/sys). Errors are of a Config that breaks its rules, or are
// ErrInflight.
//
// Whoever made it looks for work at once, because the kick may have been taken
// by a process that died, and calls Publish once, because the notification may
// be owed.
func New(c Config) (*Queue, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("virtqueue %d: %w", c.Index, err)
	}
	q := c.build()
	if c.Inflight == nil {
		q.last, q.seen = c.LastAvail, c.LastAvail
		return q, nil
	}
	if err := q.recover(); err != nil {
		return nil, fmt.Errorf("virtqueue %d: %w", c.Index, err)
	}
	return q, nil
}

func (c *Config) check() error {
	if !littleEndian() {
		return errors.New("this machine is big endian, which is not supported: rings are little endian")
	}
	if c.Size == 0 || c.Size > MaxSize || c.Size&(c.Size-1) != 0 {
		return fmt.Errorf("size %d: it must be a power of two, at most %d", c.Size, MaxSize)
	}
	if c.Memory == nil {
		return errors.New("no guest memory")
	}
	if c.MaxChain != 0 && (c.MaxChain < int(c.Size) || c.MaxChain > MaxSize) {
		return fmt.Errorf("longest chain %d: it must be %d to %d", c.MaxChain, c.Size, MaxSize)
	}
	if f := c.Inflight; f != nil && f.size < c.Size {
		return fmt.Errorf("in-flight region is for %d descriptors, the queue has %d", f.size, c.Size)
	}
	desc, avail, used := RingSizes(c.Size, c.EventIdx)
	for _, p := range []struct {
		name  string
		mem   []byte
		need  uint64
		align uintptr
	}{
		{"descriptor table", c.Desc, desc, 16}, {"available ring", c.Avail, avail, 2}, {"used ring", c.Used, used, 4},
	} {
		if uint64(len(p.mem)) < p.need {
			return fmt.Errorf("%s has %d bytes, %d descriptors need %d", p.name, len(p.mem), c.Size, p.need)
		}
		if !aligned(p.mem, p.align) {
			return fmt.Errorf("%s is not aligned to %d bytes", p.name, p.align)
		}
	}
	return nil
}

// build fills in all but where to go on.
func (c *Config) build() *Queue {
	avail := unsafe.Pointer(unsafe.SliceData(c.Avail))
	used := unsafe.Pointer(unsafe.SliceData(c.Used))
	size := int(c.Size)
	q := &Queue{
		desc: unsafe.Pointer(unsafe.SliceData(c.Desc)), ring: unsafe.Add(avail, ringHeader), elements: unsafe.Add(used, ringHeader),
		usedWord: (*uint32)(used), availIdx: halfAt(unsafe.Add(avail, 2)), availFlags: halfAt(avail),
		size: c.Size, mask: c.Size - 1, maxChain: max(c.MaxChain, size), index: c.Index,
		eventIdx: c.EventIdx, indirect: c.Indirect, inflight: c.Inflight,
		state: make([]uint8, size), heads: make([]uint16, size), done: make([]completion, 0, size), pieces: make([][][]byte, size),
		owed: true, armed: true, used: UsedIndex(c.Used),
	}
	room := make([][]byte, size*chainRoom)
	for i := range q.pieces {
		q.pieces[i] = room[i*chainRoom : i*chainRoom : (i+1)*chainRoom]
	}
	if c.EventIdx {
		q.usedEvent = halfAt(unsafe.Add(q.ring, availEntry*size))
		q.availEvent = (*uint16)(unsafe.Add(q.elements, usedEntry*size))
	}
	q.SetMemory(c.Memory)
	return q
}

// recover finds where to go on from the in-flight region.
func (q *Queue) recover() error {
	heads, err := q.inflight.Recover(q.used)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if h >= q.size {
			return fmt.Errorf("%w: descriptor %d is in flight, the queue has %d", ErrInflight, h, q.size)
		}
		q.state[h] = headWaiting
	}
	q.resubmit = heads
	q.last = q.used + uint16(len(heads))
	q.seen = q.last
	return nil
}

// SetMemory gives the queue another view of guest memory, from the next Pop on.
// Chains that were popped keep pointing at where the old one was mapped.
func (q *Queue) SetMemory(m *Memory) {
	q.memory = m
	q.near = &span{}
	if len(m.spans) > 0 {
		q.near = &m.spans[0]
	}
}

// Avail is the index of the next chain to take from the available ring: what
// GET_VRING_BASE answers once nothing is outstanding.
func (q *Queue) Avail() uint16 { return q.last }

// Outstanding is how many chains were popped and are not published.
func (q *Queue) Outstanding() int { return q.outstanding }

// Resubmitted is how many chains of a process that died are still to be popped.
func (q *Queue) Resubmitted() int { return len(q.resubmit) }

// Err is the error that ended the queue, or nil.
func (q *Queue) Err() error { return q.err }
