package session

import (
	"context"
	"errors"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// A store that runs in another process is reached by links: a conn without a
// stream and without a state machine, whose requests go into a ring. All that a
// channel does with connections it does with links, too: wait, fence, replay,
// compare the disk, drain, go over to another generation.

// openTimeout bounds opening a disk, which may take longer than connecting: a
// process may have to be started, and its library to find its servers.
const openTimeout = 30 * time.Second

// dialLink opens the disk off the reactor.
func (cn *conn) dialLink() {
	s, r, g := cn.s(), cn.ch.r, cn.gen
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	cn.cancel = cancel
	o := guest.LinkOptions{Volume: s.opt.Volume.Name(), ReadOnly: s.opt.ReadOnly, Options: g.options, Reactor: r.Index()}
	go func() {
		defer cancel()
		err := s.opensLink(ctx, g)
		var link guest.Link
		if err == nil {
			if link, err = g.store.NewLink(ctx, o); err != nil {
				s.closedLink(g)
			}
		}
		r.Post(reactor.MailFunc(func() { cn.linked(link, err) }))
	}()
}

// opensLink counts a link of g that is about to be, as soon as those of other
// generations are closed: a disk is open in one process at a time.
func (s *Session) opensLink(ctx context.Context, g *Generation) error {
	for !s.mayOpenLink(g) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return errors.New("the version before has not closed the disk")
		}
	}
	return nil
}

func (s *Session) mayOpenLink(g *Generation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, n := range s.links {
		if other != g && n > 0 {
			return false
		}
	}
	if s.links == nil {
		s.links = map[*Generation]int{}
	}
	s.links[g]++
	return true
}

func (s *Session) closedLink(g *Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[g]--; s.links[g] == 0 {
		delete(s.links, g)
	}
}

// closeLink gives the link up, once; fenced may be told at once.
func (cn *conn) closeLink(link guest.Link, fenced func(finished bool)) {
	cn.link = nil
	s, g := cn.s(), cn.gen
	link.Close(func(finished bool) {
		s.closedLink(g)
		fenced(finished)
	})
}

func (cn *conn) linked(link guest.Link, err error) {
	if cn.state == lost { // given up meanwhile
		if err == nil {
			cn.closeLink(link, func(bool) {})
		}
		return
	}
	if err == nil {
		cn.link = link
		err = link.Start(cn.ch.r, (*linkOwner)(cn))
	}
	if err != nil {
		cn.lose(lostProcess(err))
		return
	}
	s := cn.s()
	cn.state = login
	cn.number = s.register(cn)
	cn.info, cn.depth = link.Info(), uint32(link.Depth())
	cn.maxConns = uint32(len(s.channels))
	cn.loggedIn()
}

// lostProcess is the loss by what a link says.
func lostProcess(err error) loss {
	var trap *guest.Trap
	if !errors.As(err, &trap) {
		return loss{text: err.Error(), byEOF: true}
	}
	return loss{text: err.Error(), byEOF: true, trap: true, died: trap.Cause == "exit"}
}

// where tells of a connection in the log.
func (cn *conn) where() string {
	if cn.gen.store != nil {
		return "process"
	}
	return cn.addr.String()
}

// submitLink puts what waits into the ring, as much as there is room for.
func (cn *conn) submitLink(from *list) {
	pushed := false
	for io := from.first(); io != nil && len(cn.free) > 0 && cn.state == online; io = from.first() {
		from.remove(io)
		if cn.ch.parks(cn, io) {
			continue
		}
		n := uint32(cn.offer(io))
		cn.slots[n].shared = cn.share(int(n), io)
		if io.Op == block.OpWrite && !cn.slots[n].shared && !fetch(cn.link.Payload(int(n))[:io.Length], io, 0, io.Length) {
			cn.logSpoilt(io)
			cn.vacate(n)
			cn.ch.finish(io, block.EIO)
			continue
		}
		cn.order.pushBack(io)
		cn.link.Submit(int(n), io.Op, io.Flags, io.Offset, io.Length)
		pushed = true
	}
	if pushed {
		cn.link.Push()
	}
}

// share lets the process have the request's memory instead of a copy, if it can.
func (cn *conn) share(n int, io *volume.IO) bool {
	if !io.Op.HasPayload() || io.Lower.Flags&ioCopied != 0 || !cn.link.Lends() {
		return false
	}
	data := cn.segments(io, 0, io.Length)
	defer clear(data)
	return cn.link.Lend(n, data)
}

// linkOwner is the conn as its link sees it.
type linkOwner conn

// Finished ends a request.
func (o *linkOwner) Finished(n int, st block.Status, filled uint64, extents []block.Extent) {
	cn := (*conn)(o)
	if cn.state == lost {
		return
	}
	s := &cn.slots[n]
	if io := s.io; io != nil && st == block.OK {
		switch io.Op {
		case block.OpRead:
			io.Filled = filled
			if filled == io.Length && !s.shared && !fill(io, 0, cn.link.Payload(n)[:io.Length]) {
				cn.spoil(uint32(n))
			}
		case block.OpBlockStatus:
			describe(io, extents)
		}
	}
	s.ended, s.st = true, st
	cn.settle(uint32(n))
}

// describe takes extents in, clipped to what was asked for.
func describe(io *volume.IO, extents []block.Extent) {
	left := io.Length
	for _, e := range extents {
		if left == 0 || len(io.Extents) == cap(io.Extents) || e.Length == 0 {
			return
		}
		n := min(e.Length, left)
		left -= n
		io.Extents = append(io.Extents, block.Extent{Length: n, State: e.State & (block.Hole | block.Zero)})
	}
}

// Turn ends a batch of Finished.
func (o *linkOwner) Turn() {
	if cn := (*conn)(o); cn.state != lost {
		cn.afterReceive()
	}
}

// Lost ends the connection.
func (o *linkOwner) Lost(err error) { (*conn)(o).lose(lostProcess(err)) }

// goodbyeLink closes the disk in the process. Nothing is outstanding.
func (cn *conn) goodbyeLink() {
	cn.closeLink(cn.link, func(bool) { cn.lose(loss{}) })
}

// leaveLink gives the link up. Reads whose memory the process has wait until it
// has finished with them, or is gone (rule 2). Writes of unknown outcome wait for
// that, too, and, if somebody behind it may still carry them out then, for the
// volume's fence time (rule 1).
func (cn *conn) leaveLink(l loss) {
	writes, reads := cn.unknown.Len(), cn.shared.Len()
	if writes > 0 {
		cn.ch.old[cn] = true
	}
	if writes+reads > 0 {
		cn.log.Warn("requests wait for the plugin's process to finish with them", "writes", writes, "reads", reads)
	}
	cn.closeLink(cn.link, func(finished bool) {
		if reads > 0 {
			cn.ch.goOn(&cn.shared)
		}
		if writes > 0 {
			cn.fenceLink(finished && !l.trap)
		}
	})
}

// fenceLink fences a link that is closed. finished: the process says that it has
// carried out, or never will, what it had.
func (cn *conn) fenceLink(finished bool) {
	switch {
	case finished:
		cn.fenced("the plugin has finished")
	case cn.gen.store.FenceOnExit():
		cn.fenced("the plugin's process has ended")
	default:
		cn.timer.Fire = func() { cn.fenced("the fence time is over") }
		cn.ch.r.StartTimer(&cn.timer, cn.ch.s.opt.Fence)
	}
}
