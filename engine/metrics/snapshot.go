package metrics

import (
	"time"

	"blockengine/engine/session"
	"blockengine/engine/volume"
)

// Snapshot is what an engine has counted. The slices are not changed once they
// are given.
type Snapshot struct {
	Volumes  []Volume
	Exports  []Export
	Plugins  []Plugin
	Reactors []Reactor
	// Listeners is how many sockets accept clients.
	Listeners int
	Draining  bool
	// Partial is set when a reactor did not answer in time: the figures are
	// then those of the last scrape that all answered.
	Partial bool
}

// Volume is what a volume has counted.
type Volume struct {
	Name   string
	Plugin string
	// Generation of the plugin that the volume runs.
	Generation int
	State      volume.State
	Reason     string
	Size       uint64 // bytes
	Stats      *volume.Stats
	Session    *session.Counters // nil on a store plugin
	// Connections to the storage server, 0 on a store plugin.
	Connections int
}

// Plugin is what a loaded plugin is, and what has become of its upgrades.
type Plugin struct {
	Name       string
	Generation int // of most of its volumes
	Version    string
	Hash       string
	Upgradable bool // it has the counters below
	Differs    bool // from what the configuration names
	Done       uint64
	Failed     uint64
	Rollbacks  map[string]uint64 // by reason
	Takeovers  map[string]uint64 // by method
	LastPause  time.Duration
	Process    *Process // nil if it has none of its own
}

// Process is what the process of a plugin uses.
type Process struct {
	Up       bool
	Restarts uint64        // processes after the first
	CPU      time.Duration // of the present one
	Memory   uint64        // bytes
}

// Export is what an export has counted.
type Export struct {
	Name        string
	Volume      string
	Frontend    string
	Listen      string
	Up          bool
	Connections int
	Stats       *volume.Stats
	Device      *Device // nil where the export is no device of this host
}

// Device is an export as a block device of the engine's host.
type Device struct {
	Path       string
	State      string // one of DeviceStates
	Recovered  bool
	Again      uint64
	Reconnects uint64
}

// Reactor is the load of an event loop.
type Reactor struct {
	Index  int
	Turns  uint64
	Sleeps uint64
}
