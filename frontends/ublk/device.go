package ublk

import (
	"context"
	"errors"

	"blockengine/engine/volume"
)

// Status is how a device stands.
type Status struct {
	ID        int
	Name      string // the export's
	Path      string // /dev/ublkbN
	State     State
	Problem   string // why it is Broken
	Recovered bool   // it was found after another engine, and is served on
	Queues    int    // as the kernel has them
	Depth     int    // of each
	MaxIO     int    // bytes
	Size      uint64 // bytes, as the kernel has it
	InFlight  int    // requests that we have
	Again     uint64 // writes that the engine before may have sent already
	Requests  volume.Stats
}

// State is where a device stands in its life.
type State uint8

// The states of a device.
const (
	Serving State = iota
	Closing
	Removed // somebody else has removed it
	Broken  // it cannot be served any more, see Status.Problem
)

var stateNames = [...]string{"serving", "closing", "removed", "broken"}

func (s State) String() string { return stateNames[s] }

// Device is a volume as /dev/ublkbN. Its methods are safe from any goroutine but
// a reactor's.
type Device struct {
	o  Options
	id int
}

// errNotYet is while the package grows.
var errNotYet = errors.New("ublk: not served yet")

// Open makes the device and serves it, or goes on serving the one of the same
// export that an engine before has left behind. The volume must be the same disk
// then, and not smaller; else the device stays as it is and Open fails. It
// returns when /dev/ublkbN can be used.
func Open(ctx context.Context, o Options) (*Device, error) {
	return nil, errNotYet
}

// ID is N in /dev/ublkbN.
func (d *Device) ID() int { return d.id }

// Path is /dev/ublkbN.
func (d *Device) Path() string { return "" }

// Status asks the reactors; it is for people and metrics.
func (d *Device) Status() Status { return Status{} }

// Close removes the device: it takes leave of the kernel's users of it (their
// outstanding requests are answered, later ones fail), stops and deletes it, and
// forgets it. When ctx ends first the device is left behind as after a kill, and
// the error says so.
func (d *Device) Close(ctx context.Context) error { return errNotYet }

// Leave ends the serving and keeps the device for the next engine, as a planned
// restart wants it: requests that the volume has are answered, later ones wait
// (or fail, as Options.Recovery has it). A device without recovery is closed.
func (d *Device) Leave(ctx context.Context) error { return errNotYet }

// Resize tells the kernel the volume's size, where it has grown. A device does
// so by itself when its volume grows; this one says why that fails: kernels
// before 6.16 cannot.
func (d *Device) Resize(ctx context.Context) error { return errNotYet }
