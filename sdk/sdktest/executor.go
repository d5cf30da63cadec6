package sdktest

import (
	"fmt"
	"io"
	"math/rand/v2"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// Cut says how the received stream is handed in.
type Cut int

const (
	Whole   Cut = iota // as it comes, in the largest windows that are wanted
	Single             // it arrives byte by byte, and windows are as short as allowed
	Random             // it arrives and is cut at random
	Guessed            // as Random, with guessed windows further on, right and wrong ones
)

// String names the cut in subtests.
func (c Cut) String() string { return [...]string{"whole", "single", "random", "guessed"}[c] }

// Options of an executor.
type Options struct {
	Manifest manifest.Manifest
	Values   map[string]string // the volume's options
	Cut      Cut
	Seed     uint64
	Conn     uint32 // number of the connection; 0 has the control role
	Session  []byte // session data, for data connections
	Begins   uint16 // how the connection came to be (abi.Session…); 0: SessionFirst
	State    []byte // what another instance saved, with SessionResumed
	Pos      uint64 // of the received stream, with SessionResumed
	Depth    uint32 // 0: 128
	// Lies says that nothing the server sends is to be trusted: what does not
	// get done for it is not the plugin's fault.
	Lies bool
	// Deliver, if set, takes messages to other connections.
	Deliver func(to uint32, data []byte)
}

// Executor is the engine's side of one connection. It is not safe for
// concurrent use. What a plugin does wrong is collected in Violations.
type Executor struct {
	Violations []string
	Limits     *protocol.Limits // nil until login is done
	News       []protocol.Limits
	Failed     *Failure // the plugin has failed the connection
	Closing    bool     // the plugin wants to close
	EOF        bool     // the server has closed
	Saved      []byte   // what the last Save gave
	HasSaved   bool     // it gave something
	Published  []byte
	Messages   []Message
	Paths      []uint32
	Redirects  []Redirect
	Logs       []string
	Sent       uint64 // bytes
	Calls      int
	Budget     int64

	t      TB
	inst   Instance
	server Server
	o      Options
	rnd    *rand.Rand
	ev     events
	in     stream
	out    []byte
	crcOut uint32
	hashed map[uint64][]byte
	timers map[uint32]uint64
	reqs   map[uint64]*Request
	order  []*Request // offered and not taken
	called []*Request // offered in the call under way
	credit uint64
	short  bool // the plugin refused some; wait for Ready
	tags   uint64
	after  []func() // events to give once the call is over
	dead   bool     // the instance trapped
	closed bool     // Closed has been given
	mono   uint64
	ended  bool
	trace  func(actions []byte) // sees what each call gave
	state  []byte               // handover state so far
	answer *answer
}

// Failure is what a plugin failed with.
type Failure struct {
	Scope  uint32
	Status block.Status
	Text   string
}

// Message to another connection.
type Message struct {
	To   uint32
	Data string
}

// Redirect to another address.
type Redirect struct {
	Address   string
	Permanent bool
}

// Request is one request and its result.
type Request struct {
	Op     block.Op
	Mods   block.Flags
	Offset uint64
	Length uint64
	Data   []byte // a write's payload; a read's is made by Submit

	Done     bool
	Released bool // given back after an abort
	Executed bool // with Released: it may have been executed
	Status   block.Status
	Partial  uint64
	Extents  []block.Extent

	tag    uint64
	filled []bool
	gone   bool // the plugin has let go of it

	aborted bool // it was asked for
}

// Tag under which the plugin knows the request.
func (r *Request) Tag() uint64 { return r.tag }

// NewExecutor makes an executor over an instance and a connection to a server.
// The caller closes both.
func NewExecutor(t TB, inst Instance, server Server, o Options) *Executor {
	if o.Depth == 0 {
		o.Depth = 128
	}
	if o.Begins == 0 {
		o.Begins = abi.SessionFirst
	}
	x := &Executor{
		t: t, inst: inst, server: server, o: o, Budget: 1 << 40,
		rnd:    rand.New(rand.NewPCG(o.Seed, 0x5eed)),
		ev:     events{buf: inst.Input()},
		reqs:   map[uint64]*Request{},
		hashed: map[uint64][]byte{},
		timers: map[uint32]uint64{},
		tags:   o.Seed & 0xffff,
		mono:   1e9,
	}
	if len(x.ev.buf) < abi.InSize {
		x.violate(inCalls, "the input buffer is %d bytes long, less than %d", len(x.ev.buf), abi.InSize)
	}
	x.in = stream{base: o.Pos, pos: o.Pos, min: 1, max: abi.MaxWant}
	return x
}

func (x *Executor) violate(where passage, format string, args ...any) {
	x.Violations = append(x.Violations, fmt.Sprintf(format, args...)+where.suffix())
}

// Open hands in Opened and runs until login is done or nothing moves.
func (x *Executor) Open() {
	x.openUntil(func() bool { return x.Limits != nil })
}

func (x *Executor) openUntil(done func() bool) {
	x.opened()
	x.Run(done)
}

// opened hands in Opened.
func (x *Executor) opened() {
	var options []byte
	for _, o := range x.o.Manifest.Options {
		if v, ok := x.o.Values[o.Name]; ok {
			options = append(append(append(append(options, o.Name...), '='), v...), 0)
		}
	}
	e := abi.Opened{
		Mono: x.mono, Wall: 1.7e18, Conn: x.o.Conn, Role: abi.RoleControl, Session: x.o.Begins,
		Depth: x.o.Depth, OptionsLen: uint32(len(options)), SessionLen: uint32(len(x.o.Session)),
		StateLen: uint32(len(x.o.State)), StreamPos: x.o.Pos,
	}
	if x.o.Conn > 0 {
		e.Role = abi.RoleData
	}
	for i := range e.Seed {
		e.Seed[i] = byte(x.rnd.Uint32())
	}
	copy(e.HostID[:], "sdktest-host-id-")
	copy(e.SessionID[:], "sdktest-session-")
	if !put(&x.ev, abi.EvOpened, e, options, x.o.Session, x.o.State) {
		x.t.Fatalf("options, session data and state do not fit a buffer of %d bytes", len(x.ev.buf))
	}
	x.call()
}

// call hands in what has been put and carries out the actions.
func (x *Executor) call() {
	if x.dead || x.closed {
		x.ev.n = 0
		return
	}
	n := x.ev.n
	x.ev.n = 0
	for {
		x.Calls++
		actions, more, err := x.inst.Call(n, x.Budget)
		if err != nil {
			x.dead = true
			x.violate(inSandbox, "the instance trapped: %v", err)
			return
		}
		if x.trace != nil {
			x.trace(actions)
		}
		x.actions(actions)
		if !more {
			break
		}
		if len(actions) == 0 {
			x.violate(inCalls, "the instance asks for another call and gave no action")
			break
		}
		n = 0
	}
	x.called, x.in.windows = nil, nil
	if len(x.out) > 0 {
		x.server.Send(x.out)
		x.Sent += uint64(len(x.out))
		x.out = nil
	}
	x.settle()
}

// settle gives the events that the actions gave rise to.
func (x *Executor) settle() {
	for len(x.after) > 0 {
		f := x.after[0]
		x.after = x.after[1:]
		f()
	}
}

// Over reports whether the connection cannot go on.
func (x *Executor) Over() bool { return x.dead || x.closed || x.Failed != nil }

// Run moves bytes between plugin and server until done says so, the connection
// is over or nothing moves.
func (x *Executor) Run(done func() bool) {
	for !done() && !x.Over() {
		if !x.step(false) && !x.step(true) {
			return
		}
	}
}

// step makes one move; false if there is none.
func (x *Executor) step(wait bool) bool {
	moved := x.receive(wait)
	if x.fulfil() {
		moved = true
	}
	x.settle()
	if x.feed() {
		moved = true
	}
	return moved
}

// receive takes what the server sent.
func (x *Executor) receive(wait bool) bool {
	if len(x.in.coming) == 0 {
		b, err := x.server.Recv(wait)
		switch {
		case err == io.EOF:
			x.EOF = true
		case err != nil && !x.o.Lies:
			x.violate(inLife, "%v", err)
		}
		x.in.coming = append(x.in.coming, b...)
	}
	return x.in.arrive(x.o.Cut, x.rnd)
}

// Idle hands in the idle event.
func (x *Executor) Idle() { x.ev.bare(abi.EvIdle); x.call() }

// Goodbye hands in goodbye and runs until the plugin closes.
func (x *Executor) Goodbye() {
	x.ev.bare(abi.EvGoodbye)
	x.call()
	x.Run(func() bool { return x.Closing })
}

// Closed hands in closed, the last event. The plugin may only log and publish.
func (x *Executor) Closed(reason uint32) {
	put(&x.ev, abi.EvClosed, abi.Closed{Reason: reason})
	x.in.over = true
	x.call()
	x.closed = true
}

// Message hands in a message from another connection.
func (x *Executor) Message(from uint32, data []byte) {
	put(&x.ev, abi.EvMessage, abi.Message{Conn: from, Len: uint32(len(data))}, data)
	x.call()
}

// SessionData hands in new session data.
func (x *Executor) SessionData(data []byte) {
	put(&x.ev, abi.EvSession, abi.SessionData{Len: uint32(len(data))}, data)
	x.call()
}

// Unknown hands in an event that no version has defined.
func (x *Executor) Unknown() {
	put(&x.ev, 0x7ff0, abi.Count{N: 1})
	x.call()
}

// end closes the instance and the connection. It may be called again.
func (x *Executor) end() {
	if !x.ended {
		x.ended = true
		x.inst.Close()
		x.server.Close()
	}
}

// Pos is the position in the received stream that the plugin has reached.
func (x *Executor) Pos() uint64 { return x.in.pos }

// Outstanding is the number of requests that the plugin holds.
func (x *Executor) Outstanding() int { return len(x.reqs) }

// Advance moves the clock and fires the timers that are due, earliest first.
func (x *Executor) Advance(ns uint64) {
	target := x.mono + ns
	for {
		id, at, found := uint32(0), uint64(0), false
		for i, t := range x.timers {
			if t <= target && (!found || t < at) {
				id, at, found = i, t, true
			}
		}
		if !found {
			break
		}
		x.mono = max(x.mono, at)
		delete(x.timers, id)
		put(&x.ev, abi.EvTimer, abi.Timer{ID: id, Mono: x.mono, Wall: 1.7e18 + x.mono})
		x.call()
	}
	x.mono = target
}

// Timers is the number of timers that are set.
func (x *Executor) Timers() int { return len(x.timers) }
