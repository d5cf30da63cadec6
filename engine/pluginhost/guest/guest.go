// Package guest is the seam between the engine and a plugin in whatever runtime.
// A protocol plugin's instance takes event records and gives action records
// (package sdk/abi); a store plugin in a process of its own is reached by links,
// which take requests. It knows nothing of sockets.
package guest

import (
	"context"
	"fmt"
	"time"

	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// Ticks that a call may spend in a metered runtime. A collection of the
// engine's own garbage waits for the call that is running, so calls on the
// data path get little: 4·10⁵ ticks are some 50 µs of what a compiler makes of
// ordinary Go, and 2 ms of the emptiest loop. The nbd plugin needs about 320
// ticks for a request, 10⁶ to start, and 2·10⁶ to collect its garbage; a Go
// guest whose stack grows needs up to 3·10⁵ for that.
const (
	BudgetCall  = 400_000    // one call on the data path, plus PerByte
	PerByte     = 32         // for each byte of events
	BudgetLogin = 20_000_000 // opened, goodbye, save, and what comes before login is done
	BudgetIdle  = 50_000_000 // collecting garbage
	BudgetInit  = 50_000_000 // start, _initialize, be_buffers
)

// CallWait is how long a call that must be answered at once may wait for another
// process, and a reactor with it. It is a few of an upgrade's calls, which take
// microseconds; but on a host that is busy a process may have to wait for its turn
// for longer than BudgetLogin would let a metered guest run, and an upgrade must not
// fail of that.
const CallWait = 500 * time.Millisecond

// Instance is the state machine of one connection. It is used by one
// goroutine at a time.
type Instance interface {
	// Input is the buffer for event records, at least abi.InSize long and
	// aligned to 8. It stays where it is for the instance's life.
	Input() []byte
	// Call hands in the first n bytes of Input with a budget in ticks and
	// gives the actions, valid until the next call. more asks for a call with
	// n = 0. After an error, which is a *Trap if the plugin is to blame, the
	// instance is only good for Close.
	Call(n int, budget int64) (actions []byte, more bool, err error)
	// Close releases the instance. Its buffers are gone then.
	Close()
}

// Module is a loaded protocol plugin.
type Module interface {
	Manifest() manifest.Manifest
	// Hash is the SHA-256 of the file in hex, or "builtin".
	Hash() string
	// Runtime is "builtin", "wasm" or "process".
	Runtime() string
	// NewInstance makes the state machine of a new connection. It may take
	// milliseconds: it is called off the reactors.
	NewInstance(ctx context.Context) (Instance, error)
	// Close releases the module when its instances are closed.
	Close() error
}

// Trap is the end of an instance by the plugin's own fault.
type Trap struct {
	Cause string // "budget", "depth", "memory", "unreachable", "exit", "output", "hang"
	Err   error  // the runtime's own words, may be nil
}

// Error says what the plugin did.
func (t *Trap) Error() string {
	if t.Err == nil {
		return "plugin trapped: " + t.Cause
	}
	return fmt.Sprintf("plugin trapped: %s: %v", t.Cause, t.Err)
}

// Unwrap gives the runtime's own error.
func (t *Trap) Unwrap() error { return t.Err }

// Linked makes a Module of a plugin that is linked into the engine.
func Linked(p protocol.Plugin) Module { return linked{p} }

type linked struct{ plugin protocol.Plugin }

func (l linked) Manifest() manifest.Manifest {
	m := l.plugin.Manifest()
	m.ABI = abi.Version
	if m.Payload == "" {
		m.Payload = manifest.Direct
	}
	return m
}

func (linked) Hash() string    { return "builtin" }
func (linked) Runtime() string { return "builtin" }
func (linked) Close() error    { return nil }

func (l linked) NewInstance(context.Context) (Instance, error) {
	i := &linkedInstance{in: abi.Buffer(abi.InSize), out: abi.Buffer(abi.OutSize)}
	i.machine = protocol.NewMachine(l.plugin.NewConn(), i.in, i.out, nil)
	return i, nil
}
