package process

import (
	"fmt"
	"time"

	"blockengine/engine/sys"
	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// hooks are what a link or an instance asks of the host of its process.
type hooks struct {
	// hang is how long the process may leave something untaken, or unanswered, in
	// a region.
	hang time.Duration
	// broke has the process killed, because of cause, a *guest.Trap. Whatever else
	// it serves is told by died. It is called on the reactor and does not block.
	broke func(cause error)
	// release has the process give the region up. It is called once, and does not
	// block. done is called once, from any goroutine, when nothing of it can be
	// carried out any more: all has ended there (finished), or the process has
	// been reaped.
	release func(done func(finished bool))
}

// region is a ring.Region with its files.
type region struct {
	*ring.Region
	mem    []byte
	memory int // sealed memory file
	bell   int // event counter: the process wakes the engine
}

// layoutFor gives the layout of a link to a disk with depth slots.
func layoutFor(info *block.Info, depth uint32) (ring.Layout, error) {
	const step = ring.MinTransfer
	n := info.MaxTransfer
	if n == 0 || n > ring.MaxTransfer {
		n = ring.MaxTransfer
	}
	return ring.StoreLayout(depth, (n+step-1)/step*step)
}

// newRegion makes a region. name is shown in /proc.
func newRegion(name string, l ring.Layout) (*region, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	r := &region{memory: -1, bell: -1}
	if err := r.open(name, l); err != nil {
		r.close()
		return nil, fmt.Errorf("memory shared with plugin %s: %w", name, err)
	}
	return r, nil
}

func (r *region) open(name string, l ring.Layout) (err error) {
	if r.memory, err = sys.SealedMemfd("ring-"+name, int64(l.Size())); err != nil {
		return err
	}
	if r.bell, err = sys.Eventfd(); err != nil {
		return fmt.Errorf("%w (raise the limit on open files: ulimit -n)", err)
	}
	if r.mem, err = sys.MapShared(r.memory, 0, l.Size()); err != nil {
		return err
	}
	r.Region, err = ring.Format(l, r.mem)
	return err
}

// files are the descriptors that the process gets, in this order. They stay the
// region's.
func (r *region) files() []int { return []int{r.memory, r.bell} }

// close gives memory and descriptors back. A second call does nothing.
func (r *region) close() {
	if r.mem != nil {
		_ = sys.Unmap(r.mem)
	}
	for _, fd := range []int{r.memory, r.bell} {
		if fd >= 0 {
			_ = sys.Close(fd)
		}
	}
	*r = region{memory: -1, bell: -1}
}

// wakeProcess wakes the process if it sleeps. It comes after the store of SubTail.
func (r *region) wakeProcess() {
	if r.SubArmed.Load() != ring.Looking && r.SubArmed.Swap(ring.Looking) != ring.Looking {
		sys.FutexWake(&r.SubArmed)
	}
}
