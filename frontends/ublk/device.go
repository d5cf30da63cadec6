package ublk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

// Status is how a device stands.
type Status struct {
	ID        int
	Name      string // the export's
	Path      string // /dev/ublkbN
	State     State
	Problem   string // why it is Broken
	Recovered bool   // it was found after another engine, and is served on
	Queues    int    // as the kernel has them
	Depth     int    // of each
	MaxIO     int    // bytes
	Copy      Copy   // of payload
	Buffers   int    // bytes of memory for payload, of all queues
	Size      uint64 // bytes, as the kernel has it
	InFlight  int    // requests that the volume has
	Again     uint64 // writes that the engine before may have sent already
	Owed      int    // ranges that it was writing to and that were not written again yet
	Passed    uint64 // requests whose payload was not copied, see CopyZero
	Missed    uint64 // requests that have failed because their payload could not be copied
	Requests  volume.Stats
}

// State is where a device stands in its life.
type State uint8

// The states of a device.
const (
	Serving State = iota
	Closing
	Left    // for the next engine
	Closed  // there is no such device any more
	Removed // the same, and somebody else did it
	Broken  // it cannot be served any more, see Status.Problem
)

var stateNames = [...]string{"serving", "closing", "left", "closed", "removed", "broken"}

func (s State) String() string { return stateNames[s] }

// Device is a volume as /dev/ublkbN. Its methods are safe from any goroutine but
// a reactor's.
type Device struct {
	o         Options
	log       *slog.Logger
	ctl       *control
	dev       device
	records   records
	rec       *record
	journal   *journal
	queues    []*queue
	char      int // descriptor of /dev/ublkcN, -1: not open
	recovered bool
	quiesces  bool // the driver can be told to hand out no more
	page      int

	size      atomic.Uint64 // bytes, as the kernel has it
	stopWatch func()
	changed   chan struct{}   // the volume has news; holds one
	ended     chan struct{}   // a queue has ended; holds one
	life      context.Context // the keeper's
	die       context.CancelFunc
	keeper    sync.WaitGroup

	once sync.Once  // ends the keeper
	op   sync.Mutex // held by what ends or resizes the device; taken before mu

	mu      sync.Mutex // guards what follows; nothing is called while it is held
	state   State
	problem string
}

// ID is N in /dev/ublkbN.
func (d *Device) ID() int { return d.dev.id }

// Path is /dev/ublkbN.
func (d *Device) Path() string { return blockPath(d.dev.id) }

// Status asks the reactors; it is for people and metrics.
func (d *Device) Status() Status {
	d.mu.Lock()
	st := Status{ID: d.dev.id, Name: d.o.Name, Path: d.Path(), State: d.state, Problem: d.problem}
	d.mu.Unlock()
	st.Recovered, st.Size, st.Owed = d.recovered, d.size.Load(), int(d.journal.left.Load())
	st.Queues, st.Depth, st.MaxIO = len(d.queues), d.queues[0].depth, d.queues[0].maxIO
	st.Copy = d.queues[0].copy
	for _, q := range d.queues {
		q.r.Do(func() {
			st.Requests.Add(&q.stats)
			st.InFlight += q.q.InFlight()
			st.Again += q.resent
			st.Missed += q.missed
			st.Passed += q.fixed.passed
			st.Buffers += len(q.bufs)
		})
	}
	return st
}

func (d *Device) now() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// from changes the state if it is s. Who changes it has the right to do what the
// new state stands for.
func (d *Device) from(s State, to State, problem string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != s {
		return false
	}
	d.state, d.problem = to, problem
	return true
}

// Close removes the device: requests that are outstanding are answered, later ones
// fail, the device is stopped, deleted and forgotten. Who has it open or mounted
// gets errors from then on, and loses what was not written back. When ctx ends
// first the device stays behind as after a kill, and the error says so.
func (d *Device) Close(ctx context.Context) error {
	if !d.from(Serving, Closing, "") && !d.from(Broken, Closing, "") {
		return nil
	}
	d.endKeeper()
	d.op.Lock()
	defer d.op.Unlock()
	if err := d.remove(ctx); err != nil {
		d.from(Closing, Broken, err.Error())
		return d.wrap(err)
	}
	d.from(Closing, Closed, "")
	return nil
}

func (d *Device) wrap(err error) error { return fmt.Errorf("ublk export %q: %w", d.o.Name, err) }

