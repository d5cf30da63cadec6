package ring

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Version of the region. Another major version is refused; a minor one only
// gives a meaning to what was zero.
const (
	Major   = 1
	Minor   = 1 // Submission.Pieces
	Version = Major<<16 | Minor
)

// Magic starts a region: "BERING" and two bytes that text does not have.
const Magic = 0x0aff_474e_4952_4542

// What a region is for.
const (
	KindStore   = 1 // a link to a disk
	KindMachine = 2 // the state machine of a connection
)

// Limits of a region. They bound what either side maps.
const (
	MaxDepth    = 1024
	MinTransfer = 4 << 10
	MaxTransfer = 256 << 10
	MaxExtents  = 4096 // of one block status
	MaxPieces   = 128  // that a payload lies in
)

// Values of CompArmed: how the engine wants to be told of completions.
const (
	Awake     = 0 // not at all: it looks
	WakeEvent = 1 // by the event counter
	WakeFutex = 2 // by FUTEX_WAKE on CompArmed
)

// Values of SubArmed.
const (
	Looking = 0
	Asleep  = 1 // in FUTEX_WAIT on SubArmed, or about to be
)

// Shape starts the header: what the region holds. It never changes.
type Shape struct {
	Magic    uint64
	Version  uint32
	Kind     uint32
	Depth    uint32 // slots, a power of two; Machine: 0
	Transfer uint32 // bytes of payload that a slot holds; Machine: 0
	Stride   uint32 // from one slot's buffer to the next
	_        uint32
	First    uint64 // offset of the submissions; Machine: of the events
	Second   uint64 // offset of the completions; Machine: of the actions
	Payload  uint64 // offset of slot 0's buffer; Machine: 0
	Size     uint64 // of the region
}

// Panicked in CallOut says that the plugin panicked in this call. The process
// goes on; this machine is not called again.
const Panicked = 1<<32 - 1

// Header is the first page of a region: its shape, and the words.
type Header struct {
	Shape
	_ [64]byte

	// What is written by different sides, or at different times, stands 128
	// bytes apart: processors fetch lines in pairs.

	SubTail atomic.Uint32 // engine: submissions, or calls, so far
	CallIn  atomic.Uint32 // engine, Machine: bytes of events of the last call
	_       [120]byte

	SubHead atomic.Uint32 // process: submissions, or calls, that it has taken
	_       [124]byte

	SubArmed atomic.Uint32 // process: Looking or Asleep
	_        [124]byte

	CompTail atomic.Uint32 // process: completions, or answers, so far
	CallOut  atomic.Uint32 // process, Machine: bytes of actions, abi.CallMore
	_        [120]byte

	CompArmed atomic.Uint32 // engine: Awake, WakeEvent or WakeFutex
	_         [124]byte

	_ [3328]byte
}

// Submission is a request on its way to the process.
type Submission struct {
	Slot   uint16
	Op     uint8
	_      uint8
	Flags  uint16
	Pieces uint16 // that the payload lies in; 0: it lies in the slot's buffer
	Offset uint64 // bytes
	Length uint64 // bytes
	_      uint64
}

// Piece is a part of a payload in memory that the process has been shown: see
// control.MapMemory. The pieces of a request lie at the start of its slot's buffer.
type Piece struct {
	Memory uint64 // its number
	Offset uint64 // bytes from its start
	Length uint32 // bytes
	_      uint32
}

// Completion is how a request has ended.
type Completion struct {
	Slot    uint16
	Extents uint16 // how many lie at the start of the slot's buffer
	Status  uint32 // errno, 0: good
	Filled  uint64 // bytes that a read has filled
}

// Load reads a completion once, whatever the other side does to it meanwhile.
func (c *Completion) Load() Completion {
	type words [2]uint64
	w := (*words)(unsafe.Pointer(c))
	a, b := atomic.LoadUint64(&w[0]), atomic.LoadUint64(&w[1])
	return Completion{Slot: uint16(a), Extents: uint16(a >> 16), Status: uint32(a >> 32), Filled: b}
}

// Extent is one of a block status, as block.Extent is in memory.
type Extent struct {
	Length uint64
	State  uint32
	_      uint32
}

// Load reads an extent once, whatever the other side does to it meanwhile.
func (e *Extent) Load() Extent {
	return Extent{Length: atomic.LoadUint64(&e.Length), State: atomic.LoadUint32(&e.State)}
}

