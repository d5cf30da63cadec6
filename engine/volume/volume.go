// Package volume is where the whole decision about a request is made:
// validate, emulate what the disk lacks, split to its limits, count, hand to
// the layer below, and bring the answer back. Frontends see Volume, Queue and
// IO; below it stands a Device, which is a store plugin or a session with a
// storage server. It must not know frontends, plugins or sockets.
//
// Read first: ARCHITECTURE.md, "The way of a request".
package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// MaxTransfer is the largest read or write that a volume takes, in bytes, and
// MaxExtents how many extents a block status may ask for.
const (
	MaxTransfer = 32 << 20
	MaxExtents  = 1 << 12
	maxStatus   = 1 << 30 // block status describes at most this much at a time
)

// Device is what a volume stands on.
type Device interface {
	// Home is the only reactor on which channels may be opened, or nil.
	Home() *reactor.Reactor
	// OpenChannel is called on r, once for each reactor.
	OpenChannel(r *reactor.Reactor, done Completer) (Channel, error)
	// Close comes when all channels are closed; it may block.
	Close() error
}

// Channel is a device's way down on one reactor. Requests are valid and within
// the device's Info; each is handed back exactly once through the Completer.
type Channel interface {
	// Submit takes a batch; the slice is the caller's again on return.
	Submit(batch []*IO)
	// Close comes when nothing is outstanding.
	Close()
}

// Completer takes requests back from a Channel.
type Completer interface {
	// Complete is called on the channel's reactor with Status set.
	Complete(io *IO)
}

// State is where a volume stands in its life.
type State uint32

// The states of a volume.
const (
	Opening State = iota // its disk has not been seen yet
	Online
	Away    // the server cannot be reached; requests wait
	Stopped // it does not go on by itself: another disk, or told so
)

var stateNames = [...]string{"opening", "online", "away", "stopped"}

func (s State) String() string { return stateNames[s] }

// ErrWrongReactor says that a queue must be opened on the volume's Home.
var ErrWrongReactor = errors.New("volume: the server allows one connection, so the volume lives on another reactor")

// ErrNotOpen says that a volume's disk has not been seen yet.
var ErrNotOpen = errors.New("volume: not open yet")

// Options of a volume.
type Options struct {
	Name     string
	ReadOnly bool
	Reactors []*reactor.Reactor // all of the engine's
	Log      *slog.Logger
}

// Volume is a disk that frontends export. Its methods are safe from any
// goroutine unless they say otherwise.
type Volume struct {
	name     string
	readOnly bool
	log      *slog.Logger
	state    atomic.Uint32
	reason   atomic.Pointer[string]
	info     atomic.Pointer[block.Info] // as the device says, nil until known
	seen     atomic.Pointer[block.Info] // as frontends see it
	device   atomic.Pointer[Device]
	lanes    []atomic.Pointer[lane] // by reactor
	reactors []*reactor.Reactor
	flush    flushErrors

	// mu guards watchers; nothing is called while it is held.
	mu       sync.Mutex
	watchers map[int]func(*Volume)
	nextID   int
}

// New makes a volume that is Opening; Attach brings its device.
func New(o Options) *Volume {
	return &Volume{
		name: o.Name, readOnly: o.ReadOnly, log: o.Log, reactors: o.Reactors,
		lanes: make([]atomic.Pointer[lane], len(o.Reactors)), watchers: map[int]func(*Volume){},
	}
}

// Name is the volume's name in the configuration.
func (v *Volume) Name() string { return v.name }

// State says where the volume stands, and why if it is not Online.
func (v *Volume) State() (State, string) {
	if r := v.reason.Load(); r != nil {
		return State(v.state.Load()), *r
	}
	return State(v.state.Load()), ""
}

// SetState is for the layer that opens the device. Going to another state
// tells the watchers; Stopped is final.
func (v *Volume) SetState(s State, reason string) {
	for {
		old := v.state.Load()
		if State(old) == Stopped && s != Stopped {
			return
		}
		if v.state.CompareAndSwap(old, uint32(s)) {
			v.reason.Store(&reason)
			if State(old) != s {
				v.tell()
			}
			return
		}
	}
}

// Attach gives the volume its device and makes it Online.
func (v *Volume) Attach(d Device, info block.Info) error {
	if err := checkInfo(&info); err != nil {
		return fmt.Errorf("volume %q: %w", v.name, err)
	}
	v.storeInfo(info)
	v.device.Store(&d) // last: whoever sees the device may open a queue, which needs the info
	v.tell()
	v.SetState(Online, "")
	return nil
}

