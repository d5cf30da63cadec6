package process

import (
	"errors"
	"fmt"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/sdk/abi"
	"blockengine/sdk/process/ring"
)

// instance is the engine's end of a machine region: a guest.Apart. All of it is
// used by one goroutine at a time, but for died.
type instance struct {
	listener
	answered func()
	onEnd    func(err error) // nil: nobody wants to know
	pending  bool            // a Begin has not been answered
	calling  bool            // within Call, which tells itself
	failed   error
	late     reactor.Deferred // answers a Begin that comes after the end
	wait     time.Duration    // for an answer to Call
	result   uint32           // what the machine's Call gave
	out      []byte           // the actions, where the process cannot change them
}

var (
	errClosed  = errors.New("the plugin instance is closed")
	errPending = errors.New("a call of the plugin instance has not been answered")
)

// newInstance makes the engine's end of r, which is the instance's from now on.
func newInstance(r *region, c hooks) *instance {
	i := &instance{wait: guest.CallWait}
	i.out = abi.Buffer(len(r.Out))
	i.listener.init(r, c, i.answers, i.fail, func() uint32 { return i.seen })
	i.late.Run = i.tell
	return i
}

// Input implements guest.Instance. The process can change what has been handed in.
func (i *instance) Input() []byte { return i.region.In }

// Attach implements guest.Apart.
func (i *instance) Attach(r *reactor.Reactor, answered func()) error {
	i.answered = answered
	if err := i.start(r); err != nil {
		return fmt.Errorf("instance in a plugin process: %w", err)
	}
	return nil
}

// OnEnd implements guest.Mortal.
func (i *instance) OnEnd(ended func(err error)) { i.onEnd = ended }

// Begin implements guest.Apart.
func (i *instance) Begin(n int, _ int64) {
	if i.pending {
		panic(errPending)
	}
	i.pending = true
	if i.failed == nil && uint(n) > uint(len(i.region.In)) {
		i.failed = fmt.Errorf("%d bytes of events do not fit the input buffer of %d", n, len(i.region.In))
	}
	if i.failed != nil {
		i.r.Defer(&i.late)
		return
	}
	i.attend()
	i.hand(n)
	i.watch()
}

// hand gives the process the first n bytes of Input.
func (i *instance) hand(n int) {
	i.region.CallIn.Store(uint32(n))
	i.publish(1)
}

// answers takes an answer if there is one.
func (i *instance) answers() bool {
	if !i.arrived() {
		return false
	}
	i.tell()
	return true
}

// arrived takes an answer, or what is none, if something has come.
func (i *instance) arrived() bool {
	tail := i.region.CompTail.Load()
	if tail == i.seen {
		return false
	}
	if tail != i.given {
		i.broken("output", fmt.Errorf("it has answered call %d, and call %d was the last", tail, i.given))
		return true
	}
	i.rings = 0
	i.seen = tail
	i.result = i.region.CallOut.Load()
	if err := i.checkResult(); err != nil {
		i.failed = err
	}
	return true
}

// checkResult tells whether the machine has given what it can give.
func (i *instance) checkResult() error {
	if i.result == ring.Panicked {
		return &guest.Trap{Cause: "unreachable", Err: errors.New("panic: see the plugin's log")}
	}
	if n := i.result &^ abi.CallMore; n > uint32(len(i.out)) || n&7 != 0 {
		return &guest.Trap{Cause: "output", Err: fmt.Errorf("it has given %d bytes of actions: a multiple of 8 up to %d", n, len(i.out))}
	}
	return nil
}

// tell says that a Begin has been answered.
func (i *instance) tell() {
	if i.pending && i.answered != nil {
		i.pending = false
		i.answered()
	}
}

// fail is called when nothing more comes.
func (i *instance) fail(err error) {
	if i.failed == nil {
		var trap *guest.Trap
		if !errors.As(err, &trap) {
			err = &guest.Trap{Cause: "exit", Err: err}
		}
		i.failed = err
	}
	if !i.pending && !i.calling && i.onEnd != nil {
		i.onEnd(i.failed)
		return
	}
	i.tell()
}

// Answer implements guest.Apart.
func (i *instance) Answer() (actions []byte, more bool, err error) {
	if i.failed != nil {
		return nil, false, i.failed
	}
	n := copy(i.out, i.region.Out[:i.result&^abi.CallMore])
	return i.out[:n:n], i.result&abi.CallMore != 0, nil
}

// Call implements guest.Instance.
func (i *instance) Call(n int, _ int64) (actions []byte, more bool, err error) {
	switch {
	case i.failed != nil:
		return nil, false, i.failed
	case i.pending:
		return nil, false, errPending
	case uint(n) > uint(len(i.region.In)):
		return nil, false, fmt.Errorf("%d bytes of events do not fit the input buffer of %d", n, len(i.region.In))
	}
	i.calling = true
	defer func() { i.calling = false }()
	if dead := i.deathCause(); dead != nil {
		i.end(dead)
		return nil, false, i.failed
	}
	i.hand(n)
	i.await(i.wait)
	return i.Answer()
}

// await waits for the answer to a Call. The process is asked to wake this thread,
// not the reactor.
func (i *instance) await(d time.Duration) {
	r := i.region
	for end := sys.Nanotime() + int64(d); ; {
		r.CompArmed.Swap(ring.WakeFutex) // see ring: not Store
		if i.arrived() {
			break
		}
		left := end - sys.Nanotime()
		if left <= 0 {
			// The process may only be slow, and serves others. If it does not end
			// this call it does not release the region either, and is killed then.
			i.end(&guest.Trap{Cause: "hang", Err: fmt.Errorf("no answer within %v", d)})
			break
		}
		sys.FutexWait(&r.CompArmed, ring.WakeFutex, time.Duration(left))
	}
	if i.over {
		return
	}
	// As it was: the reactor looks, or is to be woken.
	i.armed = i.r != nil
	r.CompArmed.Store(ring.Awake)
	if i.armed {
		r.CompArmed.Store(ring.WakeEvent)
	}
}

// Close implements guest.Instance.
func (i *instance) Close() {
	if errors.Is(i.failed, errClosed) {
		return
	}
	i.failed = errClosed
	i.pending = false
	i.stop()
	i.c.release(func(bool) { i.region.close() })
}