// remove stops the device, while its queues are served, lets go of it, and
// deletes it.
func (d *Device) remove(ctx context.Context) error {
	if err := d.dev.do(ctx, cmdStop, 0); err != nil {
		return err
	}
	if err := d.await(ctx, func(q *queue) bool { return q.phase == gone && q.idle() }); err != nil {
		return err
	}
	d.releaseAll()
	if err := d.dev.do(ctx, cmdDelete, 0); err != nil {
		return err
	}
	d.ctl.close()
	return d.forget()
}

// forget removes what is kept of a device that is not there any more.
func (d *Device) forget() error {
	owed := d.journal.left.Load()
	d.journal.close()
	err := d.records.forget(d.o.Name)
	if owed == 0 {
		err = errors.Join(err, d.records.forgive(d.o.Name))
	}
	return err
}

// Leave ends the serving and keeps the device for the next engine, as a planned
// restart wants it: requests that the volume has are answered, later ones wait
// (or fail, as Options.Recovery has it). A device without recovery is closed.
// When ctx ends first what is outstanding is the next engine's, as after a kill;
// the volume still has it then and must not be closed.
func (d *Device) Leave(ctx context.Context) error {
	if d.o.Recovery == None {
		return d.Close(ctx)
	}
	serving := d.from(Serving, Left, "")
	if !serving && !d.from(Broken, Left, "") {
		return nil
	}
	d.endKeeper()
	d.op.Lock()
	defer d.op.Unlock()
	if serving {
		d.quiesce(ctx)
	}
	for _, q := range d.queues {
		q.r.Do(q.leave)
	}
	if err := d.await(ctx, (*queue).idle); err != nil {
		return d.wrap(fmt.Errorf("requests are outstanding: %w", err))
	}
	if d.holds() {
		d.disarmed(ctx)
	}
	if d.quiesces {
		d.releaseAll()
	} else {
		d.releaseVolume()
	}
	d.journal.close()
	d.ctl.close()
	return nil
}

// releaseVolume gives the volume back, and leaves the rest to the end of the
// process. A driver that cannot quiesce goes on handing out requests while a ring is
// closed, and one that it hands out between its looking for such requests and the
// end of the ring is lost until the kernel's timeout for requests, half a minute,
// and the device with it (seen with Linux 6.12). It looks whether a server is
// exiting, so that is how we go.
func (d *Device) releaseVolume() {
	for _, q := range d.queues {
		q.r.Do(q.q.Close)
	}
}

// awaitEvery is how often await looks.
const awaitEvery = 2 * time.Millisecond

// await waits until f is true of every queue, on its reactor.
func (d *Device) await(ctx context.Context, f func(*queue) bool) error {
	for _, q := range d.queues {
		for {
			ok := false
			if !q.r.Do(func() { ok = f(q) }) {
				return errors.New("the reactor has stopped")
			}
			if ok {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(awaitEvery):
			}
		}
	}
	return nil
}

// releaseAll gives queues and the character device back. The volume has nothing
// of ours.
func (d *Device) releaseAll() {
	for _, q := range d.queues {
		if q.r == nil { // it has not come that far
			q.free()
			continue
		}
		q.r.Do(q.release)
	}
	if d.char >= 0 {
		_ = sys.Close(d.char)
		d.char = -1
	}
}

// Resize tells the kernel the volume's size, where it has grown. A device does
// so by itself when its volume grows; this one says why that fails: kernels
// before 6.16 cannot.
func (d *Device) Resize(ctx context.Context) error {
	d.op.Lock()
	defer d.op.Unlock()
	if d.now() != Serving {
		return nil
	}
	info, _ := d.o.Volume.Info()
	size := info.Size &^ (1<<sectorShift - 1) &^ uint64(max(info.BlockSize, 1)-1)
	switch have := d.size.Load(); {
	case size == have:
		return nil
	case size < have:
		return d.wrap(fmt.Errorf("the volume has shrunk from %d to %d bytes", have, size))
	case d.ctl.features&flagUpdateSize == 0:
		return d.wrap(fmt.Errorf("the volume has grown from %d to %d bytes, and the kernel cannot tell a device's users (Linux 6.16 can): remove the device and make it again", have, size))
	}
	if err := d.dev.do(ctx, cmdUpdateSize, size>>sectorShift); err != nil {
		return d.wrap(err)
	}
	d.size.Store(size)
	d.log.Info("device has grown", "export", d.o.Name, "device", d.Path(), "size", size)
	return nil
}