// SetInfo brings news of the disk: its size may have grown. News that make no
// sense stop the volume.
func (v *Volume) SetInfo(info block.Info) {
	if err := checkInfo(&info); err != nil {
		v.log.Error("volume stopped: the disk's news make no sense", "volume", v.name, "err", err)
		v.SetState(Stopped, err.Error())
		return
	}
	v.storeInfo(info)
	v.tell()
}

func (v *Volume) storeInfo(info block.Info) {
	seen := visible(info, v.readOnly)
	v.info.Store(&info)
	v.seen.Store(&seen)
}

// Info is the disk as frontends see it: what the volume emulates counts as
// there. ok is false as long as the disk has not been seen.
func (v *Volume) Info() (info block.Info, ok bool) {
	if i := v.seen.Load(); i != nil {
		return *i, true
	}
	return block.Info{}, false
}

// DeviceInfo is the disk as the device describes it.
func (v *Volume) DeviceInfo() (info block.Info, ok bool) {
	if i := v.info.Load(); i != nil {
		return *i, true
	}
	return block.Info{}, false
}

// Home is the only reactor on which queues may be opened, or nil if any will do.
func (v *Volume) Home() *reactor.Reactor {
	if d := v.device.Load(); d != nil {
		return (*d).Home()
	}
	return nil
}

// Watch has f called, on any goroutine, whenever state or Info have changed. f
// must not block. The function that it returns ends that.
func (v *Volume) Watch(f func(*Volume)) (stop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := v.nextID
	v.nextID++
	v.watchers[id] = f
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.watchers, id)
	}
}

func (v *Volume) tell() {
	v.mu.Lock()
	fs := make([]func(*Volume), 0, len(v.watchers))
	for _, f := range v.watchers {
		fs = append(fs, f)
	}
	v.mu.Unlock()
	for _, f := range fs {
		f(v)
	}
}

// visible is info with what the volume emulates: FUA by a flush, write-zeroes
// by writes, block status by "all data", and caching by doing nothing.
func visible(info block.Info, readOnly bool) block.Info {
	info.Caps |= block.CapWriteZeroes | block.CapBlockStatus | block.CapCache | block.CapFlushCoversAll
	if info.Has(block.CapFlush) {
		info.Caps |= block.CapFUA
	}
	if readOnly {
		info.Caps |= block.CapReadOnly
	}
	if info.MaxTransfer == 0 || info.MaxTransfer > MaxTransfer {
		info.MaxTransfer = MaxTransfer
	}
	return info
}

// checkInfo refuses a disk whose description makes no sense, and rounds the
// rest to whole blocks.
func checkInfo(i *block.Info) error {
	if i.BlockSize == 0 {
		i.BlockSize = 1
	}
	if p := i.PreferredBlock; p < i.BlockSize || p&(p-1) != 0 {
		i.PreferredBlock = max(i.BlockSize, 4096)
	}
	switch {
	case i.BlockSize&(i.BlockSize-1) != 0 || i.BlockSize > 64<<10:
		return fmt.Errorf("the device says that its block size is %d: it must be a power of two up to 65536", i.BlockSize)
	case i.Size > 1<<62:
		return fmt.Errorf("the device says that it has %d bytes, which no disk has", i.Size)
	case i.MaxTransfer != 0 && i.MaxTransfer < i.BlockSize:
		return fmt.Errorf("the device says that it takes %d bytes at most, less than its block size %d", i.MaxTransfer, i.BlockSize)
	}
	unit := uint64(i.BlockSize)
	// A limit below one block leaves nothing that the device could be asked
	// for; rounded down to 0 it would mean that there is no limit.
	if i.MaxZeroes != 0 && i.MaxZeroes < unit {
		i.Caps &^= block.CapWriteZeroes | block.CapFastZero
	}
	if i.MaxDiscard != 0 && i.MaxDiscard < unit {
		i.Caps &^= block.CapDiscard
	}
	i.Size -= i.Size % unit
	i.MaxTransfer -= i.MaxTransfer % i.BlockSize
	i.MaxZeroes -= i.MaxZeroes % unit
	i.MaxDiscard -= i.MaxDiscard % unit
	return nil
}
