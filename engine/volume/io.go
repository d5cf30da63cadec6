package volume

import (
	"blockengine/engine/inflight"
	"blockengine/sdk/block"
)

// IO is a block request on its way through a volume. The frontend owns it: it
// fills in Request (Op, Flags, Offset, Length, Data, and for block status the
// capacity of Extents) and Tag, submits it, and has it back, with Status and
// results, in Completed. In between it must not touch it.
//
// Request.Owner is the volume's while the IO is submitted.
type IO struct {
	block.Request
	Tag uint64 // the frontend's
	// Again says that an earlier process had this request and died: what has
	// become of it there is unknown. See DESIGN chapter 2, rule 1.
	Again bool
	// Fixed says that the payload of a read or write is not in Data, which is
	// nil, but in place Buffer of the table of registered buffers of the
	// reactor's ring, from its beginning. See Queue.FixedMax.
	Fixed  bool
	Buffer uint16

	// Lower belongs to the layer below the volume while it has the IO.
	Lower LowerState

	queue  *Queue // whose request this is; nil for a part
	lane   *lane
	start  int64 // ns, when it was submitted
	stage  stage
	parent *IO // the request that this is a part of
	plan   *plan
	errs   block.Status // first error of the parts
	next   *IO          // in a free list
	remote *remoteFlush // with stageRemote
	segs   [8][]byte    // backing of Data for parts
}

// LowerState is room for the layer below a volume, so that it needs no table
// from requests to its own bookkeeping.
type LowerState struct {
	Place    inflight.Entry[IO] // in a list of the layer's, in submission order
	Deadline int64              // ns
	Slot     uint32
	Flags    uint8
	Origin   any // whom it was taken over from
}

// stage says what completes an IO that the volume carries out in steps.
type stage uint8

const (
	stageWhole      stage = iota // the answer from below is the answer
	stageThenFlush               // a flush follows: FUA that the disk lacks
	stageFlushing                // that flush is under way
	stageGuestFlush              // a flush that a guest asked for
	stageRemote                  // a flush visiting from another reactor
)
