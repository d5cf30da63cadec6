package ublk

// Failpoint, if not nil, is called at every step of a device's life and of a
// request's. Tests set it, before any device is opened, to stop or kill the
// process there; in production it is nil and costs a branch.
var Failpoint func(Step)

// Step is where a device, or a turn of a queue, stands.
type Step uint8

// The steps of making a device, of taking one over, of a turn, and of leaving.
const (
	StepRecorded  Step = iota // what it will be is written down; the driver knows nothing
	StepAdded                 // the driver has it; its number is not written down
	StepNamed                 // its number is written down
	StepDescribed             // the driver has its parameters
	StepFetched               // its queues are fetched
	StepStarted               // the block device is there

	StepFound    // a device of a dead engine was found
	StepVerified // the volume is the same disk
	StepTaking   // the driver is about to be told that it is taken over
	StepTaken    // it has been
	StepRefetch  // the queues are fetched again
	StepServed   // it is served on

	StepSubmit           // requests were taken and are about to go to the volume
	StepComplete         // the volume has given some back
	StepCommit           // they are about to be given to the driver
	StepCommitted        // they have been
	StepQuiesced         // the driver hands out nothing any more, and the device is about to be left
	Steps         = iota // how many there are
)

var stepNames = [Steps]string{"recorded", "added", "named", "described", "fetched", "started",
	"found", "verified", "taking", "taken", "refetch", "served", "submit", "complete", "commit", "committed", "quiesced"}

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
