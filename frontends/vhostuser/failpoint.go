package vhostuser

// Failpoint, if not nil, is called on the reactor at every step of a request
// that is not the ring's (see virtqueue.Failpoint). Tests set it, before any
// server is made, to stop or kill the process there; in production it is nil and
// costs a branch.
var Failpoint func(Step)

// Step is where a turn stands.
type Step uint8

// The steps in the order in which a batch passes them, each once for a batch.
const (
	StepFetch    Step   = iota // there is work; nothing has been taken
	StepSubmit                 // requests were taken and are about to go to the volume
	StepComplete               // the volume has given some back; nothing is said to the guest
	StepPublish                // they are finished, and about to be published
	StepNotify                 // they are published, and the guest wants to be told
	StepNotified               // it has been told
	Steps        = iota        // how many there are
)

var stepNames = [Steps]string{"fetch", "submit", "complete", "publish", "notify", "notified"}

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
