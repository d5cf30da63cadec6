package abi

// Kinds of actions, from the plugin to the engine.
const (
	// The sent stream.
	ActSend        = 1 // Bytes: send these
	ActSendPayload = 2 // Range: send a write's payload from..to
	ActSendDigest  = 3 // DigestMark: send the running digest, start a new one

	// The received stream; these apply in order, each to the bytes after the
	// one before.
	ActConsume     = 4 // Count: these bytes have been understood
	ActReceive     = 5 // Range: the next to-from bytes go into a read's payload
	ActDiscard     = 6 // Count: throw the next bytes away
	ActCheckDigest = 7 // DigestMark: compare the next bytes with the running digest
	ActWant        = 8 // Want: how much to hand in

	// Requests.
	ActZero     = 9  // Range: from..to of a read's payload are zeroes
	ActExtent   = 10 // Extent: one more extent of a block status
	ActComplete = 11 // Complete: a request is finished
	ActReleased = 12 // Complete: the answer to Abort
	ActTaken    = 13 // Count: how many of the call's requests were taken, if not all
	ActReady    = 14 // Count: so many more can be taken; counted from the first Taken on
	ActData     = 15 // Payload: bytes for a read's payload, from a plugin that transforms

	// The connection and its session.
	ActLimits   = 16 // Limits: the disk and what the connection can do; the first says that login is done
	ActTimer    = 17 // SetTimer
	ActPublish  = 18 // SessionData: session data for the other connections
	ActMessage  = 19 // Message: to another connection of the session
	ActFail     = 20 // Fail: this connection, or the session, cannot go on
	ActClose    = 21 // Header: close when what is queued has been sent
	ActState    = 22 // Bytes: the answer to Save, if the connection can be handed over now
	ActHash     = 23 // Hash: compute a digest of a payload
	ActPath     = 24 // PathState: news of the path's state
	ActRedirect = 25 // Bytes: go to this address instead
	ActLog      = 26 // Bytes; Flags is the level
)

// Header.Flags of actions.
const (
	// FlagDigest (Send, SendPayload, Consume, Receive, Discard): the bytes
	// count in the running digest of their stream. A payload is copied
	// privately first, so that a guest that writes into it cannot make the
	// digest wrong.
	FlagDigest = 1 << 0
	// FlagMore (State): another record continues this one.
	FlagMore = 1 << 1
	// FlagPermanent (Redirect): also for later connections.
	FlagPermanent = 1 << 2
)

// Levels of a log line.
const (
	LogDebug = 0
	LogInfo  = 1
	LogWarn  = 2
	LogError = 3
)

// Kinds of digests.
const (
	DigestCRC32C = 1 // Castagnoli, as iSCSI and NVMe/TCP use it; sent little endian
	DigestSHA256 = 2 // Hash only
)

// Bytes carries Len inline bytes.
type Bytes struct {
	Header
	Len uint32
	_   uint32
}

// Range names bytes [From, To) of a request's payload.
type Range struct {
	Header
	Tag      uint64
	From, To uint64
}

// Count carries a number.
type Count struct {
	Header
	N uint64
}

// Want says how the stream should be cut: the engine waits until Min bytes are
// there and hands in windows of at most Max. Until a plugin says otherwise Min
// is 1 and Max MaxWant. A plugin that leaves a whole window of Min bytes or more
// untouched, without a new Want, breaks the contract.
type Want struct {
	Header
	Min, Max uint32
}

// Complete ends a request.
type Complete struct {
	Header
	Tag    uint64
	Status uint32 // block.Status; in Released: 0 was never executed, 1 unknown
	_      uint32
	Done   uint64 // bytes done, where a protocol reports partial success
}

// Extent is one extent of a block status, in disk order from the request's
// offset on.
type Extent struct {
	Header
	Tag    uint64
	Length uint64
	State  uint32 // block.ExtentState
	_      uint32
}

// How the outcome of a write that was under way on a lost connection becomes
// certain, so that it may be sent again (DESIGN chapter 2, rule 1).
const (
	FenceEOF       = 0 // the server's end of stream after our own, or the volume's fence time
	FenceReinstate = 1 // a login with the same SessionID ends the old connection's tasks
	FenceQuiesce   = 2 // FenceNS after the loss
)

// Limits describes the disk and the connection. Fields as in block.Info. The
// identity follows inline.
type Limits struct {
	Header
	Size        uint64
	MaxZeroes   uint64
	MaxDiscard  uint64
	FenceNS     uint64
	BlockSize   uint32
	Preferred   uint32
	MaxTransfer uint32
	Caps        uint32 // block.Caps
	Depth       uint32 // requests outstanding at most; 0: as many as offered
	MaxConns    uint32 // connections that the session may have; at least 1
	Fence       uint32 // Fence…
	Handover    uint32 // 1: Save is supported
	IdentityLen uint32
	_           uint32
}

// SetTimer sets timer ID to fire in After ns; 0 cancels it.
type SetTimer struct {
	Header
	ID    uint32
	_     uint32
	After uint64
}

// Scopes of Fail.
const (
	FailConn    = 1 // reconnect and go on
	FailSession = 2 // reconnect every connection
	FailForever = 3 // do not try again: the volume stops with the text as its reason
)

// Fail ends a connection or more. The text follows inline.
type Fail struct {
	Header
	Scope  uint32
	Status uint32 // errno
	Len    uint32
	_      uint32
}

// DigestMark names a running digest's kind; ID comes back in EvDigest.
type DigestMark struct {
	Header
	ID   uint32
	Kind uint32
}

// Hash asks for the digest of bytes [From, To) of a write's payload; what is
// sent of that payload afterwards is the private copy that was hashed.
type Hash struct {
	Header
	ID       uint32
	Kind     uint32
	Tag      uint64
	From, To uint64
}

// States of a path.
const (
	PathOptimised    = 1
	PathNonOptimised = 2
	PathInaccessible = 3
)

// PathState is news of the path's state.
type PathState struct {
	Header
	State uint32
	_     uint32
}
