package nbdkernel

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"blockengine/engine/volume"
)

// AnyNumber leaves the device's number to the kernel.
const AnyNumber = -1

// Bounds of Options.
const (
	MaxConnections = 16
	MaxNumber      = 1<<20 - 1
	MaxName        = 128 // bytes
)

// Options of a device.
type Options struct {
	Name   string         // of the export, on the server too; what the state is kept under
	Volume *volume.Volume // its disk has been seen
	Server string         // Unix socket on which the engine's NBD server serves the export

	Number      int // of /dev/nbdN, or AnyNumber; where the device is there already it keeps its own
	Connections int // 0: one; a device that is there already keeps as many as it has
	// DeadConnTimeout is how long requests wait while there is no connection; then
	// they fail. To the second; 0: they fail at once.
	DeadConnTimeout time.Duration
	// RequestTimeout is after what time without an answer the driver gives up a
	// connection and sends the request again; to the second. The volume must have
	// ended every request by then: a request that it still works on is beyond
	// recall, a copy of it could land after newer ones, and the error of a flush
	// would be lost. It is also how long a request waits that was in flight when
	// its engine died, because the driver does not look at it before.
	RequestTimeout time.Duration

	StateDir string       // where devices are remembered; one engine has it at a time
	Log      *slog.Logger // nil: slog.Default()
}

// withDefaults checks o and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	if o.Connections == 0 {
		o.Connections = 1
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
	case o.Server == "":
		return errors.New("there is no server to connect to")
	case o.StateDir == "":
		return errors.New("there is no state directory to remember it in")
	case o.Number < AnyNumber || o.Number > MaxNumber:
		return fmt.Errorf("device number %d: give 0 to %d, or %d for any", o.Number, MaxNumber, AnyNumber)
	case o.Connections < 1 || o.Connections > MaxConnections:
		return fmt.Errorf("%d connections: give 1 to %d", o.Connections, MaxConnections)
	case o.DeadConnTimeout < 0:
		return fmt.Errorf("a dead connection timeout of %v: give 0 or more", o.DeadConnTimeout)
	case o.RequestTimeout < time.Second:
		return fmt.Errorf("a request timeout of %v: give 1s at least, the driver never sends a request again without one", o.RequestTimeout)
	}
	if _, seen := o.Volume.Info(); !seen {
		return volume.ErrNotOpen
	}
	return nil
}