// Sizes and offsets, asserted wherever the package is compiled.
var (
	_ [4096]byte = [unsafe.Sizeof(Header{})]byte{}
	_ [32]byte   = [unsafe.Sizeof(Submission{})]byte{}
	_ [16]byte   = [unsafe.Sizeof(Completion{})]byte{}
	_ [2]byte    = [unsafe.Offsetof(Completion{}.Extents)]byte{}
	_ [16]byte   = [unsafe.Sizeof(Extent{})]byte{}
	_ [24]byte   = [unsafe.Sizeof(Piece{})]byte{}
	_ [6]byte    = [unsafe.Offsetof(Submission{}.Pieces)]byte{}
	_ [16]byte   = [unsafe.Offsetof(Piece{}.Length)]byte{}
	_ [64]byte   = [unsafe.Sizeof(Shape{})]byte{}
	_ [32]byte   = [unsafe.Offsetof(Shape{}.First)]byte{}
	_ [56]byte   = [unsafe.Offsetof(Shape{}.Size)]byte{}
	_ [128]byte  = [unsafe.Offsetof(Header{}.SubTail)]byte{}
	_ [132]byte  = [unsafe.Offsetof(Header{}.CallIn)]byte{}
	_ [256]byte  = [unsafe.Offsetof(Header{}.SubHead)]byte{}
	_ [384]byte  = [unsafe.Offsetof(Header{}.SubArmed)]byte{}
	_ [512]byte  = [unsafe.Offsetof(Header{}.CompTail)]byte{}
	_ [516]byte  = [unsafe.Offsetof(Header{}.CallOut)]byte{}
	_ [640]byte  = [unsafe.Offsetof(Header{}.CompArmed)]byte{}
	_ [8]byte    = [unsafe.Offsetof(Submission{}.Offset)]byte{}
	_ [4]byte    = [unsafe.Offsetof(Completion{}.Status)]byte{}
	_ [8]byte    = [unsafe.Offsetof(Completion{}.Filled)]byte{}
)

const page = 4096

// A slot's buffer has room for all pieces.
var _ [MinTransfer - MaxPieces*unsafe.Sizeof(Piece{})]byte

// Layout is what a region holds. It travels in the call that opens the link.
type Layout struct {
	Version  uint32
	Kind     uint32
	Depth    uint32 // slots, a power of two; Machine: 0
	Transfer uint32 // bytes of payload that a slot holds, a multiple of 4096; Machine: 0
	In, Out  uint32 // bytes of the events' and the actions' buffer; Store: 0
}

// StoreLayout is a link of depth slots that hold transfer bytes each.
func StoreLayout(depth, transfer uint32) (Layout, error) {
	l := Layout{Version: Version, Kind: KindStore, Depth: depth, Transfer: transfer}
	return l, l.Check()
}

// MachineLayout is a state machine with buffers of in and out bytes.
func MachineLayout(in, out uint32) (Layout, error) {
	l := Layout{Version: Version, Kind: KindMachine, In: in, Out: out}
	return l, l.Check()
}

// Check tells whether such a region can be.
func (l Layout) Check() error {
	switch {
	case l.Version>>16 != Major:
		return fmt.Errorf("the shared memory is of version %d.%d and this is %d.x: build the plugin with the engine's sdk", l.Version>>16, l.Version&0xffff, Major)
	case l.Kind == KindStore:
		return l.checkStore()
	case l.Kind == KindMachine:
		return l.checkMachine()
	}
	return fmt.Errorf("the shared memory is of kind %d: 1 (store) or 2 (machine)", l.Kind)
}

func (l Layout) checkStore() error {
	switch {
	case l.Depth == 0 || l.Depth > MaxDepth || l.Depth&(l.Depth-1) != 0:
		return fmt.Errorf("the shared memory has %d slots: a power of two up to %d", l.Depth, MaxDepth)
	case l.Transfer < MinTransfer || l.Transfer > MaxTransfer || l.Transfer%page != 0:
		return fmt.Errorf("a slot of the shared memory holds %d bytes: %d to %d, in steps of %d", l.Transfer, MinTransfer, MaxTransfer, page)
	case l.In != 0 || l.Out != 0:
		return fmt.Errorf("the shared memory of a store has buffers for events of %d and %d bytes: 0", l.In, l.Out)
	}
	return nil
}

func (l Layout) checkMachine() error {
	for _, n := range [2]uint32{l.In, l.Out} {
		if n < page || n > 1<<20 || n%page != 0 {
			return fmt.Errorf("a buffer of the shared memory holds %d bytes: %d to %d, in steps of %d", n, page, 1<<20, page)
		}
	}
	if l.Depth != 0 || l.Transfer != 0 {
		return fmt.Errorf("the shared memory of a machine has %d slots of %d bytes: none", l.Depth, l.Transfer)
	}
	return nil
}

// shape is how the region's first page says the same.
func (l Layout) shape() Shape {
	s := Shape{Magic: Magic, Version: l.Version, Kind: l.Kind, Depth: l.Depth, Transfer: l.Transfer, Stride: l.Transfer, First: page}
	if l.Kind == KindMachine {
		s.Second = page + uint64(l.In)
		s.Size = s.Second + uint64(l.Out)
		return s
	}
	s.Second = s.First + up(uint64(l.Depth)*uint64(unsafe.Sizeof(Submission{})))
	s.Payload = s.Second + up(uint64(l.Depth)*uint64(unsafe.Sizeof(Completion{})))
	s.Size = s.Payload + uint64(l.Depth)*uint64(l.Transfer)
	return s
}

// up rounds n up to a page.
func up(n uint64) uint64 { return (n + page - 1) &^ (page - 1) }

// Size is that of the region in bytes. The layout has been checked.
func (l Layout) Size() int {
	return int(l.shape().Size)
}
