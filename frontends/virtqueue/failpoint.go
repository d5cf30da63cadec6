package virtqueue

// Failpoint, if not nil, is called after every store that matters to recovery.
// Tests set it, before any queue is used, to stop or kill the process there; in
// production it is nil and costs a branch.
var Failpoint func(Step)

// Step names the store that has just been made.
type Step uint8

// The steps in the order in which a request passes them. Those of a batch come
// once for each request of it, where not said otherwise.
const (
	StepFetched   Step   = iota // the batch's chains are read and checked, nothing is marked (once)
	StepCounter                 // in-flight: the counter is written
	StepMarked                  // in-flight: the head is marked
	StepElement                 // the used element is written, not yet visible
	StepLinked                  // in-flight: the head is linked into the batch
	StepBatchHead               // in-flight: last_batch_head is written (once)
	StepPublished               // the used index is written (once)
	StepCleared                 // in-flight: the head's mark is gone; in recovery too
	StepSettled                 // in-flight: used_idx is written (once); in recovery too
	StepPrepared                // in-flight: a new region is filled in, its version not yet (once)
	StepVersion                 // in-flight: the new region's version is written (once)
	Steps         = iota        // how many there are
)

var stepNames = [Steps]string{
	"fetched", "counter", "marked", "element", "linked", "batch-head", "published", "cleared", "settled", "prepared", "version",
}

func (s Step) String() string {
	if int(s) < len(stepNames) {
		return stepNames[s]
	}
	return "unknown"
}
