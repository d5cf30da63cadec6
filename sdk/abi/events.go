package abi

import "blockengine/sdk/block"

// Kinds of events, from the engine to the plugin.
const (
	EvOpened   = 1  // Opened: the connection is there; first of all events
	EvRequest  = 2  // Request: one request of a batch
	EvReceived = 3  // Received: a window of the received stream
	EvTimer    = 4  // Timer: a timer has fired
	EvAbort    = 5  // Abort: give a request back
	EvGoodbye  = 6  // Header: say goodbye to the server, then Close
	EvClosed   = 7  // Closed: the connection is gone; last of all events
	EvMessage  = 8  // Message: from another connection of the session
	EvSession  = 9  // SessionData: the control connection published anew
	EvSave     = 10 // Header: answer with State, in this call; nothing is outstanding
	EvIdle     = 11 // Header: time to clean up (collect garbage)
	EvDigest   = 12 // Digest: a digest asked for is ready
	EvPayload  = 13 // Payload: a write's bytes, for plugins that transform them
)

// Roles of a connection. A protocol without the distinction sees RoleControl
// for the first connection of a session and RoleData for the others.
const (
	RoleControl = 1
	RoleData    = 2
)

// How a connection came to be.
const (
	SessionFirst     = 1 // the volume's first session
	SessionReconnect = 2 // after a loss, or after another generation's session has ended
	SessionSecond    = 3 // beside an older generation's session, to stay or for a trial
	SessionResumed   = 4 // goes on with an older generation's connection; State holds what it saved
)

// Header.Flags of events.
const (
	// FlagShadow (Opened, with SessionResumed): the version that has saved goes
	// on as well, and what this one does is compared with that and never carried
	// out. Where numbers that the server gives back depend on the version, it
	// uses those of the state.
	FlagShadow = 1 << 0
)

// Opened tells a plugin of its connection. After the fixed part come, each
// padded to a multiple of 8: the options, the session data, the state.
type Opened struct {
	Header
	Mono, Wall uint64 // ns; the monotonic clock's origin is unspecified
	HostID     [16]byte
	SessionID  [16]byte // the same for every connection and reconnect of a session
	Seed       [32]byte // randomness of the connection's own
	Conn       uint32   // number of the connection in its session, from 0
	Reactor    uint32
	Role       uint16
	Session    uint16 // Session…
	Depth      uint32 // requests that the engine keeps outstanding at most
	OptionsLen uint32 // "name=value\0" for each option, in the manifest's order
	SessionLen uint32 // session data
	StateLen   uint32 // handover state
	ReadOnly   uint32 // 1: the volume will not write
	StreamPos  uint64 // position of the received stream; 0 but for SessionResumed
}

// Request hands over one request. All Request records of a call form a batch.
type Request struct {
	Header
	Tag    uint64 // names the request until it is completed or released
	Op     block.Op
	_      uint8
	Mods   block.Flags // FUA and the like
	_      uint32
	Offset uint64
	Length uint64
}

// Received carries a window of the stream: Len bytes, inline, the first of
// them at Offset. The plugin looks at it from the stream position on that it
// has reached. A window that does not contain that position, which is a wrong
// guess of the engine, is to be ignored; one that starts before it may be. The
// engine hands those bytes in again.
type Received struct {
	Header
	Offset uint64
	Len    uint32
	_      uint32
}

// Timer tells that a timer has fired.
type Timer struct {
	Header
	ID         uint32
	_          uint32
	Mono, Wall uint64 // ns
}

// Abort asks for a request back; Released or Complete answers.
type Abort struct {
	Header
	Tag uint64
}

// Reasons in Closed.
const (
	ClosedLocal  = 1 // the engine closed
	ClosedEOF    = 2 // the server closed
	ClosedReset  = 3 // reset or another error of the transport, see Status
	ClosedFailed = 4 // the plugin failed the connection
)

// Closed tells that the connection is gone.
type Closed struct {
	Header
	Reason uint32
	Status uint32 // errno
}

// Message carries Len bytes from connection Conn to another one. It is an
// event and an action; in the action Conn is the addressee.
type Message struct {
	Header
	Conn uint32
	Len  uint32
}

// SessionData carries Len bytes of session data, inline.
type SessionData struct {
	Header
	Len uint32
	_   uint32
}

// Digest carries a digest's value, or for a check its outcome.
type Digest struct {
	Header
	ID     uint32
	Status uint32   // of CheckDigest: 0, or EBADMSG if they differ
	Value  [32]byte // CRC32C: the first 4 bytes, little endian; SHA-256: all
}

// Payload carries bytes [From, From+Len) of a request's payload, inline.
type Payload struct {
	Header
	Tag  uint64
	From uint64
	Len  uint32
	_    uint32
}
