package iouring

import "fmt"

// An entry's user_data says whose it is and what it is to that user.
const (
	valueBits = 48
	maxValue  = 1<<valueBits - 1
	maxUsers  = 1 << (64 - valueBits)
)

// Handler is what a user of a hub is told, on its reactor.
type Handler interface {
	// Reap takes a completion of one of the user's entries. UserData is the
	// value that Get was given.
	Reap(c CQE)
	// Reaped comes after a batch of them.
	Reaped()
	// Failed says that the ring itself has failed, which does not happen to a
	// sound one. Nothing may come any more.
	Failed(err error)
}

// User is one of those who share a hub.
type User struct {
	hub     *Hub
	on      Handler
	index   uint64
	slow    bool
	out     int // entries filled in and not completed
	touched bool
	left    bool
	then    func() // called when it has left and nothing is outstanding
}

// Join makes on a user of the hub. slow says that its entries may block the call
// that submits them for a moment, or copy much in it: reads and writes of files
// do, for example. Others then do not keep the garbage collector waiting.
func (h *Hub) Join(on Handler, slow bool) (*User, error) {
	u := &User{hub: h, on: on, slow: slow}
	for i, taken := range h.users {
		if taken == nil {
			u.index = uint64(i)
			h.users[i] = u
			h.members++
			return u, nil
		}
	}
	if len(h.users) == maxUsers {
		return nil, fmt.Errorf("io_uring: %d share the ring of reactor %d already: use more reactors", maxUsers, h.r.Index())
	}
	u.index = uint64(len(h.users))
	h.users = append(h.users, u)
	h.members++
	return u, nil
}

// Hub is the hub that u is a user of.
func (u *User) Hub() *Hub { return u.hub }

// Get gives an empty entry but for its UserData, which has value, below 1<<48.
// It is filled in before anything else is asked of the hub, and submitted at
// the end of the turn. An entry has at least one completion, the last of which
// is without sys.UringCQEMore.
func (u *User) Get(value uint64) *SQE {
	h := u.hub
	e := h.entry()
	e.UserData = u.index<<valueBits | value&maxValue
	u.out++
	if u.slow {
		h.slowly(1)
	}
	h.r.Defer(&h.ending)
	return e
}

// Outstanding is how many entries have not been completed.
func (u *User) Outstanding() int { return u.out }

// Leave ends u's use of the hub: its handler hears nothing any more. then is
// called when nothing of it is outstanding, which may be at once; memory that
// its entries name is the kernel's until then. then may be nil.
func (u *User) Leave(then func()) {
	if u.left {
		return
	}
	u.left, u.then = true, then
	u.settle()
}

// Abandon is Leave for a user with entries that only the end of the ring ends,
// such as commands that wait in a driver. The hub goes on with the users that it
// has and takes no others; the reactor's next Of makes another. then is called
// when the ring has been closed.
func (u *User) Abandon(then func()) {
	if u.left {
		return
	}
	h := u.hub
	if u.slow {
		h.slowly(-u.out)
	}
	u.left = true
	h.users[u.index] = gone
	h.retire()
	if then != nil {
		h.closed = append(h.closed, then)
	}
	h.leave()
}

// gone stands where a user was that was abandoned. Nothing of it ever changes.
var gone = &User{left: true}

// settle ends a user that has left, once nothing of it is outstanding.
func (u *User) settle() {
	if u.out > 0 {
		return
	}
	then := u.then
	u.hub.users[u.index], u.then = nil, nil
	u.hub.leave()
	if then != nil {
		then()
	}
}

// leave counts a user off.
func (h *Hub) leave() {
	h.members--
	h.close()
}
