package process

import (
	"errors"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// link is the engine's end of a store region: a guest.Link.
type link struct {
	region *region
	info   block.Info
	c      control
}

var errNoLink = errors.New("links are not there yet")

// newLink makes the engine's end of r, which is the link's from now on. What the
// process says of the disk has been checked; MaxTransfer becomes that of a slot.
func newLink(r *region, info block.Info, c control) *link {
	return &link{region: r, info: info, c: c}
}

// died tells that the process is gone, and has been reaped. Safe from any goroutine.
func (l *link) died(err error) {}

// changed tells that the disk has become another one. Safe from any goroutine.
func (l *link) changed(info block.Info) {}

func (l *link) Info() block.Info { return l.info }
func (l *link) Depth() int       { return int(l.region.Layout.Depth) }

func (l *link) Start(r *reactor.Reactor, owner guest.LinkOwner) error { return errNoLink }

func (l *link) Payload(slot int) []byte { return l.region.Buffer(slot) }

func (l *link) Submit(slot int, op block.Op, flags block.Flags, offset, length uint64) {}

func (l *link) Push() {}

func (l *link) Close(fenced func(finished bool)) { fenced(false) }
