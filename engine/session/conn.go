package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/transport"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// connState is where a connection stands in its life.
type connState uint8

const (
	dialing connState = iota
	login             // the plugin talks to the server; no requests yet
	standby           // logged in, beside the connection that serves
	online
	leaving // goodbye was said
	lost    // maybe with writes of unknown outcome, until it is fenced
)

// conn is a connection of a channel and the plugin's state machine for it.
type conn struct {
	ch         *channel
	gen        *Generation
	log        *slog.Logger
	state      connState
	kind       uint16 // how it came to be: abi.Session…
	onlineAt   int64  // ns, taken after the login
	number     uint32 // in the session, valid from login on
	registered bool   // it has its number
	addr       transport.Address
	dialer     *transport.Dialer
	stream     *transport.Stream
	inst       guest.Instance
	apart      guest.Apart // the same, if it runs in another process
	link       guest.Link  // instead of stream and inst: a store in another process
	tap        guest.Tap   // sees what inst is handed and answers; may be nil
	await      await
	cancel     context.CancelFunc // ends the preparation off the reactor
	timer      reactor.Timer      // login's, goodbye's or the fence's deadline

	// What the plugin said of the connection.
	info     block.Info
	fence    uint32
	fenceNS  uint64
	maxConns uint32
	depth    uint32
	handover bool // it can be saved
	min      int  // of Want
	max      int

	slots   []slot
	free    []uint32
	order   list // requests that the plugin holds, in submission order
	offered []uint32
	taken   int    // how many of the offered ones the plugin took
	starved bool   // it took fewer; wait for Ready
	credits uint64 // that Ready has given since

	own     list        // the session's own flush, which is not the guest's turn
	flushAt int64       // a flush that was acknowledged here began then, ns
	ackFrom int64       // when the first write that no flush covers was acknowledged, ns
	ackTo   int64       // and the last one; 0: none was
	tally   tally       // for the generation
	side    func(*loss) // of a connection beside the one that serves: told once, nil for standby
	settled bool        // it is drained and flushed
	staged  *staged     // the version that is about to go on here
	gone    func()      // told when the connection is lost
	quiet   quietWait

	directives []directive
	predict    prediction
	wanted     uint64 // stream position + 1 at which the plugin last chose another cut
	cut        cut    // how the stream was cut last
	handing    handing
	served     bool // a request has ended well
	acked      bool // it acknowledged a write that is not durable by itself
	closing    bool // it asked to close when all is sent
	hangup     bool // the end of the stream is near: a short read does not mean that there is no more
	sendCRC    uint32
	recvCRC    uint32
	events     []abi.Digest // to be told
	timers     [abi.MaxTimers]*reactor.Timer
	into       [][]byte
	calls      uint64
	idleCalls  uint64 // calls at the last idle event
	idle       reactor.Timer
	sendLater  reactor.Deferred
	tellLater  reactor.Deferred // digests
	logRate    rate             // of lines that the plugin causes
	timerRate  rate
	news       rate // of limits, messages and session data

	unknown list // when lost: writes that wait for the fence
	shared  list // when lost: reads whose memory a process may still write to
}

// loss is why a connection ends.
type loss struct {
	text   string
	byEOF  bool // the server closed, or the transport failed: nothing more can be learnt from the socket
	trap   bool
	died   bool  // the plugin's process is gone; whoever runs it spaces new ones
	wrong  bool  // the plugin broke the contract
	failed bool  // the plugin gave the connection up, or did not finish the login
	disk   error // the disk is another one
}

// fault tells whether it is the plugin that is to blame.
func (l *loss) fault() bool { return l.trap || l.wrong || l.failed || l.disk != nil }

func newConn(c *channel, g *Generation) *conn {
	cn := &conn{ch: c, gen: g, log: c.s.log.With("reactor", c.r.Index()), min: 1, max: abi.MaxWant}
	cn.kind = abi.SessionFirst
	if c.before {
		cn.kind = abi.SessionReconnect
	}
	cn.idle.Fire = cn.onIdle
	cn.sendLater.Run = cn.send
	cn.tellLater.Run = cn.tellDigests
	return cn
}

func (cn *conn) s() *Session { return cn.ch.s }

