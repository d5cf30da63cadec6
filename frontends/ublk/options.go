package ublk

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
)

// Recovery says what becomes of requests while no engine serves the device.
type Recovery uint8

// The ways of recovery.
const (
	// Reissue keeps the device; requests wait, and those that the dead engine
	// had are given to the next one.
	Reissue Recovery = iota
	// FailIO keeps the device; all requests fail until the next engine is
	// there. It needs Linux 6.13.
	FailIO
	// None removes the device when its engine dies.
	None
)

var recoveryNames = [...]string{"reissue", "fail-io", "none"}

func (r Recovery) String() string {
	if int(r) < len(recoveryNames) {
		return recoveryNames[r]
	}
	return "unknown"
}

// flags are what a device has in the kernel that is made so.
func (r Recovery) flags() uint64 {
	switch r {
	case Reissue:
		return flagRecovery | flagReissue
	case FailIO:
		return flagRecovery | flagFailIO
	}
	return 0
}

// AnyID leaves the device's number to the kernel.
const AnyID = -1

// Bounds and defaults of Options. With CopyKernel a queue has a buffer of MaxIO for
// each of its Depth requests, else they share Options.Buffers; all of it is
// allocated beforehand.
const (
	DefaultDepth = 64
	MaxDepth     = 4096 // the driver's
	MaxQueues    = 256  // of ours; the driver has one for each CPU at most
	DefaultMaxIO = 256 << 10
	LeastMaxIO   = 4 << 10
	MostMaxIO    = 16 << 20
	MaxName      = 128 // bytes
	MaxID        = 1<<20 - 1

	DefaultTimeout = 30 * time.Second
)

// Options of a device.
type Options struct {
	Name     string         // of the export; what the state is kept under
	Volume   *volume.Volume // its disk has been seen
	ReadOnly bool

	ID       int // of /dev/ublkbN, or AnyID; where the device is there already it keeps its own
	Queues   int // 0: one
	Depth    int // requests of a queue at a time; 0: DefaultDepth
	MaxIO    int // bytes, the largest request; a multiple of 4 KiB; 0: DefaultMaxIO
	Recovery Recovery
	Copy     Copy // of payload; a device that is there already keeps its own
	Buffers  int  // bytes of each queue that requests share, see Copy; 0: DefaultBuffers
	// Unprivileged makes a device that users without CAP_SYS_ADMIN may make and
	// serve; udev has to give them /dev/ublkcN.
	Unprivileged bool

	StateDir string             // where devices are remembered; one engine has it at a time
	Reactors []*reactor.Reactor // running ones; they must not stop before the device has been closed
	Log      *slog.Logger       // nil: slog.Default()
	Timeout  time.Duration      // of each control command; 0: DefaultTimeout
}

// withDefaults checks o and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.Depth == 0 {
		o.Depth = DefaultDepth
	}
	if o.MaxIO == 0 {
		o.MaxIO = DefaultMaxIO
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o, o.check()
}

func (o *Options) check() error {
	switch {
	case o.Name == "" || len(o.Name) > MaxName:
		return fmt.Errorf("a name of %d bytes: give it 1 to %d", len(o.Name), MaxName)
	case o.Volume == nil:
		return errors.New("it has no volume")
	case len(o.Reactors) == 0:
		return errors.New("there is no reactor to serve it")
	case o.StateDir == "":
		return errors.New("there is no state directory to remember it in")
	case o.ID < AnyID || o.ID > MaxID:
		return fmt.Errorf("device number %d: give 0 to %d, or %d for any", o.ID, MaxID, AnyID)
	case o.Queues < 0 || o.Queues > MaxQueues:
		return fmt.Errorf("%d queues: give 1 to %d", o.Queues, MaxQueues)
	case o.Depth < 0 || o.Depth > MaxDepth:
		return fmt.Errorf("a queue depth of %d: give 1 to %d", o.Depth, MaxDepth)
	case o.MaxIO < LeastMaxIO || o.MaxIO > MostMaxIO || o.MaxIO%LeastMaxIO != 0:
		return fmt.Errorf("largest request of %d bytes: give a multiple of %d up to %d", o.MaxIO, LeastMaxIO, MostMaxIO)
	case o.Recovery > None:
		return fmt.Errorf("recovery %d is unknown", o.Recovery)
	}
	if err := o.checkCopy(); err != nil {
		return err
	}
	if _, seen := o.Volume.Info(); !seen {
		return volume.ErrNotOpen
	}
	return nil
}
