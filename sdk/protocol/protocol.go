// Package protocol is the contract of a protocol plugin: encapsulation without
// I/O. A plugin is a deterministic state machine for each connection. Events
// come in (requests, bytes received, timers), actions go out (send these
// header bytes, send that request's payload, receive into this request's
// buffer, complete it). The engine owns sockets, memory and time.
//
// The same Go package is linked into the engine or compiled to WebAssembly
// (package sdk/wasm); both run the Machine of this package over the records of
// package abi, so that they cannot behave differently.
//
// Read first: sdk/PLUGIN.md.
package protocol

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
)

// Plugin is a protocol.
type Plugin interface {
	// Manifest describes the plugin; it never changes.
	Manifest() manifest.Manifest
	// NewConn makes the state machine of one connection.
	NewConn() Conn
}

// Conn is the state machine of one connection. Its methods are called one at a
// time. They must not keep the slices that they are given, and should not
// allocate once the connection is in use: a guest's garbage collector runs in
// idle times only.
//
// Base implements everything but Opened, Submit and Received.
type Conn interface {
	// Opened comes first. The plugin logs in: it sends, receives, and in the
	// end says Limits, after which requests come. With SessionResumed there is
	// no login: it says Limits at once and sends nothing, or it says Fail if it
	// does not understand the state.
	Opened(a *Actions, o *Opened)
	// Submit offers a batch and returns how many of it, from the start, were
	// taken; with the others it must do nothing. From the first refusal on the
	// engine offers no more than Ready has granted since: give Ready for every
	// place that gets free.
	Submit(a *Actions, batch []Request) (taken int)
	// Received looks at the stream from the current position on and returns
	// how many bytes it consumed. Actions about the received stream (Receive,
	// Discard) that it gives apply to the bytes after those, and it returns
	// after giving one. 0 without an action means: I need more; say how much
	// with Want. It is called again while it makes progress.
	Received(a *Actions, b []byte) (consumed int)
	// Timer tells that timer id has fired.
	Timer(a *Actions, id uint32, now Clock)
	// Abort asks for a request back: answer with Released or Complete, now or
	// later. The request's bytes that are queued are still sent.
	Abort(a *Actions, tag uint64)
	// Goodbye comes when nothing is outstanding: take leave of the server and
	// Close.
	Goodbye(a *Actions)
	// Closed comes last. Only Log, and Publish, are of use now.
	Closed(a *Actions, reason uint32)
	// Message comes from connection from of the same session.
	Message(a *Actions, from uint32, data []byte)
	// SessionData is what the control connection has published anew.
	SessionData(a *Actions, data []byte)
	// Digest answers Hash and CheckDigest.
	Digest(a *Actions, d *abi.Digest)
	// Payload is a copy of bytes of a write, from offset from of its payload
	// on, for a plugin whose manifest says that it transforms payload.
	Payload(a *Actions, tag, from uint64, data []byte)
	// Save is called with nothing outstanding: give, with State, what another
	// version resumes from, and nothing else; or nothing at all if that is not
	// possible at this moment. It changes nothing: the connection may go on
	// afterwards as if Save had not been called, or be dropped without Closed.
	Save(a *Actions)
}

// Windower is a Conn that can look at many windows of the stream in one call.
// It is for plugins whose replies are short and many; in WebAssembly a call for
// each of them costs as much as what it does.
type Windower interface {
	// Windows looks at a run of abi.Received records from stream position pos
	// on, handles as many as it likes from the start, and returns how many
	// bytes of records it is done with and the new position. A window that
	// does not contain the position is passed over. What it leaves, from
	// within a window maybe, goes to Received. For each piece of the stream it
	// writes Consume and the actions that follow from it, as the Machine
	// would, by way of Raw and Wrote.
	Windows(a *Actions, events []byte, pos uint64) (done int, newPos uint64)
}

// Request is one request of a batch, laid over the event buffer.
type Request = abi.Request

// Clock is the time that the engine gives, in ns. Mono has no specified origin.
type Clock struct{ Mono, Wall uint64 }

// Opened is what a connection starts with.
type Opened struct {
	*abi.Opened
	options []byte // "name=value\0" …
	// Session is the session data that the control connection published.
	SessionData []byte
	// State is what another version saved, when Session is SessionResumed. It
	// may be anything: an older format, a newer one, or not this plugin's.
	State []byte
}

// Option gives the value of an option of the volume, "" if it is not set.
func (o *Opened) Option(name string) string {
	b := o.options
	for len(b) > 0 {
		end := index(b, 0)
		if end < 0 {
			return ""
		}
		pair := b[:end]
		if eq := index(pair, '='); eq >= 0 && string(pair[:eq]) == name {
			return string(pair[eq+1:])
		}
		b = b[end+1:]
	}
	return ""
}

func index(b []byte, c byte) int {
	for i, v := range b {
		if v == c {
			return i
		}
	}
	return -1
}

// Base is embedded by a Conn and gives every optional method its default.
type Base struct{}

// Timer ignores timers.
func (Base) Timer(*Actions, uint32, Clock) {}

// Abort does nothing: the request completes when the server answers.
func (Base) Abort(*Actions, uint64) {}

// Goodbye closes at once.
func (Base) Goodbye(a *Actions) { a.Close() }

// Closed does nothing.
func (Base) Closed(*Actions, uint32) {}

// Message ignores messages.
func (Base) Message(*Actions, uint32, []byte) {}

// SessionData ignores session data.
func (Base) SessionData(*Actions, []byte) {}

// Digest ignores digests.
func (Base) Digest(*Actions, *abi.Digest) {}

// Payload ignores payload.
func (Base) Payload(*Actions, uint64, uint64, []byte) {}

// Save gives no state; a plugin whose Limits promise handover overrides it.
func (Base) Save(*Actions) {}