// dial prepares off the reactor what may block, the name look-up and the
// plugin's instance, and then connects on it.
func (cn *conn) dial() {
	if cn.gen.store != nil {
		cn.dialLink()
		return
	}
	s, r := cn.s(), cn.ch.r
	cn.addr = s.target()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	cn.cancel = cancel
	go func() {
		defer cancel()
		addr, err := cn.addr.Resolve(ctx)
		var inst guest.Instance
		if err == nil {
			inst, err = cn.gen.module.NewInstance(ctx)
		}
		r.Post(reactor.MailFunc(func() { cn.prepared(addr, inst, err) }))
	}()
}

func (cn *conn) prepared(addr sys.SocketAddr, inst guest.Instance, err error) {
	cn.use(inst)
	if cn.state == lost { // given up meanwhile
		cn.closeInstance()
		return
	}
	if err == nil {
		err = cn.attach(inst)
	}
	if err != nil {
		l := trapped(err)
		var trap *guest.Trap
		l.trap = errors.As(err, &trap)
		cn.lose(l)
		return
	}
	cn.dialer = transport.Dial(cn.ch.r, addr, connectTimeout, cn.dialed)
}

func (cn *conn) dialed(fd int, err error) {
	cn.dialer = nil
	if err != nil {
		cn.lose(loss{text: err.Error()})
		return
	}
	if cn.stream, err = transport.NewStream(cn.ch.r, fd, cn, cn); err != nil {
		_ = sys.Close(fd)
		cn.lose(loss{text: err.Error()})
		return
	}
	s := cn.s()
	cn.state = login
	cn.number = s.register(cn)
	cn.timer.Fire = func() {
		cn.lose(loss{text: "the server did not finish the login within " + connectTimeout.String()})
	}
	cn.ch.r.StartTimer(&cn.timer, connectTimeout)
	n, fits := cn.openedEvent(cn.inst.Input(), cn.gen, opening{kind: cn.kind})
	if !fits {
		cn.lose(loss{text: "options and session data are too long for the plugin's interface", failed: true})
		return
	}
	cn.observeLogin(n)
	cn.call(n, guest.BudgetLogin, thenNothing)
	cn.send()
}

// loggedIn is called with the first limits.
func (cn *conn) loggedIn() {
	cn.ch.r.StopTimer(&cn.timer)
	if cn.side == nil {
		cn.goOnline()
		return
	}
	if err := cn.s().compare(&cn.info); err != nil {
		cn.lose(loss{text: err.Error(), disk: err})
		return
	}
	cn.state = standby
	cn.tellSide(nil)
}

// goOnline makes the connection the channel's, for requests.
func (cn *conn) goOnline() {
	s, c := cn.s(), cn.ch
	if err := cn.admit(); err != nil {
		cn.otherDisk(err)
		return
	}
	if cn.state == lost {
		return
	}
	cn.makeSlots(cn.depth)
	cn.state = online
	cn.gen.proven.Store(true)
	s.counters.connects.Add(1)
	if c.unplanned {
		s.counters.reconnects.Add(1)
	}
	c.before, c.unplanned = true, false
	c.up.Store(true)
	c.without = false
	c.onlineAt = c.r.Now()
	cn.onlineAt = sys.Nanotime()
	s.online.Add(1)
	s.mu.Lock()
	s.lastErr = ""
	s.mu.Unlock()
	s.opt.Volume.SetState(volume.Online, "")
	cn.log.Info("connected", "address", cn.where(), "connection", cn.number, "size", cn.info.Size)
	s.fencedBy(cn)
	if cn.fence == abi.FenceReinstate {
		for old := range c.old {
			old.fenced("the session was reinstated")
		}
	}
	s.tellTrial(cn.gen, nil)
	cn.observeOnline()
	c.r.Defer(&c.submit)
}

// admit looks at the disk before requests go to it.
func (cn *conn) admit() error {
	s := cn.s()
	if cn.gen.strict && !cn.gen.proven.Load() {
		if err := s.compare(&cn.info); err != nil {
			return err
		}
	}
	return cn.learn()
}

// otherDisk ends the volume, because it is not to write to another disk
// (rule 4); but if a version shows it that has never served the volume, only
// the connection: the version before may show the right one.
func (cn *conn) otherDisk(err error) {
	if cn.mayStop() {
		cn.s().stop(err.Error())
		return
	}
	cn.lose(loss{text: err.Error(), disk: err})
}

// mayStop tells whether the plugin's word is enough to end the volume.
func (cn *conn) mayStop() bool {
	old, _ := cn.s().seen()
	return old == nil || cn.gen.proven.Load()
}

