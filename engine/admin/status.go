package admin

import "time"

// Status is what an engine tells about itself. Counters count from the start
// of what they belong to; times are in seconds unless they say otherwise.
type Status struct {
	Engine  Engine   `json:"engine"`
	Volumes []Volume `json:"volumes"`
	Exports []Export `json:"exports"`
	Plugins []Plugin `json:"plugins"`
}

// Engine is the process.
type Engine struct {
	Version  string    `json:"version"`
	Go       string    `json:"go"`
	PID      int       `json:"pid"`
	Uptime   float64   `json:"uptime_seconds"`
	Config   string    `json:"config"` // absolute path of the file
	StateDir string    `json:"state_dir"`
	Draining bool      `json:"draining"`
	Reactors []Reactor `json:"reactors"`
	// Partial is set when a reactor did not answer in time: what it counts is
	// then as it was when it last did.
	Partial bool `json:"partial,omitempty"`
}

// Reactor is the load of an event loop.
type Reactor struct {
	Index  int    `json:"index"`
	Turns  uint64 `json:"turns"`
	Sleeps uint64 `json:"sleeps"`
}

// Volume is a disk and what it stands on.
type Volume struct {
	Name       string            `json:"name"`
	State      string            `json:"state"` // opening, online, away, stopped
	Reason     string            `json:"reason,omitempty"`
	ReadOnly   bool              `json:"read_only"`
	Size       uint64            `json:"size"` // bytes; 0 if it has not been seen yet
	BlockSize  uint32            `json:"block_size"`
	Caps       []string          `json:"caps"` // of the disk itself, without what the engine emulates
	Identity   string            `json:"identity,omitempty"`
	Plugin     string            `json:"plugin"`
	Generation int               `json:"generation"`
	Version    string            `json:"version"`
	Hash       string            `json:"hash"`
	Options    map[string]string `json:"options"` // without secrets
	Path       *Path             `json:"path,omitempty"`
	Session    *Session          `json:"session,omitempty"`
	Counts
}

// Path is the connection to a storage server.
type Path struct {
	Address     string `json:"address"`
	Connections int    `json:"connections"`
	LastError   string `json:"last_error,omitempty"`
}

// Session counts what went wrong, or was mended, between a volume and its
// storage server.
type Session struct {
	Connects   uint64 `json:"connects"`
	Reconnects uint64 `json:"reconnects"`
	Losses     uint64 `json:"losses"`
	Fences     uint64 `json:"fences"`
	Replays    uint64 `json:"replays"`
	Expired    uint64 `json:"expired"`
	Traps      uint64 `json:"traps"`
	Violations uint64 `json:"violations"`
	LostCaches uint64 `json:"lost_caches"`
}

// Export is a volume behind a listener.
type Export struct {
	Name        string  `json:"name"`
	Volume      string  `json:"volume"`
	Frontend    string  `json:"frontend"`
	Listen      string  `json:"listen"` // with the port that the kernel chose
	ReadOnly    bool    `json:"read_only"`
	Up          bool    `json:"up"`
	Reason      string  `json:"reason,omitempty"` // why it cannot come up
	Connections int     `json:"connections"`
	Device      *Device `json:"device,omitempty"` // of frontends ublk and nbd-kernel, once there is one
	Counts
}

// Device is an export as a block device of the engine's host.
type Device struct {
	Path       string `json:"path"`
	State      string `json:"state"`             // serving, closing, removed, broken
	Problem    string `json:"problem,omitempty"` // why it is broken
	Recovered  bool   `json:"recovered"`         // the engine before had it
	Size       uint64 `json:"size"`              // bytes, as the kernel has it
	Queues     int    `json:"queues"`            // nbd-kernel: connections
	Depth      int    `json:"depth,omitempty"`   // of each queue
	Again      uint64 `json:"again"`             // writes that the engine before may have sent already
	Reconnects uint64 `json:"reconnects"`        // nbd-kernel: connections that were lost and made again
}

// Counts are requests by kind and errors by errno.
type Counts struct {
	InFlight int64             `json:"in_flight"` // requests that have begun and not ended
	Ops      map[string]Op     `json:"ops"`
	Errors   map[string]uint64 `json:"errors"`
}

