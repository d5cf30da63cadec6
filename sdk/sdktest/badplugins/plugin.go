// Package badplugins is a plugin of the tiny protocol that misbehaves in the
// way that its option fault names. It is for tests of the engine: whatever it
// does must cost its own volume only.
//
// A plugin in Go runs on package protocol's machine, which gives well-formed
// records only; records that are garbage need another language.
package badplugins

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest/testplugins/tiny"
)

// Faults, each the value of option fault.
const (
	CompleteForeign   = "complete-foreign"   // completes a request that it was never given
	CompleteTwice     = "complete-twice"     // completes each request twice
	CompleteUnfilled  = "complete-unfilled"  // completes reads at once, without data
	CompleteHalf      = "complete-half"      // completes reads of which half is filled
	SendBeyond        = "send-beyond"        // sends beyond a write's payload
	SendOfRead        = "send-of-read"       // sends the payload of a read
	ReceiveBeyond     = "receive-beyond"     // receives beyond a read's payload
	ReceiveForeign    = "receive-foreign"    // receives into a request that it was never given
	ReceiveOverlap    = "receive-overlap"    // receives into the same bytes twice
	ZeroBeyond        = "zero-beyond"        // zeroes beyond a read's payload
	ExtentBeyond      = "extent-beyond"      // describes more than was asked for
	NeverConsume      = "never-consume"      // leaves the stream untouched after login
	WantNothing       = "want-nothing"       // wants windows of no bytes
	WantEverything    = "want-everything"    // wants windows larger than there are
	TimerFlood        = "timer-flood"        // sets a timer to fire at once, for ever
	TimerUnknown      = "timer-unknown"      // sets a timer beyond the number allowed
	PublishFlood      = "publish-flood"      // publishes on each request
	MessageSelf       = "message-self"       // sends a message to itself
	LogFlood          = "log-flood"          // logs a thousand lines a request
	SendFlood         = "send-flood"         // sends a megabyte of its own for each request
	LieLimits         = "lie-limits"         // a block size that is no power of two
	ShrinkDisk        = "shrink-disk"        // tells of another size after the first request
	TakeTooMany       = "take-too-many"      // says it took more than it was offered
	ReadyUnasked      = "ready-unasked"      // gives credits, though it refused nothing
	RefuseAll         = "refuse-all"         // takes no request, ever
	ReleaseUnasked    = "release-unasked"    // releases requests that nobody wants back
	NeverComplete     = "never-complete"     // sends nothing and completes nothing
	IgnoreGoodbye     = "ignore-goodbye"     // never closes
	FailAlways        = "fail-always"        // fails the connection on each request
	FailForever       = "fail-forever"       // fails for ever on the first request
	Panic             = "panic"              // traps on the first request
	LoopForever       = "loop"               // never returns from the first request
	LoopLogin         = "loop-login"         // never returns from Opened
	Recurse           = "recurse"            // calls itself without an end
	EatMemory         = "eat-memory"         // allocates without an end
	StateFlood        = "state-flood"        // gives more state than is allowed when asked to save
	HashForeign       = "hash-foreign"       // asks for the hash of a request that it was never given
	DataUnasked       = "data-unasked"       // gives read data though it does not transform
	ErrnoTooLarge     = "errno-too-large"    // completes with an errno that does not exist
	CloseAtOnce       = "close-at-once"      // closes after login
	RedirectElsewhere = "redirect-elsewhere" // wants to go where the configuration does not allow
)

// Faults lists all of them.
var Faults = []string{
	CompleteForeign, CompleteTwice, CompleteUnfilled, CompleteHalf, SendBeyond, SendOfRead, ReceiveBeyond,
	ReceiveForeign, ReceiveOverlap, ZeroBeyond, ExtentBeyond, NeverConsume, WantNothing, WantEverything,
	TimerFlood, TimerUnknown, PublishFlood, MessageSelf, LogFlood, SendFlood, LieLimits, ShrinkDisk, TakeTooMany,
	ReadyUnasked, RefuseAll, ReleaseUnasked, NeverComplete, IgnoreGoodbye, FailAlways, FailForever, Panic,
	LoopForever, LoopLogin, Recurse, EatMemory, StateFlood, HashForeign, DataUnasked, ErrnoTooLarge, CloseAtOnce,
	RedirectElsewhere,
}

// Plugin gives the badly behaved protocol; without a fault it is tiny.
func Plugin() protocol.Plugin { return plugin{} }

type plugin struct{}

func (plugin) Manifest() manifest.Manifest {
	return manifest.Manifest{
		Name: "bad", Version: "1", Payload: manifest.Direct,
		Options: []manifest.Option{
			{Name: "features", Type: manifest.String, Help: "as of tiny"},
			{Name: "fault", Type: manifest.String, Help: "what to do wrong"},
		},
	}
}

func (plugin) NewConn() protocol.Conn { return &conn{Conn: tiny.NewConn(false)} }

// conn misbehaves after login, or in it.
type conn struct {
	*tiny.Conn
	fault    string
	loggedIn bool
}

// foreign is a tag that no request has.
const foreign = 0xdeadbeefdeadbeef

func (c *conn) Opened(a *protocol.Actions, o *protocol.Opened) {
	c.fault = o.Option("fault")
	switch c.fault {
	case LoopLogin:
		loop()
	case TimerFlood:
		a.SetTimer(0, 1)
	case TimerUnknown:
		a.SetTimer(abi.MaxTimers, 1e9)
	case WantNothing:
		a.Want(0, 0)
		return
	case WantEverything:
		a.Want(1<<31, 1<<31)
		return
	}
	c.Conn.Opened(a, o)
}