// tellSide tells who has asked for a connection beside the one that serves
// what has become of it.
func (cn *conn) tellSide(l *loss) {
	if f := cn.side; f != nil {
		cn.side = nil
		f(l)
	}
}

// Ready is told by the reactor that the socket can be read or written.
func (cn *conn) Ready(events uint32) {
	if events&(sys.EpollRdHup|sys.EpollHup|sys.EpollErr) != 0 {
		cn.hangup = true // told once, maybe together with data
	}
	if cn.later(func() { cn.Ready(events) }) {
		return
	}
	if cn.state == lost {
		cn.watchFence()
		return
	}
	if events&sys.EpollOut != 0 && cn.stream.Unsent() > 0 {
		cn.send()
		if cn.ch.waiting.Len() > 0 {
			cn.ch.r.Defer(&cn.ch.submit)
		}
	}
	switch events &^= sys.EpollOut; {
	case events == 0 || cn.state == lost:
	case cn.await.on:
		cn.await.ready |= events
	default:
		cn.receive()
	}
}

// send gives the kernel what is queued.
func (cn *conn) send() {
	if cn.state == lost || cn.stream == nil {
		return
	}
	if e := cn.stream.Flush(); e == sys.EFAULT {
		cn.sendFault()
		return
	} else if e != 0 {
		cn.lose(loss{text: "send: " + e.Error(), byEOF: true})
		return
	}
	if cn.closing && cn.stream.Unsent() == 0 {
		cn.stream.FinishSending()
	}
}

// Returned ends the loan of a payload's memory to the send queue.
func (cn *conn) Returned(loan uint32) {
	if cn.state == lost {
		return
	}
	s := &cn.slots[loan]
	s.lent--
	if s.ended {
		cn.settle(loan)
	}
}

// lose ends the connection. What only read, or was never sent, waits for the
// next one at once; writes of unknown outcome wait for the fence first.
func (cn *conn) lose(l loss) {
	if cn.state == lost {
		return
	}
	was := cn.state
	s, c := cn.s(), cn.ch
	if was == login && cn.heard() {
		l.failed = l.failed || l.text != "" // the server was there; the login has failed
	}
	cn.count(l, was)
	cn.state = lost
	cn.unstage()
	c.r.StopTimer(&cn.timer)
	if cn.cancel != nil {
		cn.cancel()
	}
	if cn.dialer != nil {
		cn.dialer.Cancel()
	}
	if was == online {
		s.online.Add(-1)
		if cn.dirty() {
			s.lostCache()
		}
	}
	serving := c.conn == cn
	if serving {
		c.unserved(cn, l, was)
	}
	cn.sortRequests()
	cn.endPlugin(l)
	if cn.stream != nil {
		cn.leaveSocket(l)
	}
	if cn.link != nil {
		cn.leaveLink(l)
	}
	cn.gen.add(c.r.Index(), &cn.tally)
	cn.noteOldest(c.r.Now()) // nothing is outstanding
	c.forget(cn)
	cn.tellSide(&l)
	if was == dialing || was == login {
		s.tellTrial(cn.gen, &l)
	}
	if cn.gone != nil {
		cn.gone()
	}
	if c.closing {
		return
	}
	c.r.Defer(&c.submit)
	if serving {
		c.reconnect()
	}
}

// heard reports whether the server has said anything.
func (cn *conn) heard() bool {
	return cn.stream != nil && (cn.stream.Pos() > 0 || len(cn.stream.Buffered()) > 0)
}

// unserved notes what it means for the channel that its connection ends.
func (c *channel) unserved(cn *conn, l loss, was connState) {
	if cn.served && (!l.trap || l.died) && !l.wrong {
		c.backoff = 0 // it worked; what ended it is no reason to wait
		if c.r.Now()-c.onlineAt < int64(time.Second) {
			c.backoff = firstBackoff // unless it ends all the time
		}
	}
	c.up.Store(false)
	if l.text == "" {
		return // it was to end
	}
	c.unplanned = c.before
	if was != online && was != leaving {
		c.without = true
	}
	c.s.failed(l.text)
}

// forget takes a lost connection out of its place.
func (c *channel) forget(cn *conn) {
	switch cn {
	case c.conn:
		c.conn = nil
	case c.next:
		c.next = nil
	case c.draining:
		c.draining = nil
		c.unparkFlushes()
	}
}

