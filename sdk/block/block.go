// Package block holds the words that every side of the engine shares: what a
// block request is, how it ends, and what a disk looks like. It imports the
// standard library's smallest packages only, because it is also compiled into
// WebAssembly plugins, where package os (and so fmt) would add imports that
// the engine refuses.
//
// Read first: sdk/PLUGIN.md.
package block

// Op is the kind of a request. The values are part of the plugin ABI.
type Op uint8

// The operations. Offsets and lengths are in bytes; the engine hands on only
// requests that lie inside the disk and are multiples of its block size.
const (
	OpRead        Op = 1 // fill Data from the disk
	OpWrite       Op = 2 // store Data
	OpFlush       Op = 3 // make every acknowledged write durable; Offset and Length are 0
	OpDiscard     Op = 4 // the range may lose its content
	OpWriteZeroes Op = 5 // the range reads as zeroes afterwards
	OpBlockStatus Op = 6 // describe the range in Extents
	OpCache       Op = 7 // a hint: the range will be read soon

	// MaxOp is the greatest defined operation, for tables indexed by Op.
	MaxOp = OpCache
)

var opNames = [...]string{"invalid", "read", "write", "flush", "discard", "write_zeroes", "block_status", "cache"}

// String gives the operation's name as metrics and logs show it.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return opNames[0]
}

// Valid reports whether o is a defined operation.
func (o Op) Valid() bool { return o >= OpRead && o <= MaxOp }

// Modifies reports whether the operation changes what the disk holds.
func (o Op) Modifies() bool { return o == OpWrite || o == OpWriteZeroes || o == OpDiscard }

// HasPayload reports whether the operation moves Length bytes of Data.
func (o Op) HasPayload() bool { return o == OpRead || o == OpWrite }

// Flags refine a request. The values are part of the plugin ABI.
type Flags uint16

const (
	// FUA (write, write-zeroes, discard): complete only when the data is durable.
	FUA Flags = 1 << 0
	// NoHole (write-zeroes): keep the range allocated.
	NoHole Flags = 1 << 1
	// FastZero (write-zeroes): fail with ENOTSUP rather than take as long as
	// a write of the same length would.
	FastZero Flags = 1 << 2
	// OneExtent (block status): the first extent is enough.
	OneExtent Flags = 1 << 3
)

// Extent describes a run of a disk, in bytes, as block status reports it.
type Extent struct {
	Length uint64
	State  ExtentState
}

// ExtentState is a set of facts about an extent; none set means allocated data.
type ExtentState uint32

const (
	// Hole: nothing is allocated here.
	Hole ExtentState = 1 << 0
	// Zero: reads as zeroes.
	Zero ExtentState = 1 << 1
)

// Request is one block request on its way down and its result on the way
// back. Whoever submits it owns it; from Submit until completion the lower
// side may read all fields and may write Status, Filled, Extents, and, for a
// read, the memory behind Data.
type Request struct {
	Op     Op
	Flags  Flags
	Status Status // the result
	Offset uint64 // bytes
	Length uint64 // bytes

	// Data is borrowed memory: segments that add up to Length for a read or
	// a write, nil otherwise. The loan ends at completion.
	Data [][]byte

	// Filled counts the bytes of Data that a read has filled. A read that
	// ends OK with Filled != Length is a violation and becomes EIO.
	Filled uint64

	// Extents is where block status appends, from Offset on, contiguous and
	// at least one; never beyond the capacity that the submitter gave.
	Extents []Extent

	// Owner belongs to the submitter; the lower side hands it back untouched.
	Owner any
}

// Contiguous gives Data as one slice if it is a single segment, else nil.
func (r *Request) Contiguous() []byte {
	if len(r.Data) == 1 {
		return r.Data[0]
	}
	return nil
}

// EachSegment calls f for the parts of Data that make up bytes [from, to) of
// the payload, in order, and reports whether the range lies inside Data.
func (r *Request) EachSegment(from, to uint64, f func(part []byte)) bool {
	if from > to {
		return false
	}
	pos := uint64(0)
	for _, seg := range r.Data {
		if pos >= to {
			break
		}
		end := pos + uint64(len(seg))
		if end > from {
			lo, hi := max(from, pos), min(to, end)
			if hi > lo {
				f(seg[lo-pos : hi-pos])
			}
		}
		pos = end
	}
	return pos >= to
}
