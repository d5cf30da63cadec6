package session

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// Flags in volume.LowerState.Flags.
const (
	// ioUnknown: the request modifies, was under way on a connection that is
	// lost, and has not been acknowledged since. Its range is in the fence table.
	ioUnknown = 1 << 0
	// ioAborted: the plugin was asked to give the request back.
	ioAborted = 1 << 1
	// ioOwn: a flush of the session's own, for one connection; Origin is its *ownFlush.
	ioOwn = 1 << 2
	// ioSpoilt: the request's memory is gone; it fails instead of being sent again.
	ioSpoilt = 1 << 3
	// ioCopied: a process had the request's memory and was lost. It may have died
	// of that memory, so the payload is copied when it is sent again.
	ioCopied = 1 << 4
)

// channel is a session on one reactor: its connection, and the requests that
// wait for one. All of it belongs to that reactor but for the atomics.
type channel struct {
	s    *Session
	r    *reactor.Reactor
	done volume.Completer

	conn     *conn          // connecting, logging in or online
	next     *conn          // of the generation that is to take over, or on trial
	draining *conn          // of the generation before: it ends what it has
	old      map[*conn]bool // lost ones that are still being fenced
	seq      uint64         // of the last request

	waiting list // for a connection, or for room on it; in submission order
	parked  list // writes that overlap one of unknown outcome
	flushes list // that wait for draining to end
	owed    list // writes of an earlier engine, until its fence is over

	held    uint8 // hold… for each reason why nothing is submitted or connected
	heldAt  int64 // since then, ns; 0: nobody waits for that any more
	startOn bool  // start when held no more
	pause   int64 // the longest that a request has had to wait for a takeover, ns

	submit   reactor.Deferred
	tick     reactor.Timer
	retry    reactor.Timer
	backoff  time.Duration
	onlineAt int64

	flushed atomic.Int64 // a flush that was acknowledged here began then, ns
	since   atomic.Int64 // its connection came online then, ns
	covers  atomic.Bool  // it covers other connections, too

	up        atomic.Bool // the connection is online
	before    bool        // there was a connection before
	unplanned bool        // and it was lost, or the last try failed
	without   bool        // it cannot be had, though others can: see share.go
	ex        exchange

	said   string // the last complaint, and when
	saidAt int64

	stopped bool // requests fail
	closing bool // nothing is begun any more
}

func newChannel(s *Session, r *reactor.Reactor) *channel {
	c := &channel{s: s, r: r, old: map[*conn]bool{}}
	c.submit.Run = c.dispatch
	c.tick.Fire = c.onTick
	c.retry.Fire = c.start
	return c
}

// Submit takes a batch; it goes to the plugin at the end of the turn, together
// with what other queues submit until then.
func (c *channel) Submit(batch []*volume.IO) {
	deadline := c.r.Now() + int64(c.s.opt.Timeout)
	for _, io := range batch {
		io.Lower = volume.LowerState{Deadline: deadline}
		io.Lower.Place.Of(io)
		if io.Again && io.Op.Modifies() && c.owe(io) {
			continue
		}
		c.enqueue(io)
	}
}

// enqueue puts a request behind those that wait.
func (c *channel) enqueue(io *volume.IO) {
	c.seq++
	io.Lower.Place.Seq = c.seq
	c.waiting.pushBack(io)
	c.r.Defer(&c.submit)
	c.watchDeadlines()
}

// watchDeadlines has onTick look after what waits.
func (c *channel) watchDeadlines() {
	if c.waiting.Len() > 0 && !c.tick.Running() {
		c.r.StartTimer(&c.tick, c.tickEvery())
	}
}

// Close is for the volume: nothing is outstanding. The goodbye is Session.Close's.
func (c *channel) Close() {}

// dispatch hands to the plugin what waits.
func (c *channel) dispatch() {
	if c.stopped {
		c.failWaiting(block.EIO)
		return
	}
	for _, cn := range [...]*conn{c.draining, c.conn} {
		if cn != nil && cn.state == online && cn.own.Len() > 0 {
			cn.submit(&cn.own)
			cn.send()
		}
	}
	if c.held != 0 {
		return
	}
	if c.isOnline() {
		if c.heldAt != 0 {
			c.notePause()
		}
		cn := c.conn
		cn.submit(&c.waiting)
		cn.send()
		return
	}
	c.handOver()
	if c.waiting.Len() == 0 {
		c.heldAt = 0
	}
}

// unpark lets parked writes try again, in their order.
func (c *channel) unpark() {
	if c.parked.Len() == 0 {
		return
	}
	for io := c.parked.popFront(); io != nil; io = c.parked.popFront() {
		c.waiting.insert(io)
	}
	c.r.Defer(&c.submit)
}