func (cn *conn) count(l loss, was connState) {
	s, g := cn.s(), cn.gen
	if l.trap {
		s.counters.traps.Add(1)
		g.counters.traps.Add(1)
	}
	if l.wrong {
		s.counters.violations.Add(1)
		g.counters.violations.Add(1)
	}
	switch was {
	case online:
		s.counters.losses.Add(1)
		g.counters.lost.Add(1)
		cn.log.Warn("connection lost", "address", cn.where(), "connection", cn.number, "reason", l.text, "outstanding", cn.order.Len())
	case dialing, login:
		if was == login || l.fault() {
			g.counters.refused.Add(1)
		}
		if l.text != "" && cn.side == nil {
			cn.ch.complain(cn.log, "no connection", "address", cn.where(), "reason", l.text)
		}
	}
}

// sortRequests parts the requests that the plugin held: what cannot have
// changed the disk waits for the next connection, the rest for the fence, and
// reads into whose memory a process may still write for the end of that.
func (cn *conn) sortRequests() {
	c, s := cn.ch, cn.s()
	for io := cn.order.popFront(); io != nil; io = cn.order.popFront() {
		if io.Lower.Flags&ioOwn != 0 { // a flush on another connection is not the same
			cn.own.pushBack(io)
			continue
		}
		sl := &cn.slots[io.Lower.Slot]
		io.Lower.Flags &^= ioAborted
		if sl.shared {
			io.Lower.Flags |= ioCopied
		}
		if io.Op.Modifies() && cn.mayBeExecuted(sl) {
			if io.Lower.Flags&ioUnknown == 0 {
				io.Lower.Flags |= ioUnknown
				s.fences.add(io, 0)
			}
			cn.unknown.pushBack(io)
			continue
		}
		if sl.shared {
			cn.shared.pushBack(io)
			continue
		}
		c.again(io)
	}
	for io := cn.own.popFront(); io != nil; io = cn.own.popFront() {
		io.Lower.Origin.(*ownFlush).lost()
	}
	c.watchDeadlines()
}

// endPlugin tells the state machine that its connection is gone, unless it is
// itself the reason, and closes it.
func (cn *conn) endPlugin(l loss) {
	for _, t := range cn.timers {
		if t != nil {
			cn.ch.r.StopTimer(t)
		}
	}
	cn.ch.r.StopTimer(&cn.idle)
	if cn.registered {
		cn.s().unregister(cn)
	}
	if cn.stream != nil && !l.trap && !l.wrong && cn.inst != nil && !cn.await.on {
		cn.closedEvent(l)
	}
	cn.closeInstance()
}

// mayBeExecuted tells whether the server may have seen the request of a slot.
func (cn *conn) mayBeExecuted(s *slot) bool {
	return cn.stream == nil || cn.stream.Sent() > s.queuedAt
}

func (cn *conn) closeInstance() {
	cn.untap()
	if cn.inst != nil {
		cn.inst.Close()
		cn.inst, cn.apart = nil, nil
	}
}

// leaveSocket closes the socket, or, if writes of unknown outcome were under
// way on it, begins to fence it: the server's end of stream after ours says
// that it has finished with what we sent (rule 1). If the server has closed by
// itself there is nothing more to learn, and time has to do.
func (cn *conn) leaveSocket(l loss) {
	if cn.unknown.Len() == 0 {
		cn.stream.Close()
		return
	}
	c := cn.ch
	wait := c.s.opt.Fence
	if cn.fence == abi.FenceQuiesce {
		wait = time.Duration(cn.fenceNS)
	}
	cn.log.Warn("writes of unknown outcome wait for the fence", "writes", cn.unknown.Len(), "at_most", wait)
	c.old[cn] = true
	cn.timer.Fire = func() { cn.fenced("the fence time is over") }
	c.r.StartTimer(&cn.timer, wait)
	if l.byEOF || cn.stream.HungUp() {
		cn.stream.Close()
		return
	}
	cn.stream.HalfClose()
	cn.stream.Again()
}

// watchFence reads a half-closed socket to its end.
func (cn *conn) watchFence() {
	if !cn.ch.old[cn] || !cn.stream.HalfClosed() {
		return
	}
	for range 16 {
		cn.stream.Take(len(cn.stream.Buffered()))
		_, more, eof, e := cn.stream.Receive(nil)
		switch {
		case e == sys.EAGAIN:
			return
		case e == sys.EINTR:
		case eof || e != 0:
			cn.fenced("the server has closed after us")
			return
		case !more && !cn.hangup:
			return
		}
	}
	cn.stream.Again()
}

