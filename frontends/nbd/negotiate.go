package nbd

import (
	"context"
	"errors"
	"log/slog"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// stepsPerTurn is how much of the handshake is done before others get their
// turn; a client that waits for replies never gets there.
const stepsPerTurn = 64

// negotiate carries the handshake on for as long as there is input.
func (c *conn) negotiate() {
	for steps := 0; c.phase == negotiating; steps++ {
		if steps == stepsPerTurn {
			c.source.Again()
			return
		}
		if !c.sendReplies() {
			return
		}
		n, v, err := c.hs.step(c.hs.in[c.hs.r:c.hs.w])
		c.hs.r += n
		if err != nil {
			c.violate("%v", err)
			return
		}
		switch v {
		case moreInput:
			if !c.receiveOptions() {
				return
			}
		case chosen:
			c.enter()
			return
		case finished:
			c.sendReplies()
			c.cut()
			return
		}
	}
}

// sendReplies sends what the handshake has to say; false if it has to wait or
// the connection has ended.
func (c *conn) sendReplies() bool {
	h := c.hs
	for h.sent < len(h.out) {
		n, e := sys.RawWrite(c.fd, h.out[h.sent:])
		switch e {
		case 0:
			h.sent += n
		case sys.EINTR:
		case sys.EAGAIN:
			if c.watch&sys.EpollOut == 0 {
				c.watchFor(c.watch | sys.EpollOut)
			}
			return false
		default:
			c.cut() // the client is gone
			return false
		}
	}
	h.out, h.sent = h.out[:0], 0
	return true
}

// receiveOptions reads more of the handshake; false if there is nothing yet or
// the connection has ended.
func (c *conn) receiveOptions() bool {
	h := c.hs
	if !c.readable {
		return false
	}
	if h.in == nil {
		h.in = make([]byte, handshakeRoom)
	}
	if h.r > 0 {
		h.w = copy(h.in, h.in[h.r:h.w])
		h.r = 0
	}
	// An option of the greatest length fits, so there is always room.
	n, e := sys.RawRead(c.fd, h.in[h.w:])
	switch {
	case e == sys.EINTR:
	case e == sys.EAGAIN:
		c.readable = false
		return false
	case e != 0 || n == 0:
		c.cut() // a client that only looked, or lost interest
		return false
	default:
		h.w += n
	}
	return true
}

// enter goes on to transmission with the export that was chosen, on the
// reactor where its volume lives.
func (c *conn) enter() {
	e := c.hs.choice.export
	if home := e.Volume.Home(); home != nil && home != c.wk.r {
		if w := c.wk.s.workerOn(home); w != nil {
			c.move(w)
			return
		}
	}
	if e.removed.Load() {
		c.turnDown(errRemoved)
		return
	}
	q, err := e.Volume.Open(c.wk.r, c, volume.QueueOptions{ReadOnly: e.ReadOnly, Stats: &c.wk.tally(e).requests})
	if err != nil {
		c.turnDown(err)
		return
	}
	info, _ := e.Volume.Info()
	e.conns.add(1)
	c.export, c.q, c.framing = e, q, c.hs.framing
	c.status = c.hs.meta == e
	c.allowed = allowedFlags(&info, c.framing)
	c.hs.accept(&info)
	c.transmit()
}

var errRemoved = errors.New("the export has been removed")

// turnDown answers a choice that cannot be met now.
func (c *conn) turnDown(err error) {
	e := c.hs.choice.export
	text := "the export cannot be opened now, try again"
	if errors.Is(err, volume.ErrNotOpen) {
		text = notReady(e)
	}
	c.wk.s.quiet.warn("nbd client turned away", "export", e.Name, "listener", c.l.address, "error", err)
	if !c.hs.refuse(text) {
		c.l.failures.Add(1)
		c.cut()
		return
	}
	c.negotiateLater()
}

// negotiateLater lets the loop in Ready go on with the handshake.
func (c *conn) negotiateLater() { c.source.Again() }

// move takes the connection to another reactor, where it chooses again.
func (c *conn) move(w *worker) {
	c.wk.r.StopTimer(&c.timer)
	c.source.Close()
	c.source = nil
	c.depart()
	w.load.Add(1)
	w.r.Post(reactor.MailFunc(func() { c.arriveChosen(w) }))
}

// arriveChosen is arrive for a connection that has chosen.
func (c *conn) arriveChosen(w *worker) {
	c.wk = w
	w.conns[c] = struct{}{}
	c.timer.Fire = c.tooSlow
	w.r.StartTimer(&c.timer, w.s.o.HandshakeTimeout)
	if w.s.stopping.Load() {
		c.cut()
		return
	}
	if c.watchFor(sys.EpollIn | sys.EpollRdHup) {
		c.readable = true
		c.enter()
	}
}

// transmit begins the transmission phase. What the client has sent beyond the
// handshake, and what it has not been sent of it, is taken over.
func (c *conn) transmit() {
	h := c.hs
	c.hs = nil
	c.wk.r.StopTimer(&c.timer)
	c.phase = transmitting
	if log := c.wk.s.log; log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("nbd client connected", "export", c.export.Name, "listener", c.l.address, "client", c.peer(), "reactor", c.wk.r.Index())
	}
	c.progress = c.wk.r.Now()
	c.say(h.out[h.sent:])
	if rest := h.in[h.r:h.w]; len(rest) > 0 {
		c.takeInput()
		c.w = copy(c.rx.mem, rest)
	}
	c.flush()
	c.receive()
}

// allowedFlags gives the flags that a client may use, by command. Flags that
// were not advertised are errors ("Error values"); FUA is valid everywhere
// once it was.
func allowedFlags(info *block.Info, f framing) (a [8]uint16) {
	var all uint16
	if info.Has(block.CapFUA) {
		all = cmdFlagFUA
	}
	for i := range a {
		a[i] = all
	}
	a[cmdWriteZeroes] |= cmdFlagNoHole
	if info.Has(block.CapWriteZeroes | block.CapFastZero) {
		a[cmdWriteZeroes] |= cmdFlagFastZero
	}
	if f != simple {
		a[cmdRead] |= cmdFlagDF
	}
	if f == extended {
		a[cmdWrite] |= cmdFlagPayloadLen
	}
	a[cmdBlockStatus] |= cmdFlagReqOne
	return a
}