// Op counts requests of one kind.
type Op struct {
	Requests uint64  `json:"requests"`
	Bytes    uint64  `json:"bytes"`
	Errors   uint64  `json:"errors"`
	Seconds  float64 `json:"seconds"` // sum of latencies
}

// Total adds up the kinds.
func (c Counts) Total() Op {
	var t Op
	for _, o := range c.Ops {
		t.Requests += o.Requests
		t.Bytes += o.Bytes
		t.Errors += o.Errors
		t.Seconds += o.Seconds
	}
	return t
}

// Plugin is a loaded plugin: the version that its volumes run, and what is known
// of others. While some volumes have a canary the version is that of the rest.
type Plugin struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Loaded
	DropIn     string       `json:"drop_in,omitempty"`    // the file by which a restart loads another version than the configuration names
	Differs    string       `json:"differs,omitempty"`    // how what runs differs from what the configuration names
	Phase      string       `json:"phase,omitempty"`      // of the upgrade that is under way
	WatchUntil time.Time    `json:"watch_until,omitzero"` // with phase "watch"
	Previous   *Loaded      `json:"previous,omitempty"`   // what a rollback goes back to
	Canary     *Loaded      `json:"canary,omitempty"`     // what some volumes have and others have not
	Next       *Loaded      `json:"next,omitempty"`       // what an upgrade has loaded and no volume runs yet, a shadow for instance
	Upgrades   *Upgrades    `json:"upgrades,omitempty"`
	History    []Generation `json:"history,omitempty"` // oldest first
}

// Loaded is a version of a plugin that is loaded.
type Loaded struct {
	Runtime    string   `json:"runtime"`
	Version    string   `json:"version"`
	ABI        string   `json:"abi,omitempty"`
	Generation int      `json:"generation"`
	Hash       string   `json:"hash"`
	Path       string   `json:"path,omitempty"`
	Volumes    []string `json:"volumes"` // that run it
	Process    *Process `json:"process,omitempty"`
}

// Process is the process of a plugin with runtime "process".
type Process struct {
	PID      int       `json:"pid"` // 0: none runs at the moment
	Since    time.Time `json:"since,omitzero"`
	Restarts uint64    `json:"restarts"`           // processes after the first
	LastEnd  string    `json:"last_end,omitempty"` // how the last one ended that nobody wanted to end
	Sandbox  string    `json:"sandbox"`
	CPU      float64   `json:"cpu_seconds"`       // of this process
	Memory   uint64    `json:"memory"`            // bytes now
	Peak     uint64    `json:"memory_peak"`       // bytes at most
	Payload  *Payload  `json:"payload,omitempty"` // memory_sharing = "guest" only
}

// Payload counts what has stayed in guests' memory on its way to processes, and what
// was copied all the same.
type Payload struct {
	LentRequests   uint64 `json:"lent_requests"`
	LentBytes      uint64 `json:"lent_bytes"`
	CopiedRequests uint64 `json:"copied_requests"`
	CopiedBytes    uint64 `json:"copied_bytes"`
}

// Generation is an entry in a plugin's history.
type Generation struct {
	Generation int       `json:"generation"`
	Version    string    `json:"version"`
	Hash       string    `json:"hash"`
	Path       string    `json:"path,omitempty"`
	Volumes    []string  `json:"volumes,omitempty"` // that it was for, if not for all
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until,omitzero"` // absent while it runs
	Ended      string    `json:"ended,omitempty"`
	Shadow     string    `json:"shadow,omitempty"` // what it showed beside the version before, if it was run so
}

// Upgrades count what has become of a plugin's upgrades since the engine's
// start.
type Upgrades struct {
	Done         uint64            `json:"done"`
	Failed       uint64            `json:"failed"`                  // these changed nothing
	Rollbacks    map[string]uint64 `json:"rollbacks"`               // by reason; "operator" is no failure
	LastRollback string            `json:"last_rollback,omitempty"` // why, of the last that nobody ordered
	Takeovers    map[string]uint64 `json:"takeovers"`               // by method, one a volume
	LastPause    float64           `json:"last_pause_seconds"`
}