// fenced ends the connection's life: its writes may be sent again.
func (cn *conn) fenced(how string) {
	c := cn.ch
	if !c.old[cn] {
		return
	}
	delete(c.old, cn)
	c.r.StopTimer(&cn.timer)
	if cn.stream != nil {
		cn.stream.Close()
	}
	cn.s().counters.fences.Add(1)
	cn.log.Info("connection fenced", "how", how, "writes", cn.unknown.Len())
	c.s.counters.replays.Add(c.goOn(&cn.unknown))
}

// goOn lets the requests of a lost connection go on with the next one, unless
// their time is over, and counts those that do.
func (c *channel) goOn(l *list) (n uint64) {
	now := c.r.Now()
	for io := l.popFront(); io != nil; io = l.popFront() {
		if io.Lower.Deadline <= now || c.stopped {
			c.expire(io)
			continue
		}
		n++
		c.again(io)
	}
	c.watchDeadlines()
	c.r.Defer(&c.submit)
	return n
}

// lostCache deals with acknowledged writes that no flush had covered when
// their connection was lost (rule 3).
func (s *Session) lostCache() {
	s.counters.lostCaches.Add(1)
	if s.opt.TrustCache {
		s.log.Warn("connection lost with unflushed writes; on_lost_cache = \"trust\": the server is trusted to have kept them")
		return
	}
	s.log.Error("connection lost with unflushed writes: whether they are durable is unknown, the next flush fails (on_lost_cache = \"error\")")
	s.opt.Volume.LatchFlushError(block.EIO)
}

// checkDeadlines asks the plugin to give back requests that have waited too
// long, and gives the connection up if it does not.
func (cn *conn) checkDeadlines(now int64) {
	if cn.await.on {
		return // whoever runs the plugin sees to it that it answers
	}
	late := false
	for io := cn.order.first(); io != nil && io.Lower.Deadline <= now; {
		if io.Lower.Flags&ioAborted != 0 || cn.gen.store != nil { // a store is not asked
			late = true
			io = behind(io)
			continue
		}
		io.Lower.Flags |= ioAborted
		io.Lower.Deadline = now + int64(min(time.Second, cn.s().opt.Timeout/4)) // grace
		n := io.Lower.Slot
		if !cn.abortEvent(tagOf(n, cn.slots[n].gen)) {
			return
		}
		io = cn.order.first() // the plugin may have ended any of them
	}
	cn.send()
	if late {
		cn.expireReads(now)
		cn.lose(loss{text: fmt.Sprintf("the server has not answered for %v", cn.s().opt.Timeout)})
	}
}

// expireReads fails what does not modify. Writes follow after the fence, and what
// a process has the memory of when it has not any more (rule 2).
func (cn *conn) expireReads(now int64) {
	for io := cn.order.first(); io != nil; {
		next := behind(io)
		sl := &cn.slots[io.Lower.Slot]
		if io.Lower.Deadline <= now && !io.Op.Modifies() && !sl.shared {
			cn.order.remove(io)
			sl.io = nil // what still arrives for it is thrown away
			cn.ch.expire(io)
		}
		io = next
	}
}

// goodbye lets the plugin take leave, and closes when the server has.
func (cn *conn) goodbye() {
	if cn.awaiting(cn.goodbye) {
		return
	}
	switch cn.state {
	case online:
		cn.s().online.Add(-1)
		if cn.ch.conn == cn {
			cn.ch.up.Store(false)
		}
	case standby:
	default:
		cn.lose(loss{})
		return
	}
	cn.state = leaving
	cn.timer.Fire = func() { cn.lose(loss{text: "the server did not close after the goodbye"}) }
	cn.ch.r.StartTimer(&cn.timer, min(goodbyeTimeout, cn.s().opt.Timeout/4)) // others may wait for that
	if cn.link != nil {
		cn.goodbyeLink()
		return
	}
	if cn.goodbyeEvent() {
		cn.send()
	}
}

// short cuts a text of a plugin's to a line for the log.
func short(b []byte) string {
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, string(b[:min(len(b), abi.MaxText)])), "?")
}
