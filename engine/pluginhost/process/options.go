package process

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"blockengine/engine/pluginhost/sandbox"
)

// Options say what to load and how its processes run.
type Options struct {
	Name      string // what volumes call the plugin; processes and log lines are named by it
	Path      string // of the program
	SHA256    string // pin in hex, "" for none
	Args      []string
	Memory    uint64  // bytes that a process may have, 0: no limit
	CPUs      float64 // 0: no limit
	Sandbox   sandbox.Mode
	Network   bool     // in a sandbox: whether it keeps the host's network
	ReadWrite []string // in a sandbox: directories that it may write to
	Hide      []string // in a sandbox: files and sockets that it does not see, where they exist
	// GuestMemory has a store's process map the memory of virtual machines, so that
	// their payload is not copied. It may read and write all of it.
	GuestMemory bool
	// StateDir is the engine's own, for the record of processes that the next
	// engine ends; "": there is none, because nothing is served.
	StateDir string
	Self     []string // the command that is the sandbox's shim; nil: sandbox.DefaultSelf
	// Poll is how long a worker in the process looks for requests before it sleeps,
	// as reactors look for events; 0: not at all.
	Poll time.Duration
	// Hang is how long the process may leave calls unanswered and requests
	// untaken before it is killed; 0: DefaultHang.
	Hang time.Duration
	Log  *slog.Logger // nil: nowhere
}

// Defaults.
const DefaultHang = 5 * time.Second

// Bounds on memory and processors.
const (
	MinMemory = 16 << 20
	MaxCPUs   = 1024
)

func (o *Options) complete() error {
	if o.Sandbox == "" {
		o.Sandbox = sandbox.Strict
	}
	if o.Hang == 0 {
		o.Hang = DefaultHang
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = filepath.Base(o.Path)
	}
	var errs []error
	if o.Memory != 0 && o.Memory < MinMemory {
		errs = append(errs, fmt.Errorf("plugin %s: memory of %d bytes: give at least 16MiB", o.Path, o.Memory))
	}
	if o.CPUs < 0 || o.CPUs > MaxCPUs || math.IsNaN(o.CPUs) {
		errs = append(errs, fmt.Errorf("plugin %s: %v cpus: give up to %d, as in 1.5", o.Path, o.CPUs, MaxCPUs))
	}
	if o.Sandbox != sandbox.Strict && o.Sandbox != sandbox.Off {
		errs = append(errs, fmt.Errorf("plugin %s: sandbox %q: %q or %q", o.Path, o.Sandbox, sandbox.Strict, sandbox.Off))
	}
	return errors.Join(errs...)
}

// environment is all that a process finds there, but for what go-plugin adds. A
// Go program uses as many processors as it may, and collects its garbage before
// it meets its limit.
func (o *Options) environment() []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp", "TMPDIR=/tmp"}
	if o.CPUs > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(int(math.Ceil(o.CPUs))))
	}
	if o.Memory > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatUint(o.Memory/10*9, 10))
	}
	return env
}

// processName is what the program is called in ps.
func (o *Options) processName() string { return "engine-plugin-" + o.Name }
