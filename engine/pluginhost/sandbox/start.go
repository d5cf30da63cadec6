package sandbox

import (
	"errors"
	"log/slog"
)

// Process is a program in its sandbox. Its methods may be called from anywhere.
type Process struct {
	pid  int
	done chan struct{}
	exit Exit
}

var errUnfinished = errors.New("processes cannot be started yet")

// Start runs a program. It comes back when the walls stand and the program has
// been executed. An error says what the kernel refuses, and how to mend it.
func Start(s Spec) (*Process, error) { return nil, errUnfinished }

// PID is the process's number, as the engine sees it.
func (p *Process) PID() int { return p.pid }

// Kill ends the process and all that it forked. It does not wait: see Done.
func (p *Process) Kill() {}

// Done is closed when the process has been reaped: nothing of it runs any more.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended; valid after Done.
func (p *Process) Exit() Exit { return p.exit }

// Usage says what it uses. It fails after Done.
func (p *Process) Usage() (Usage, error) { return Usage{}, errUnfinished }

// Reap kills what an engine that died has left, as its record in stateDir says,
// and waits for it. It never touches a process that is not in the record: a
// number that somebody else has by now is told by its start time. It is called
// before anything resumes, with stateDir locked.
func Reap(stateDir string, log *slog.Logger) error { return errUnfinished }

// Feature is one thing that the sandbox is made of.
type Feature struct {
	Name   string
	OK     bool
	Detail string // why not, and how to mend it
}

// Probe says what this kernel lets this user do.
func Probe() []Feature { return nil }

// Main is the body of the command that is the shim. It comes back only if it
// fails, with the exit status.
func Main(args []string) int { return 1 }

// User gives the number of the user and group that a program of this name runs
// as if the engine is root and the mode is Strict.
func User(name string) int { return 0 }
