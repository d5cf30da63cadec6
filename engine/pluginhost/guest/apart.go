package guest

import (
	"context"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
)

// Apart is an Instance that runs in another process. To wait for it would hold
// up everything else on the reactor, so its answers come as events.
//
// Call works as well, for the few calls whose answer has to be there at once
// (Save, the Opened of a version that resumes, Closed). It waits for at most
// CallWait, and takes no answer for a trap.
type Apart interface {
	Instance
	// Attach gives the instance to r: Begin and Answer are called there, and
	// answered is, once for each Begin, when there is an answer. It is called
	// before the first Begin, on r.
	Attach(r *reactor.Reactor, answered func()) error
	// Begin hands in the first n bytes of Input, n = 0 for more of the actions
	// before. Input is not touched until the answer. A process that does not
	// answer in time is killed; budget says only whether the call is one of those
	// that may take long.
	Begin(n int, budget int64)
	// Answer gives what Call would have given. The actions are a copy that the
	// plugin cannot change, valid until the next Begin.
	Answer() (actions []byte, more bool, err error)
}

// Mortal is an Apart that tells of its process's end.
type Mortal interface {
	Apart
	// OnEnd has ended called, on the reactor, if the instance ends while no Begin
	// is outstanding whose answer would say so: nothing else would tell until the
	// next call. It is called at most once, before Close, from within no call of
	// the instance's; err is what Answer gives from then on. OnEnd comes before
	// Attach.
	OnEnd(ended func(err error))
}

// Store is a loaded store plugin that runs in a process of its own.
type Store interface {
	// Manifest describes it. ABI and Payload are not used.
	Manifest() manifest.Manifest
	// Hash is the SHA-256 of the file in hex.
	Hash() string
	// Runtime is "process".
	Runtime() string
	// FenceOnExit says that what the process was doing is over when the process
	// is: nobody behind it can still change the disk.
	FenceOnExit() bool
	// NewLink opens the disk of a volume, or one more way to it: all links of
	// a volume to one process share a device. It may take long: it is called off
	// the reactors, and ends with ctx.
	NewLink(ctx context.Context, o LinkOptions) (Link, error)
	// Close ends the process when its links are closed.
	Close() error
}

// LinkOptions say what a link is for.
type LinkOptions struct {
	Volume   string
	ReadOnly bool
	Options  []byte // "name=value\0" in the manifest's order
	Reactor  int    // that will use it
}

// Link is one reactor's way to a disk in another process: rings of requests and
// completions, and a buffer for the payload of each slot, in shared memory.
// All methods are called on the reactor that Start was given.
type Link interface {
	// Info describes the disk as it is known to be by now. MaxTransfer is set, is
	// the size of a slot's buffer, and stays. When the owner of one link to a disk
	// is told that it has changed, all of them know.
	Info() block.Info
	// Depth is how many slots there are.
	Depth() int
	// Start begins to look for completions.
	Start(r *reactor.Reactor, owner LinkOwner) error
	// Payload is a slot's buffer, MaxTransfer bytes. It is the process's from
	// Submit to Finished, and untrusted for ever: read it once.
	Payload(slot int) []byte
	// Lends says whether Lend may ever give true. It does not change.
	Lends() bool
	// Lend has the next request of a slot, a read or a write, use the memory that
	// data lies in, and not the slot's buffer. It comes right before the slot's
	// Submit, whose length data adds up to. false: the process cannot get at that
	// memory (now), and the payload goes through the buffer. true: nothing is
	// copied, neither before Submit nor after Finished. The memory is the process's
	// until Finished; and if the link is lost, or closed before that, until fenced,
	// for until then a read may still be written into it: rule 2.
	Lend(slot int, data [][]byte) bool
	// Submit puts a request into the ring. A slot is free again with Finished.
	Submit(slot int, op block.Op, flags block.Flags, offset, length uint64)
	// Push makes what was submitted visible to the process and wakes it if it
	// sleeps.
	Push()
	// Close gives the link up, with what is outstanding on it, none of which is
	// told any more. It may come before Start, and from within a call of the
	// owner's. fenced is called once, on the reactor (before Start: anywhere), maybe
	// from within Close, when the process can no longer carry any of it out: it has said that all has ended (finished),
	// or it has been reaped. With the last link of a volume the process closes
	// the disk before it says so.
	Close(fenced func(finished bool))
}

// Rescanner is a Link to a disk that can be asked what it is like by now.
type Rescanner interface {
	Link
	// Rescan has the plugin look at what is behind the disk. When it comes back
	// well, Info says what is there, and owners whose links say something else
	// than before have been sent Changed. It may take as long as ctx lets it:
	// call it off the reactors, from any goroutine.
	Rescan(ctx context.Context) error
}

// LinkOwner is told what comes from the process, on the link's reactor.
type LinkOwner interface {
	// Finished ends a request. A slot that is not outstanding has been sorted
	// out before. filled counts the bytes of a read. extents are a block
	// status's, valid during the call.
	Finished(slot int, st block.Status, filled uint64, extents []block.Extent)
	// Turn comes after a batch of Finished.
	Turn()
	// Changed says that the disk has changed: another size, maybe. info is what
	// Info gives.
	Changed(info block.Info)
	// Lost says that the process is gone, hangs or has broken the contract: err
	// is a *Trap in the latter two cases, and if it ended by its own fault. The
	// link is good only for Close.
	Lost(err error)
}

// Tap sees what crosses the seam of a connection. Its methods are called on the
// connection's reactor and must not block, and must not keep what they are given.
type Tap interface {
	// Events are the records that the plugin is about to be handed; none if it
	// is asked for more of its actions.
	Events(b []byte)
	// Actions are what it has answered, before they are carried out. err is a
	// trap.
	Actions(b []byte, more bool, err error)
	// Closed says that nothing more comes: the connection has ended, or another
	// version goes on with it.
	Closed()
}
