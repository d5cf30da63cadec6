package iouring

import (
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// Sizes of a hub's ring. Entries that do not fit in a turn are kept until they
// do; completions that do not fit wait in the kernel, which costs more.
const (
	hubEntries     = 256
	hubCompletions = 4096
)

// hubBatch is how many completions a turn takes from a hub, before others get
// theirs.
const hubBatch = 256

// Hub is the ring that all on one reactor share. What its users fill in during a
// turn goes to the kernel in one system call at the end of the turn, and each
// completion goes to the user whose entry it was of. Completions are taken in the
// order in which the kernel gives them, so no user starves another.
//
// All of it belongs to the reactor.
type Hub struct {
	r       *reactor.Reactor
	src     *Source
	users   []*User // by index; nil: a free place
	members int     // users that have not left
	slow    int     // entries on their way that may block the call that submits or reaps
	spill   []SQE   // from spilled on: entries for which the ring has no room yet
	spilled int
	touched []*User // those that this batch has completions of
	ending  reactor.Deferred
	files   table
	buffers table
	closed  []func() // to be called when the ring is
}

// hubKey is under which a reactor has its hub.
type hubKey struct{}

// Of gives the hub of r, on which it is called, and makes it when it is first
// asked for. It ends with its last user. An error that is ErrUnavailable says
// that this process cannot have any.
func Of(r *reactor.Reactor) (*Hub, error) {
	if h, ok := r.Shared(hubKey{}).(*Hub); ok {
		return h, nil
	}
	h, err := newHub(r, Options{Entries: hubEntries, Completions: hubCompletions})
	if err != nil {
		return nil, err
	}
	r.Share(hubKey{}, h)
	return h, nil
}

// Reactor is whose ring it is.
func (h *Hub) Reactor() *reactor.Reactor { return h.r }

func newHub(r *reactor.Reactor, o Options) (*Hub, error) {
	h := &Hub{r: r, files: table{what: "files"}, buffers: table{what: "buffers"}}
	h.ending.Run = h.turn
	var err error
	h.src, err = NewSource(r, o, Events{Batch: hubBatch, Reap: h.reap, Reaped: h.reaped, Failed: h.failed})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// entry gives an empty entry.
func (h *Hub) entry() *SQE {
	if h.spilled == len(h.spill) {
		if e := h.src.Get(); e != nil {
			return e
		}
		// The entries before this one are filled in. That they could not be
		// submitted the end of the turn will find, too.
		_ = h.src.enter()
		if e := h.src.Get(); e != nil {
			return e
		}
	}
	h.spill = append(h.spill, SQE{})
	return &h.spill[len(h.spill)-1]
}

// unspill moves kept entries to the ring.
func (h *Hub) unspill() {
	for h.spilled < len(h.spill) {
		e := h.src.Get()
		if e == nil {
			return
		}
		*e = h.spill[h.spilled]
		h.spilled++
	}
	h.spill, h.spilled = h.spill[:0], 0
}

// turn is the end of a turn in which something was filled in. What is complete
// at once, such as a read of the page cache, is handed on at once.
func (h *Hub) turn() {
	if h.src.Ring == nil {
		return
	}
	h.unspill()
	h.src.Flush()
	if h.src.Ring == nil {
		return // a user has ended it, as it has failed
	}
	if h.spilled < len(h.spill) {
		h.r.Defer(&h.ending)
	}
	if h.src.Ring.Ready() {
		h.src.reap()
		h.src.keepLooking()
	}
}

// Submit hands over at once what was filled in, and gives the number of entries
// that the kernel has not taken; they are tried again at the end of the turn. It
// is for what must not be left half done when the process is killed.
func (h *Hub) Submit() (left int, err error) {
	h.unspill()
	err = h.src.SubmitSlowly()
	return h.src.Pending() + len(h.spill) - h.spilled, err
}

// reap hands a completion to its user.
func (h *Hub) reap(c CQE) {
	u := h.users[c.UserData>>valueBits]
	if u == gone {
		return
	}
	c.UserData &= maxValue
	if c.Flags&sys.UringCQEMore == 0 {
		u.out--
		if u.slow {
			h.slowly(-1)
		}
	}
	if u.left {
		u.settle()
		return
	}
	if !u.touched {
		u.touched = true
		h.touched = append(h.touched, u)
	}
	u.on.Reap(c)
}

// reaped tells users that this batch is over.
func (h *Hub) reaped() {
	for i, u := range h.touched {
		h.touched[i] = nil
		u.touched = false
		if !u.left {
			u.on.Reaped()
		}
	}
	h.touched = h.touched[:0]
}

func (h *Hub) failed(err error) {
	for i := range h.users {
		if u := h.users[i]; u != nil && !u.left {
			u.on.Failed(err)
		}
	}
}

// slowly counts entries on their way that may block.
func (h *Hub) slowly(n int) {
	h.slow += n
	h.src.slow = h.slow > 0
}

// close ends the ring when the last user has left.
func (h *Hub) close() {
	if h.members > 0 {
		return
	}
	h.retire()
	h.src.Close()
	for _, f := range h.closed {
		f()
	}
	h.closed = nil
}

// retire takes no users any more: the next Of makes another hub.
func (h *Hub) retire() {
	if h.r.Shared(hubKey{}) == any(h) {
		h.r.Share(hubKey{}, nil)
	}
}
