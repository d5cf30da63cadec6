// Package abi is the binary interface between the engine and a protocol
// plugin: the records that carry events into a plugin and actions out of it.
// sdk/PLUGIN.md says the same in words, for plugins in other languages.
//
// A call hands the plugin a buffer of event records; the plugin answers with a
// buffer of action records. All integers are little endian. Every record
// starts with a Header, is a multiple of 8 bytes long and starts at a multiple
// of 8. A record may grow at its end in later minor versions: a reader uses
// Header.Size to step and takes missing fields as zero.
//
// The structs below are laid over the buffers in place, which is why the
// package builds on little-endian machines only and why abi_test.go asserts
// every size and offset.
package abi

import "unsafe"

// Version of the interface. A plugin with another major version is refused;
// a greater minor version only adds events, actions and fields at the end.
const (
	Major   = 1
	Minor   = 0
	Version = Major<<16 | Minor
)

// Names of what a module exports (DESIGN chapter 3).
const (
	ExportABI      = "be_abi"      // () -> i32: Version
	ExportManifest = "be_manifest" // () -> i64: pointer<<32 | length of the manifest's text
	ExportBuffers  = "be_buffers"  // (in_size i32, out_size i32) -> i32: pointer to a Buffers
	ExportCall     = "be_call"     // (in_len i32) -> i32: length of the actions | CallMore
	ExportInit     = "_initialize" // () -> (): optional, called once before all others
)

// CallMore in the result of be_call says that the plugin has more actions than
// the output buffer holds: take these and call again with in_len 0.
const CallMore = 1 << 31

// Buffer sizes that the engine asks for. A plugin must accept them.
const (
	InSize  = 64 << 10
	OutSize = 64 << 10
)

// Limits on single records and on what a plugin may hold; beyond them the
// engine ends the connection with a protocol violation. Session data and state
// go into one Opened record, so together they leave room for the options in a
// buffer of InSize.
const (
	MaxInline  = 32 << 10 // bytes inline in one Send, Publish, State, Message or Data
	MaxTimers  = 16       // timers of a connection
	MinTimerNS = 1e6      // a timer set to fire sooner fires after this long
	MaxWant    = 32 << 10 // largest Min and Max of a Want
	MaxText    = 1024     // bytes of a log line or failure text that are kept
	MaxState   = 16 << 10 // handover state, all its records together
	MaxSession = 32 << 10 // session data
)

// Header starts every record.
type Header struct {
	Kind  uint16 // an Event… or Action… kind
	Flags uint16 // meaning depends on the kind
	Size  uint32 // of the whole record with its inline bytes and padding; multiple of 8
}

// Buffers is what be_buffers points to.
type Buffers struct {
	In, InSize   uint32 // where events are written; at least the size asked for
	Out, OutSize uint32 // where actions are read
}

// Align rounds n up to the next multiple of 8.
func Align(n int) int { return (n + 7) &^ 7 }

// Buffer gives n zero bytes that start at a multiple of 8, as records do.
func Buffer(n int) []byte {
	words := make([]uint64, Align(n)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n)
}

// at lays a T over b without looking at its length; callers have checked it.
func at[T any](b []byte) *T { return (*T)(unsafe.Pointer(unsafe.SliceData(b))) }

// Overlay lays a record of type T over the start of b, or gives nil if b is
// too short. b must start at a multiple of 8.
func Overlay[T any](b []byte) *T {
	if uintptr(len(b)) < unsafe.Sizeof(*new(T)) {
		return nil
	}
	return at[T](b)
}

// Next splits the first record off b. ok is false if b does not start with a
// whole, aligned record.
func Next(b []byte) (rec, rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, b, false
	}
	n := at[Header](b).Size
	if n < 8 || n&7 != 0 || uint64(n) > uint64(len(b)) {
		return nil, b, false
	}
	return b[:n:n], b[n:], true
}

// Inline gives the n bytes that follow a record's fixed part of size fixed, or
// nil, false if they do not lie inside the record.
func Inline(rec []byte, fixed int, n uint32) ([]byte, bool) {
	if fixed > len(rec) || uint64(n) > uint64(len(rec)-fixed) {
		return nil, false
	}
	return rec[fixed : fixed+int(n) : fixed+int(n)], true
}
