// Package wire is what the host and the agent in the guest say to each other
// over a virtio serial port: JSON, one message a line.
package wire

// Port is the name of the virtio serial port.
const Port = "agent"

// Ops of a [Request].
const (
	Run      = "run"      // run Command by a shell; replies follow until one is Done
	Signal   = "signal"   // send Number to the process group of the command with this ID
	Kmsg     = "kmsg"     // the kernel's log, in the format of /dev/kmsg
	PowerOff = "poweroff" // at once, without a sync; there is no reply
)

// Request is what the host asks.
type Request struct {
	ID      uint64 // of the request; chosen by the host, from 1
	Op      string
	Command string `json:",omitempty"`
	Number  int    `json:",omitempty"`
}

// Reply is a piece of an answer. The agent says first, with ID 0, that it is
// there; Error then tells what went wrong before it was.
type Reply struct {
	ID     uint64
	Output []byte `json:",omitempty"` // stdout and stderr, as they came
	Done   bool   `json:",omitempty"` // the last reply to this request
	Status int    `json:",omitempty"` // with Done: exit status; 128 + the number of a signal
	Error  string `json:",omitempty"` // with Done: the request could not be carried out
}
