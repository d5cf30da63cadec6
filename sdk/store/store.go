// Package store is the contract of a store plugin: one that does its own I/O,
// because it needs a library (an S3 client, librbd) or because what it serves
// is local (a file, memory). A plugin that only turns requests into a server's
// protocol is better off with package protocol.
//
// Life cycle: Plugin.Open gives a Device; Device.Channel gives one Channel for
// each reactor that uses it; Channel.Submit takes batches until Channel.Close;
// Device.Close comes after every channel is closed.
package store

import (
	"context"

	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
)

// Plugin is a kind of store.
type Plugin interface {
	// Manifest describes the plugin and its options; it never changes.
	Manifest() Manifest
	// Open opens a disk. It runs off the reactors and may block until ctx ends.
	// An error names what is wrong and how to mend it.
	Open(ctx context.Context, o Options) (Device, error)
}

// Manifest describes a store plugin.
type Manifest struct {
	Name    string
	Version string
	Options []Option
	// FenceOnExit says that what the plugin was doing is over when its process
	// is: nobody behind it can still change the disk. A plugin that sends writes
	// to somebody else leaves it out, and after its death the engine waits for
	// the volume's fence time before a write of unknown outcome is sent again.
	FenceOnExit bool
}

// Option describes one option of a volume.
type Option = manifest.Option

// The types of options, as in package manifest.
const (
	String = manifest.String
	Size   = manifest.Size
	Bool   = manifest.Bool
	Int    = manifest.Int
	Path   = manifest.Path
)

// Options are a volume's checked options: every name is in the manifest and
// every value has its type.
type Options struct {
	Volume   string // the volume's name, for messages
	ReadOnly bool
	Strings  map[string]string
	Sizes    map[string]uint64 // Size and Int options
	Bools    map[string]bool
}

// Device is an open disk.
type Device interface {
	// Info describes the disk. A flush on one channel must cover what was
	// acknowledged on any (CapFlushCoversAll); a device that cannot promise
	// it leaves the capability out and the engine flushes every channel.
	// It is called from any goroutine, and must not block. What it says may
	// change while the disk is open: see Changing and Rescanner. A disk may
	// grow; one that has become smaller, or another one, stops its volume.
	Info() block.Info
	// Channel is called on the reactor that will use the channel.
	Channel(done Completer) (Channel, error)
	// Close releases the disk. Every channel has been closed before.
	Close() error
}

// Channel is one reactor's way into a device. Its methods are called on that
// reactor only and must not block.
type Channel interface {
	// Submit takes a batch; the slice itself is the caller's again when
	// Submit returns, the requests are not until they complete. Requests are
	// valid: inside the disk, aligned, within the Max fields, and only with
	// capabilities that Info promised.
	Submit(batch []*block.Request)
	// Close is called when nothing is outstanding.
	Close()
}

// Completer takes finished requests back. Status, Filled (for a read) and
// Extents must be set. Each request is completed exactly once.
type Completer interface {
	// Complete hands back a request from within Submit, on the reactor.
	Complete(r *block.Request)
	// Post hands back requests from any goroutine. The slice is the
	// caller's again when Post returns.
	Post(batch []*block.Request)
}
