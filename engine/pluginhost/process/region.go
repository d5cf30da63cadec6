package process

import (
	"fmt"
	"time"

	"blockengine/engine/sys"
	"blockengine/sdk/process/ring"
)

// control is what a link or an instance asks of the host of its process. The
// functions are called on the reactor and do not block.
type control struct {
	// hang is how long the process may leave something untaken in a region.
	hang time.Duration
	// broke has the process killed, because of cause: a *guest.Trap. Others
	// that it serves are told by died.
	broke func(cause error)
	// release has the process give the region up. done is called once, from any
	// goroutine, when nothing of it can be carried out any more: all has ended
	// there (finished), or the process has been reaped.
	release func(done func(finished bool))
}

// region is a ring.Region with its files.
type region struct {
	*ring.Region
	mem    []byte
	memory int // sealed memory file
	bell   int // event counter: the process wakes the engine
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
