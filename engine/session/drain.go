package session

import (
	"errors"
	"fmt"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// What a takeover does with a channel and its connections: hold requests back,
// let what is outstanding end, flush, take leave. All of it runs on the
// channel's reactor.

// Reasons to hold a channel.
const (
	holdTakeover = 1 << 0 // TakeOver decides
	holdRetreat  = 1 << 1 // its connection is of a generation that is to leave
	holdObserve  = 1 << 2 // Observe joins its connection
)

// hold keeps requests waiting until release.
func (c *channel) hold(why uint8) {
	if c.held == 0 && c.heldAt == 0 {
		c.heldAt = sys.Nanotime()
	}
	c.held |= why
}

// release lets requests go on, unless there is another reason to hold them.
func (c *channel) release(why uint8) {
	if c.held == 0 {
		return
	}
	if c.held &^= why; c.held != 0 {
		return
	}
	if c.startOn {
		c.startOn = false
		c.start()
	}
	if c.waiting.Len() == 0 {
		c.heldAt = 0 // nobody had to wait
	}
	c.r.Defer(&c.submit)
}

// notePause keeps how long the request that has waited longest for a takeover
// had to. It is called when that one goes on.
func (c *channel) notePause() {
	if io := c.waiting.first(); io != nil {
		began := max(io.Lower.Deadline-int64(c.s.opt.Timeout), c.heldAt)
		c.pause = max(c.pause, sys.Nanotime()-began)
	}
	c.heldAt = 0
}

// isQuiet reports whether the plugin holds no request, nothing directs the
// stream, and nothing is to be sent: a state from which another version can go
// on, or leave be taken. A connection that is not online has none to end.
func (cn *conn) isQuiet() bool {
	return cn.state != online ||
		cn.order.Len() == 0 && cn.own.Len() == 0 && len(cn.free) == len(cn.slots) &&
			len(cn.directives) == 0 && len(cn.events) == 0 && !cn.await.on &&
			(cn.stream == nil || cn.stream.Unsent() == 0)
}

// quietWait waits for a connection to become quiet.
type quietWait struct {
	done  func() // nil: nobody waits
	timer reactor.Timer
}

// quietEvery is how often a connection is looked at that has nothing to say:
// a request may end in other ways than by what the server sends.
const quietEvery = time.Millisecond

// awaitQuiet calls done when the connection is quiet. Only the last who asks
// is told.
func (cn *conn) awaitQuiet(done func()) {
	if cn == nil || cn.isQuiet() {
		done()
		return
	}
	cn.quiet.done = done
	cn.quiet.timer.Fire = func() {
		cn.lookQuiet()
		if cn.quiet.done != nil {
			cn.ch.r.StartTimer(&cn.quiet.timer, quietEvery)
		}
	}
	cn.ch.r.StartTimer(&cn.quiet.timer, quietEvery)
}

// lookQuiet tells who waits if the connection has become quiet.
func (cn *conn) lookQuiet() {
	done := cn.quiet.done
	if done == nil || !cn.isQuiet() {
		return
	}
	cn.noQuiet()
	done()
}

// noQuiet forgets who waits.
func (cn *conn) noQuiet() {
	cn.ch.r.StopTimer(&cn.quiet.timer)
	cn.quiet.done = nil
}

// ownFlush is a flush that the session asks one connection for.
type ownFlush struct {
	io   volume.IO
	v    *volume.Volume
	done func(error)
}

// ended is told what the server has answered.
func (f *ownFlush) ended(st block.Status) {
	if st == block.OK {
		f.done(nil)
		return
	}
	f.v.LatchFlushError(st)
	f.done(fmt.Errorf("the flush before leaving failed (%w): the next flush of every client is told so", st))
}

// lost is told when the connection ends before it has answered. What that
// means for the guest is on_lost_cache's to say; see lose.
func (f *ownFlush) lost() { f.done(errors.New("the connection was lost before it was flushed")) }

// flushOwn flushes what the connection has acknowledged. A failure is the
// guest's to know (rule 3): it is latched here, and told to done as well. done
// is called at once if there is nothing to flush.
func (cn *conn) flushOwn(done func(error)) {
	if cn.state != online || !cn.dirty() {
		done(nil)
		return
	}
	c := cn.ch
	f := &ownFlush{v: c.s.opt.Volume, done: done}
	f.io.Op, f.io.Owner = block.OpFlush, &f.io
	f.io.Lower = volume.LowerState{Deadline: c.r.Now() + int64(c.s.opt.Timeout), Flags: ioOwn, Origin: f}
	c.seq++
	f.io.Lower.Place.Of(&f.io)
	f.io.Lower.Place.Seq = c.seq
	cn.own.pushBack(&f.io)
	c.r.Defer(&c.submit)
	if !c.tick.Running() {
		c.r.StartTimer(&c.tick, c.tickEvery())
	}
}

// leave takes leave of the server and calls done when the connection is gone.
func (cn *conn) leave(done func()) {
	if cn == nil || cn.state == lost {
		done()
		return
	}
	cn.gone = done
	cn.goodbye()
}

// finishDraining lets the connection of the generation before end what it has,
// flushes it and takes leave. Guests' flushes have waited for that.
func (c *channel) finishDraining(done func(error)) {
	cn := c.draining
	if cn == nil {
		done(nil)
		return
	}
	cn.awaitQuiet(func() {
		cn.flushOwn(func(flushErr error) {
			if c.draining != cn && cn.state != lost {
				return // it serves again
			}
			cn.settled = true // what guests' flushes were to cover is flushed, or the failure latched
			c.unparkFlushes()
			cn.leave(func() { done(flushErr) })
		})
	})
}

// retreat drains, flushes and leaves the connection that serves, while requests
// wait, to make the next one with the session's generation. Nobody waits for
// that but the requests.
func (c *channel) retreat() {
	cn := c.conn
	c.hold(holdRetreat)
	cn.awaitQuiet(func() {
		cn.flushOwn(func(error) {
			cn.leave(func() { c.release(holdRetreat) })
		})
	})
}

// adopt goes over to the session's generation: by what is staged, or with the
// next connection.
func (c *channel) adopt() {
	cn := c.conn
	switch {
	case cn == nil || cn.gen == c.s.gen.Load():
	case cn.staged != nil:
		cn.commit()
	case cn.state == online:
		c.retreat()
	default:
		cn.lose(loss{})
	}
}

// unparkFlushes lets the flushes go on that have waited for draining to end.
func (c *channel) unparkFlushes() {
	for io := c.flushes.popFront(); io != nil; io = c.flushes.popFront() {
		c.waiting.insert(io)
	}
	c.r.Defer(&c.submit)
}