func (c *conn) Received(a *protocol.Actions, b []byte) int {
	if c.loggedIn && c.fault == NeverConsume {
		return 0
	}
	if c.loggedIn {
		return c.Conn.Received(a, b)
	}
	if c.fault == LieLimits && len(b) >= tiny.SizeReply {
		a.Limits(&protocol.Limits{Info: block.Info{Size: 1000, BlockSize: 3, PreferredBlock: 1}})
		return len(b)
	}
	n := c.Conn.Received(a, b)
	if n > 0 {
		c.loggedIn = true
		if c.fault == CloseAtOnce {
			a.Close()
		}
	}
	return n
}

func (c *conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	switch c.fault {
	case TakeTooMany:
		// The machine does not let more through than were offered.
		return len(batch) + 5
	case RefuseAll:
		return 0
	case NeverComplete:
		return len(batch)
	case LoopForever:
		loop()
	case Recurse:
		sink += 2 * recurse(1)
	case EatMemory:
		eatMemory()
	case Panic:
		panic("as the option fault says")
	case FailAlways:
		a.Fail(abi.FailConn, block.EIO, "as the option fault says")
		return len(batch)
	case FailForever:
		a.Fail(abi.FailForever, block.EIO, "as the option fault says")
		return len(batch)
	}
	for i := range batch {
		if c.misuse(a, &batch[i]) || c.flood(a, &batch[i]) {
			continue
		}
		if c.Conn.Submit(a, batch[i:i+1]) == 0 {
			return i
		}
	}
	return len(batch)
}

// misuse does wrong to a request; true if that was all that is to be done.
func (c *conn) misuse(a *protocol.Actions, r *protocol.Request) bool {
	read := r.Op == block.OpRead
	switch c.fault {
	case CompleteForeign:
		a.Complete(foreign, block.OK)
	case ReceiveForeign:
		a.Receive(foreign, 0, 512)
	case HashForeign:
		a.Hash(1, abi.DigestSHA256, foreign, 0, 512)
	case CompleteTwice:
		a.Complete(r.Tag, block.EIO)
		a.Complete(r.Tag, block.EIO)
		return true
	case ErrnoTooLarge:
		a.Complete(r.Tag, block.MaxStatus+1)
		return true
	case ReleaseUnasked:
		a.Released(r.Tag, false)
		return true
	case SendBeyond:
		a.SendPayload(r.Tag, r.Length-1, r.Length+4096)
	case ExtentBeyond:
		if r.Op == block.OpBlockStatus {
			a.Extent(r.Tag, r.Length*16, block.Hole)
			a.Extent(r.Tag, 1<<63, 1<<31)
			a.Complete(r.Tag, block.OK)
			return true
		}
	}
	return read && c.misuseRead(a, r)
}

func (c *conn) misuseRead(a *protocol.Actions, r *protocol.Request) bool {
	switch c.fault {
	case CompleteUnfilled:
		a.Complete(r.Tag, block.OK)
	case CompleteHalf:
		a.Zero(r.Tag, 0, r.Length/2)
		a.Complete(r.Tag, block.OK)
	case SendOfRead:
		a.SendPayload(r.Tag, 0, r.Length)
	case ReceiveBeyond:
		a.Receive(r.Tag, r.Length-1, r.Length+4096)
	case ReceiveOverlap:
		a.Receive(r.Tag, 0, 16)
		a.Receive(r.Tag, 8, 24)
	case ZeroBeyond:
		a.Zero(r.Tag, 0, r.Length+1<<20)
	case DataUnasked:
		a.Data(r.Tag, 0, make([]byte, 16))
	default:
		return false
	}
	return true
}

// flood does too much of something; the request goes its way.
func (c *conn) flood(a *protocol.Actions, r *protocol.Request) bool {
	switch c.fault {
	case PublishFlood:
		for range 16 {
			a.Publish(make([]byte, abi.MaxSession))
		}
	case MessageSelf:
		a.Message(0, []byte("hello, me"))
	case LogFlood:
		for range 1000 {
			a.Log(abi.LogError, "a line that nobody wants to read")
		}
	case SendFlood:
		for range 32 {
			a.Send(make([]byte, abi.MaxInline))
		}
		return true
	case ShrinkDisk:
		a.Limits(&protocol.Limits{Info: block.Info{Size: 1 << 20, BlockSize: 512, PreferredBlock: 512, Identity: "another disk"}})
	case ReadyUnasked:
		a.Ready(1 << 40)
	case RedirectElsewhere:
		a.Redirect("tcp:192.0.2.1:1", true)
	}
	return false
}

func (c *conn) Timer(a *protocol.Actions, id uint32, now protocol.Clock) {
	if c.fault == TimerFlood {
		for i := range uint32(abi.MaxTimers) {
			a.SetTimer(i, 1)
		}
		return
	}
	c.Conn.Timer(a, id, now)
}

func (c *conn) Goodbye(a *protocol.Actions) {
	if c.fault != IgnoreGoodbye {
		c.Conn.Goodbye(a)
	}
}

func (c *conn) Save(a *protocol.Actions) {
	if c.fault == StateFlood {
		a.State(make([]byte, abi.MaxState+abi.MaxInline))
		return
	}
	c.Conn.Save(a)
}

// What keeps the loops below from being optimised away.
var (
	sink int
	kept [][]byte
)

func loop() {
	for sink != 1 { // it is even, for ever
		sink += 2
	}
}

//go:noinline
func recurse(n int) int {
	if n == 0 { // which it reaches when it has counted through all integers
		return 0
	}
	return recurse(n+1) + n
}

func eatMemory() {
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
}
