package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// RuntimeProcess runs a plugin in a process of its own.
const RuntimeProcess Runtime = "process"

// Sandbox is how much a plugin's process is held.
type Sandbox string

// The choices of sandbox.
const (
	SandboxStrict Sandbox = "strict" // namespaces, no privileges, a read-only view
	SandboxOff    Sandbox = "off"    // what the engine's user may do, it may do
)

// Process is what a [[plugin]] section says of a plugin's process. The zero
// value is that of other runtimes.
type Process struct {
	Args      []string
	CPUs      float64 // processors that it may use; 0: all
	Sandbox   Sandbox
	Network   bool     // whether it keeps the host's network in the sandbox
	ReadWrite []string // absolute; directories that it may write to
	// GuestMemory says memory_sharing = "guest": a store's process maps the memory
	// of virtual machines, and their payload is not copied.
	GuestMemory bool
}

// The choices of memory_sharing: where payload lies on its way to a process.
const (
	sharingBounce = "bounce" // in memory that only the engine and the process share
	sharingGuest  = "guest"  // in the virtual machine's own
)

// Defaults and limits of a process.
const (
	DefaultProcessMemory = 512 * MiB
	MinProcessMemory     = 16 * MiB
	MaxProcessMemory     = 1 << 50
	MinCPUs, MaxCPUs     = 0.05, 1024
	maxArgs              = 64
)

// DefaultProcess is how a process runs of which no section says anything: one
// that an upgrade brings to a section of another runtime.
func DefaultProcess() Process { return Process{Sandbox: SandboxStrict} }

// processKeys are for the runtime "process" only.
var processKeys = []string{"args", "cpus", "sandbox", "network", "read_write", "memory_sharing"}

// process reads the keys of a process, and refuses them elsewhere.
func (s *section) process(runtime Runtime) Process {
	p := Process{
		Args:    s.list("args"),
		CPUs:    s.number("cpus", 0, MinCPUs, MaxCPUs),
		Sandbox: choice(s, "sandbox", SandboxStrict, []Sandbox{SandboxStrict, SandboxOff}),
		Network: s.boolean("network"),
	}
	p.ReadWrite = s.directories("read_write")
	p.GuestMemory = choice(s, "memory_sharing", sharingBounce, []string{sharingBounce, sharingGuest}) == sharingGuest
	if runtime == RuntimeProcess {
		return p
	}
	for _, key := range processKeys {
		if s.has(key) && runtime != "" {
			s.bad(key, fmt.Sprintf("is not for a plugin with runtime %q", runtime), `remove it, or write runtime = "process"`)
		}
	}
	return Process{}
}

// list reads a list of strings.
func (s *section) list(key string) []string {
	v, ok := s.get(key)
	if !ok {
		return nil
	}
	const fix = `write a list of strings, as in ["a", "b"]`
	items, ok := v.([]any)
	if !ok {
		s.mismatch(key, v, "a list of strings", fix)
		return nil
	}
	if len(items) > maxArgs {
		s.bad(key, fmt.Sprintf("has %d entries", len(items)), fmt.Sprintf("write at most %d", maxArgs))
		return nil
	}
	list := make([]string, len(items))
	for i, item := range items {
		t, ok := item.(string)
		switch {
		case !ok:
			s.bad(key, fmt.Sprintf("has %s among its entries", describe(item)), fix)
			return nil
		case strings.ContainsRune(t, 0):
			s.bad(key, fmt.Sprintf("entry %d holds a NUL byte", i+1), "remove it")
			return nil
		}
		list[i] = t
	}
	return list
}

// directories reads a list of paths.
func (s *section) directories(key string) []string {
	list := s.list(key)
	for i, text := range list {
		path, err := parsePath(s.r.cfg.Dir, text)
		if err != nil {
			s.badValue(key, err)
			return nil
		}
		if filepath.Clean(path) == "/" {
			s.bad(key, `names "/"`, `name the directories that the plugin writes to, or write sandbox = "off"`)
			return nil
		}
		list[i] = path
	}
	return slices.Clip(list)
}

// number reads a number, whole or not.
func (s *section) number(key string, def, lo, hi float64) float64 {
	v, ok := s.get(key)
	if !ok {
		return def
	}
	fix := fmt.Sprintf("write a number from %v to %v, as in 1.5", lo, hi)
	n, ok := v.(float64)
	if i, whole := v.(int64); whole {
		n, ok = float64(i), true
	}
	switch {
	case !ok:
		s.mismatch(key, v, "a number", fix+", without quotes")
	case !(n >= lo && n <= hi): // NaN is neither
		s.bad(key, fmt.Sprintf("%v is out of range", n), fix)
	default:
		return n
	}
	return def
}