// finish gives a request back to the volume. It is in no list any more.
func (c *channel) finish(io *volume.IO, st block.Status) {
	if io.Lower.Flags&ioUnknown != 0 {
		c.s.resolved(io)
	}
	io.Status = st
	switch origin := io.Lower.Origin.(type) {
	case *channel:
		origin.leave(&origin.ex.returned, io)
	case *ownFlush:
		origin.ended(st)
	default:
		c.done.Complete(io)
	}
}

// isOnline tells whether the channel has a connection for requests.
func (c *channel) isOnline() bool { return c.conn != nil && c.conn.state == online }

// start connects, unless there is a connection already.
func (c *channel) start() {
	if c.conn != nil || c.s.stopped.Load() || c.stopped || c.closing {
		return
	}
	if c.held != 0 {
		c.startOn = true
		return
	}
	c.conn = newConn(c, c.s.gen.Load())
	c.conn.dial()
}

// reconnect tries again after a while that grows with each failure.
func (c *channel) reconnect() {
	if c.onlineAt != 0 && c.r.Now()-c.onlineAt > int64(steadyAfter) {
		c.backoff = 0
	}
	c.onlineAt = 0
	c.r.StartTimer(&c.retry, c.backoff)
	c.backoff = min(max(c.backoff*2, firstBackoff), maxBackoff)
}

// complain logs a warning, but the same one only once a minute.
func (c *channel) complain(log *slog.Logger, msg string, args ...any) {
	text := fmt.Sprint(args...)
	if text == c.said && c.r.Now()-c.saidAt < int64(time.Minute) {
		return
	}
	c.said, c.saidAt = text, c.r.Now()
	log.Warn(msg, args...)
}

func (c *channel) tickEvery() time.Duration {
	return min(max(c.s.opt.Timeout/10, 10*time.Millisecond), time.Second)
}

// onTick looks for requests that have waited too long. It runs only while
// something is outstanding.
func (c *channel) onTick() {
	now := c.r.Now()
	for io := c.waiting.first(); io != nil && io.Lower.Deadline <= now; io = c.waiting.first() {
		c.waiting.remove(io)
		c.expire(io)
	}
	c.expireIn(&c.parked, now)
	c.expireIn(&c.flushes, now)
	busy := c.waiting.Len()+c.parked.Len()+c.flushes.Len() > 0
	for _, cn := range [...]*conn{c.draining, c.conn} {
		if cn != nil && cn.state == online {
			cn.checkDeadlines(now)
			cn.noteOldest(now)
			busy = busy || cn.order.Len() > 0
		}
	}
	if busy {
		c.r.StartTimer(&c.tick, c.tickEvery())
	}
}

// noteOldest tells the generation how long it has not answered a request.
func (cn *conn) noteOldest(now int64) {
	age := int64(0)
	if io := cn.order.first(); io != nil {
		age = now - cn.slots[io.Lower.Slot].began
	}
	cn.gen.loads[cn.ch.r.Index()].oldest.Store(age)
}

// expireIn fails what has waited too long in a list.
func (c *channel) expireIn(l *list, now int64) {
	for io := l.first(); io != nil; {
		next := behind(io)
		if io.Lower.Deadline <= now {
			l.remove(io)
			c.expire(io)
		}
		io = next
	}
}

// expire fails a request that nothing holds any more: one that was never sent,
// or one whose old connection is fenced.
func (c *channel) expire(io *volume.IO) {
	c.s.counters.expired.Add(1)
	c.finish(io, block.ETIMEDOUT)
}

// stop fails what waits, now and from now on. Writes of unknown outcome follow
// when they are fenced.
func (c *channel) stop() {
	c.stopped = true
	c.r.StopTimer(&c.retry)
	for _, cn := range [...]*conn{c.next, c.draining, c.conn} {
		if cn != nil {
			cn.lose(loss{text: "the volume was stopped"})
		}
	}
	c.failWaiting(block.EIO)
}

func (c *channel) failWaiting(st block.Status) {
	for _, l := range [...]*list{&c.waiting, &c.parked, &c.flushes, &c.owed} {
		for io := l.popFront(); io != nil; io = l.popFront() {
			c.finish(io, st)
		}
	}
}

// shut takes leave of the server and calls gone when that is over.
func (c *channel) shut(gone func()) {
	c.closing = true
	c.r.StopTimer(&c.retry)
	c.r.StopTimer(&c.tick)
	for cn := range c.old {
		cn.fenced("the engine stops")
	}
	for _, cn := range []*conn{c.next, c.draining} {
		if cn != nil {
			cn.lose(loss{})
		}
	}
	cn := c.conn
	if cn == nil {
		gone()
		return
	}
	if before := cn.gone; before != nil { // a takeover waits for the same
		cn.gone = func() { before(); gone() }
	} else {
		cn.gone = gone
	}
	cn.goodbye()
}
