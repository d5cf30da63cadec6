package control

import (
	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// Version of these calls. An engine and a plugin understand each other when the
// major versions are the same; fields are added only, and what one side does not
// know it ignores.
const (
	Major   = 1
	Minor   = DeviceInfoMinor
	Version = Major<<16 | Minor
)

// MapMemoryMinor is the first minor version that knows MapMemory and ForgetMemory.
const MapMemoryMinor = 1

// DeviceInfoMinor is the first minor version that knows DeviceInfo and WatchDevice.
const DeviceInfoMinor = 2

// MaxMessage is the most bytes that a message may have, either way.
const MaxMessage = 1 << 20

// Kind is which contract a plugin fulfils.
type Kind string

// The kinds.
const (
	Protocol Kind = "protocol" // package protocol
	Store    Kind = "store"    // package store
)

// Hello asks who the plugin is.
type Hello struct {
	Version uint32 `json:"version"` // of the engine's end
}

// Manifest answers Hello.
type Manifest struct {
	Version     uint32   `json:"version"` // of the plugin's end
	Kind        Kind     `json:"kind"`
	Name        string   `json:"name"`
	Release     string   `json:"release"`           // the plugin's own version
	ABI         uint32   `json:"abi"`               // abi.Version it was built with
	Payload     string   `json:"payload,omitempty"` // manifest.Payload of a protocol plugin
	Options     []Option `json:"options,omitempty"`
	FenceOnExit bool     `json:"fence_on_exit,omitempty"` // store.Manifest's
}

// Option is a manifest.Option.
type Option struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // manifest.OptionType's name
	Required bool   `json:"required,omitempty"`
	Secret   bool   `json:"secret,omitempty"`
	Help     string `json:"help,omitempty"`
}

// OpenDevice opens a volume's disk. The answer is its Info.
type OpenDevice struct {
	Device   uint64 `json:"device"` // chosen by the engine, never used again
	Volume   string `json:"volume"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Options  []byte `json:"options,omitempty"` // "name=value\0" in the manifest's order
}

// Info is a block.Info.
type Info struct {
	Size           uint64     `json:"size"`
	BlockSize      uint32     `json:"block_size"`
	PreferredBlock uint32     `json:"preferred_block"`
	MaxTransfer    uint32     `json:"max_transfer"`
	MaxZeroes      uint64     `json:"max_zeroes"`
	MaxDiscard     uint64     `json:"max_discard"`
	Caps           block.Caps `json:"caps"`
	Identity       string     `json:"identity"`
}

// InfoOf makes the message of a description.
func InfoOf(i block.Info) Info { return Info(i) }

// Block is the inverse of InfoOf.
func (i Info) Block() block.Info { return block.Info(i) }

// DeviceInfo asks for the description of a disk that is open. The answer is its
// Info.
type DeviceInfo struct {
	Device uint64 `json:"device"`
	Rescan bool   `json:"rescan,omitempty"` // have the plugin look first, if it can
}

// WatchDevice asks to be told when a disk's description is another. The answer
// comes when it has changed more often than Seen says, or when the disk is closed;
// or at once, if the plugin never tells.
type WatchDevice struct {
	Device uint64 `json:"device"`
	Seen   uint64 `json:"seen"` // Changes of the answer before; 0 at first
}

// DeviceChanges answers WatchDevice.
type DeviceChanges struct {
	Changes uint64 `json:"changes"`         // so far
	Never   bool   `json:"never,omitempty"` // nothing will be told: do not ask again
}

// CloseDevice closes a disk whose channels are closed.
type CloseDevice struct {
	Device uint64 `json:"device"`
}

// OpenChannel begins to serve a region of shared memory: the channel of a
// device, or, with Device 0, an instance of a protocol plugin. Its descriptors
// come over the other socket, under the same number.
type OpenChannel struct {
	Channel uint64      `json:"channel"` // chosen by the engine, never used again
	Device  uint64      `json:"device,omitempty"`
	Layout  ring.Layout `json:"layout"`
	Poll    int64       `json:"poll_ns"` // how long to look for work before sleeping; 0: not at all
}

// CloseChannel ends the serving of a region. The answer comes when nothing of it
// is outstanding in the plugin any more.
type CloseChannel struct {
	Channel uint64 `json:"channel"`
}

// MapMemory shows the process memory of a virtual machine, which requests' payload
// may lie in from then on (ring.Piece). The file behind it comes over the other
// socket, under the same number. It is for stores whose operator trusts them with
// that; an engine never calls it where the plugin's Version is below 1.1.
type MapMemory struct {
	Memory uint64 `json:"memory"` // chosen by the engine, never used again
	Offset uint64 `json:"offset"` // in the file, bytes, at a page
	Size   uint64 `json:"size"`   // bytes
}

// ForgetMemory has the process unmap memory that it was shown. No request names it
// any more. The answer comes when it is unmapped.
type ForgetMemory struct {
	Memory uint64 `json:"memory"`
}

// Done answers what has nothing else to tell, and asks what needs no more words.
type Done struct{}
