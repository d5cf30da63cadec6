package nbdkernel

// Failpoint, if not nil, is called at every step of a device's life. Tests set
// it, before any device is opened, to kill the process there; in production it
// is nil.
var Failpoint func(Step)

// Step is where the life of a device stands.
type Step uint8

// The steps, in the order in which they come: making a device, finding one again,
// and removing it.
const (
	StepSockets      Step   = iota // sockets are negotiated; nothing is written
	StepRecord                     // the device is remembered, and not there yet
	StepConnected                  // it is there; nobody has been told
	StepFound                      // the device of a dead engine is found
	StepReconfigured               // it has our sockets
	StepDisconnected               // it is gone, and still remembered
	Steps            = iota        // how many there are
)

var stepNames = [Steps]string{"nbd-sockets", "nbd-record", "nbd-connected", "nbd-found", "nbd-reconfigured", "nbd-disconnected"}

func (s Step) String() string {
	if int(s) < len(stepNames) {
		return stepNames[s]
	}
	return "unknown"
}

func at(s Step) {
	if Failpoint != nil {
		Failpoint(s)
	}
}
