package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"blockengine/engine/config"
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
	PhaseTakeover Phase = "takeover" // volume by volume
	PhaseWatch    Phase = "watch"    // the new version serves and is compared with the old one
	PhaseRollback Phase = "rollback" // back to the generation before
	PhaseSave     Phase = "save"
	PhaseDone     Phase = "done"
	PhaseFailed   Phase = "failed"
)

// Event is news of an upgrade.
type Event struct {
	Time   time.Time
	Phase  Phase
	Plugin string
	Volume string        // "" if it is of all
	Method string        // with which a volume was taken over, or ""
	Pause  time.Duration // the longest that a request of the volume had to wait for that
	Text   string        // for people
}

// Record is a generation in a plugin's history.
type Record struct {
	Generation int
	Version    string
	Hash       string
	Path       string
	Volumes    []string // that it was for, if not for all
	Since      time.Time
	Until      time.Time // zero while it runs
	Ended      string    // why; "" while it runs
}

// LineStatus is what is known of a plugin and its generations.
type LineStatus struct {
	Name     string
	Current  *Plugin   // of most volumes
	Previous *Plugin   // that Rollback goes back to, nil if there is none
	Canary   *Plugin   // that some volumes have already and others not, or nil
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
	Rollbacks   map[string]uint64 // by reason: "operator", "traps", "contract", "connections", "errors", "latency"
	LastReason  string            // of the last automatic rollback, for people
	LastPause   time.Duration     // the longest that a request had to wait for the last takeover
	LastMethods map[string]uint64 // takeovers by method
}

// Upgrader replaces plugins while their volumes are in use. Its methods are
// safe from any goroutine but a reactor's.
type Upgrader struct{}

// UpgraderOptions say what an Upgrader works on.
type UpgraderOptions struct {
	Config   *config.Config
	Registry *Registry
	Disks    []*Disk
	StateDir string // keeps the history
	// Save makes a restart keep a plugin's version; nil if that is not possible.
	Save func(p *Plugin) error
	Log  *slog.Logger
}

// NewUpgrader makes an Upgrader and notes in the history what runs.
func NewUpgrader(o UpgraderOptions) (*Upgrader, error) { return &Upgrader{}, nil }

// Upgrade goes over to another version and watches it. report is told what
// happens, one event at a time, and may be nil. An error means that the
// generation before runs, for every volume. ctx ends it as long as no volume
// has been taken over.
func (u *Upgrader) Upgrade(ctx context.Context, r UpgradeRequest, report func(Event)) error {
	return errors.New("pluginhost: Upgrade is not there yet")
}

// Rollback goes back to the generation before. It ends the watch of an upgrade
// that is under way.
func (u *Upgrader) Rollback(ctx context.Context, r RollbackRequest, report func(Event)) error {
	return errors.New("pluginhost: Rollback is not there yet")
}

// Status tells of every loaded plugin, in the order of Registry.Plugins.
func (u *Upgrader) Status() []LineStatus { return nil }

// Close gives up what is under way, and waits for that until ctx ends. The
// history says that the engine has ended.
func (u *Upgrader) Close(ctx context.Context) {}
