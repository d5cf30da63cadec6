// Package sandbox starts a stranger's program so that it can reach what it was
// given and nothing else, ends it, and cleans up after an engine that died. It
// does not know what the program is for.
//
// Start forks the engine's own file once more, into new namespaces. That
// process, the shim (Main), builds the walls around itself and then becomes the
// program. Read first: start.go (the engine's side), shim.go, view.go (what the
// program sees of the file system), engine/sys/sandboxfilter.go (which system
// calls it may make), reap.go.
package sandbox

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// Mode says how much a program is held.
type Mode string

const (
	// Strict is all walls: namespaces, no capabilities, a system call filter, a
	// read-only view of the file system, limits.
	Strict Mode = "strict"
	// Off leaves the program what the engine's user may do, but not what set-uid
	// programs could give it. It still gets the exact environment and descriptors,
	// its limits, and it ends with the engine. What it forks into a session of its
	// own ends with it only where cgroups can be used.
	Off Mode = "off"
)

// Spec says what to run and what it may have.
type Spec struct {
	Name string // for messages, the record, the cgroup, and the user that it runs as
	// Path is opened by the engine, once; what was opened is what is executed.
	// So /proc/self/fd/N names a file that the engine holds open.
	Path string
	Args []string // the first is the program's name for itself
	Env  []string // all of its environment

	Files          []*os.File // become descriptors 3, 4, …; all others are closed
	Stdout, Stderr *os.File   // nil: thrown away

	Mode    Mode
	Network bool // Strict: whether it keeps the host's network

	// ReadWrite are absolute directories that stay as they are in the view. Their
	// permissions are the operator's business: see User.
	ReadWrite []string
	// Private are the same, but they were made for this program: if the program
	// runs as a user of its own, they are given to that user.
	Private []string
	// Hide are absolute paths besides StateDir that appear empty.
	Hide []string

	Memory uint64  // bytes, 0: no limit
	CPUs   float64 // 0: no limit
	Nice   int     // 0 … 19

	StateDir string   // the engine's own: hidden, and keeps the record that Reap reads
	Self     []string // the command that is the shim; nil: DefaultSelf
	Log      *slog.Logger
}

// DefaultSelf is the command of the engine that calls Main.
var DefaultSelf = []string{"/proc/self/exe", Command}

// Command is its name.
const Command = "internal-sandbox"

// Exit says how a process ended.
type Exit struct {
	Code   int            // if Signal is 0
	Signal syscall.Signal // that ended it
	OOM    bool           // it was ended for using more memory than it may
}

// String is for messages: "exit status 1", "killed by signal 9 (killed)".
func (e Exit) String() string {
	switch {
	case e.OOM:
		return "used more memory than it may"
	case e.Signal != 0:
		return fmt.Sprintf("killed by signal %d (%v)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Usage is what a process and what it forked have used.
type Usage struct {
	CPU    time.Duration // user and system
	Memory uint64        // bytes now
	Peak   uint64        // bytes at most, as far as it was seen
}
