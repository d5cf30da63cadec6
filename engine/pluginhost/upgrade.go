package pluginhost

import (
	"errors"
	"time"
)

// UpgradeRequest is an operator's order to go over to another version of a
// plugin.
type UpgradeRequest struct {
	Plugin  string        // what volumes call it
	Path    string        // absolute, of the new version's file; "": the one that is linked into the engine
	SHA256  string        // pin in hex, "" for none
	Volumes []string      // none: all of the plugin's
	Method  string        // "": what fits, in the order of DESIGN chapter 5; else handover, second-session or serial
	Drain   time.Duration // how long requests that are outstanding may take to finish; 0: DefaultDrain
	Watch   time.Duration // how long the new version is watched; negative: as the configuration says
	Save    bool          // so that a restart keeps it
	Shadow  time.Duration // how long it runs beside the version that runs, compared and not carried out; 0: not at all
}

// RollbackRequest is an operator's order to go back to the generation before.
// Its fields are UpgradeRequest's.
type RollbackRequest struct {
	Plugin  string
	Volumes []string
	Method  string
	Drain   time.Duration
	Save    bool
}

// DefaultDrain is how long requests that are outstanding may take to finish
// before an upgrade is given up.
const DefaultDrain = 5 * time.Second

// Phase is how far an upgrade has come.
type Phase string

// The phases, in their order.
const (
	PhaseLoad     Phase = "load"     // read, check and compile the file
	PhaseVerify   Phase = "verify"   // options, and a login beside the old version where that is possible
	PhaseShadow   Phase = "shadow"   // it runs beside the old version, on the same events
	PhaseTakeover Phase = "takeover" // volume by volume
	PhaseWatch    Phase = "watch"    // the new version serves and is compared with the old one
	PhaseRollback Phase = "rollback" // back to the generation before
	PhaseSave     Phase = "save"
	PhaseDone     Phase = "done"
	PhaseFailed   Phase = "failed"
)

// ErrNotKept says that an upgrade or rollback is done and only its last step
// has failed: a restart of the engine does not keep what runs.
var ErrNotKept = errors.New("it runs, but is not kept over a restart")

// ErrRolledBack says that a new version took over and had to go again.
var ErrRolledBack = errors.New("rolled back")

// Event is news of an upgrade.
type Event struct {
	Time   time.Time
	Phase  Phase
	Plugin string
	Volume string         // "" if it is of all
	Method string         // with which a volume was taken over, or ""
	Pause  time.Duration  // the longest that a request of the volume had to wait for that
	Shadow *ShadowFigures // of a volume, at the end of PhaseShadow; else nil
	Text   string         // for people
}

// LineStatus is what is known of a plugin and its generations.
type LineStatus struct {
	Name     string
	Current  *Plugin   // of most volumes
	Previous *Plugin   // that Rollback goes back to, nil if there is none
	Canary   *Plugin   // that some volumes have already and others not, or nil
	Next     *Plugin   // that an upgrade has loaded and no volume runs yet, a shadow for instance, or nil
	Phase    Phase     // of what is under way, "" if nothing is
	Watching time.Time // until when, with PhaseWatch
	Differs  string    // how what runs differs from what the configuration names, "" if it does not
	History  []Record  // oldest first
	UpgradeCounters
}

// UpgradeCounters count what has become of a plugin's upgrades.
type UpgradeCounters struct {
	Upgrades    uint64            // that came to their end well
	Failed      uint64            // that changed nothing
	Rollbacks   map[string]uint64 // by reason: "operator", "traps", "contract", "connections", "stalled", "errors", "latency"
	LastReason  string            // of the last automatic rollback, for people
	LastPause   time.Duration     // the longest that a request had to wait for the last takeover
	LastMethods map[string]uint64 // takeovers by method
}
