package session

import (
	"errors"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// maxRounds is how many output buffers a plugin may fill for one call.
const maxRounds = 64

// endless is what a plugin does that fills maxRounds.
const endless = "its actions do not come to an end"

// call hands n bytes of events to the plugin and carries out its actions. It
// reports whether the caller goes on at once. If not, the connection is lost, or
// the plugin runs in another process, and then is taken when it has answered.
func (cn *conn) call(n int, budget int64, then step) bool {
	if cn.apart != nil {
		cn.begin(n, budget, then)
		return false
	}
	for round := 0; ; round++ {
		if round == maxRounds {
			return cn.violation(endless)
		}
		cn.calls++
		cn.tapEvents(n)
		actions, more, err := cn.inst.Call(n, budget)
		if !cn.took(actions, more, err) {
			return false
		}
		if !more {
			return true
		}
		n = 0
	}
}

// took carries out what the plugin has answered. It reports whether the
// connection is still there.
func (cn *conn) took(actions []byte, more bool, err error) bool {
	if cn.tap != nil {
		cn.tap.Actions(actions, more, err)
	}
	if err != nil {
		cn.lose(trapped(err))
		return false
	}
	if !cn.run(actions) {
		return false
	}
	if more && len(actions) == 0 {
		return cn.violation("it has more actions but gives none")
	}
	return true
}

// trapped is the loss by an error of an instance.
func trapped(err error) loss {
	var trap *guest.Trap
	return loss{text: err.Error(), trap: true, died: errors.As(err, &trap) && trap.Cause == "exit"}
}

// violation ends the connection because the plugin broke the contract.
func (cn *conn) violation(what string) bool {
	cn.log.Error("plugin broke the contract", "what", what)
	cn.lose(loss{text: "plugin " + cn.gen.name() + " broke the contract: " + what, wrong: true})
	return false
}

// run carries out a buffer of actions in order.
func (cn *conn) run(b []byte) bool {
	var seen prediction
	for len(b) > 0 {
		rec, rest, ok := abi.Next(b)
		if !ok {
			return cn.violation("an action record is malformed")
		}
		b = rest
		switch kind := abi.Overlay[abi.Header](rec).Kind; kind {
		case abi.ActConsume:
			if a := abi.Overlay[abi.Count](rec); a != nil && cn.consume(a, &seen) {
				continue
			}
		case abi.ActReceive:
			if a := abi.Overlay[abi.Range](rec); a != nil && cn.receiveInto(a, &seen) {
				continue
			}
		case abi.ActComplete:
			if a := abi.Overlay[abi.Complete](rec); a != nil && cn.complete(a) {
				continue
			}
		case abi.ActSend:
			if a := abi.Overlay[abi.Bytes](rec); a != nil && cn.sendBytes(a, rec) {
				continue
			}
		case abi.ActSendPayload:
			if a := abi.Overlay[abi.Range](rec); a != nil && cn.sendPayload(a) {
				continue
			}
		case abi.ActDiscard:
			if a := abi.Overlay[abi.Count](rec); a != nil && cn.discard(a, &seen) {
				continue
			}
		default:
			if cn.rare(kind, rec) {
				continue
			}
		}
		if cn.state == lost {
			return false
		}
		return cn.violation("an action record is too short for its kind")
	}
	if seen.header != 0 {
		cn.predict = seen
	}
	return true
}

// consume moves past bytes that the plugin has understood.
func (cn *conn) consume(a *abi.Count, seen *prediction) bool {
	b := cn.stream.Buffered()
	if len(cn.directives) > 0 || a.N > uint64(len(b)) {
		return cn.violation("it consumes bytes that it has not been handed")
	}
	if a.Flags&abi.FlagDigest != 0 {
		cn.recvCRC = updateCRC(cn.recvCRC, b[:a.N])
	}
	cn.stream.Take(int(a.N))
	if a.N > 0 {
		*seen = prediction{header: a.N}
	}
	return true
}

// receiveInto directs the next bytes into a read's payload.
func (cn *conn) receiveInto(a *abi.Range, seen *prediction) bool {
	s := cn.find(a.Tag)
	switch {
	case s == nil:
		return cn.violation("it receives into a request that it does not hold")
	case a.From > a.To:
		return cn.violation("it receives into a range that ends before it begins")
	case s.io != nil && (s.io.Op != block.OpRead || a.To > s.io.Length):
		return cn.violation("it receives beyond a request's payload")
	case !s.claim(a.From, a.To):
		return cn.violation("it receives into the same bytes of a request twice")
	}
	s.recv++
	seen.payload += a.To - a.From
	return cn.direct1(directive{kind: abi.ActReceive, digested: a.Flags&abi.FlagDigest != 0, slot: uint32(a.Tag), at: a.From, to: a.To})
}

// discard throws the next bytes away.
func (cn *conn) discard(a *abi.Count, seen *prediction) bool {
	seen.payload += a.N
	return cn.direct1(directive{kind: abi.ActDiscard, digested: a.Flags&abi.FlagDigest != 0, to: a.N})
}

// maxDirectives bounds what a plugin can pile up.
const maxDirectives = 4096

// direct1 adds a directive and carries out at once what can be.
func (cn *conn) direct1(d directive) bool {
	if len(cn.directives) >= maxDirectives {
		return cn.violation("it directs the stream too far ahead")
	}
	if d.at == d.to && d.kind != abi.ActCheckDigest {
		if d.kind == abi.ActReceive {
			cn.slots[d.slot].recv--
		}
		return true
	}
	cn.directives = append(cn.directives, d)
	cn.carryOut()
	return cn.state != lost
}

// complete ends a request, once its loans are over.
func (cn *conn) complete(a *abi.Complete) bool {
	s := cn.find(a.Tag)
	if s == nil {
		return cn.violation("it completes a request that it does not hold")
	}
	s.ended, s.st = true, status(a.Status)
	cn.settle(uint32(a.Tag))
	return true
}

// sendBytes queues what the plugin wants sent.
func (cn *conn) sendBytes(a *abi.Bytes, rec []byte) bool {
	b, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
	if !ok {
		return false
	}
	if cn.closing || cn.stream.Copied() > cn.maxCopied() {
		return cn.violation("it sends too much, or after Close")
	}
	if a.Flags&abi.FlagDigest != 0 {
		cn.sendCRC = updateCRC(cn.sendCRC, b)
	}
	cn.stream.Send(b)
	return true
}

// Bounds on what a plugin can queue to be sent: bytes by copy, and, of one
// request, pieces of its payload.
const (
	maxCopied     = 4 << 20
	maxTransforms = 2 * volume.MaxTransfer // a plugin that transforms sends payload by copy
	maxLent       = 1 << 13
)

func (cn *conn) maxCopied() uint64 {
	if cn.gen.copies {
		return maxTransforms
	}
	return maxCopied
}

// sendPayload queues a piece of a write's payload.
func (cn *conn) sendPayload(a *abi.Range) bool {
	s := cn.find(a.Tag)
	switch {
	case s == nil || s.io == nil:
		if s != nil {
			return true // it has failed upwards; only reads do while they are held
		}
		return cn.violation("it sends the payload of a request that it does not hold")
	case s.io.Op != block.OpWrite || a.From > a.To || a.To > s.io.Length:
		return cn.violation("it sends beyond a request's payload")
	case cn.closing || s.lent > maxLent || cn.stream.Copied() > cn.maxCopied():
		return cn.violation("it sends too much, or after Close")
	}
	if s.hashed || a.Flags&abi.FlagDigest != 0 {
		return cn.sendPrivate(s, a)
	}
	s.io.EachSegment(a.From, a.To, func(b []byte) {
		s.lent++
		cn.stream.Lend(b, uint32(a.Tag))
	})
	return true
}

// limits takes in what the connection and its disk are.
func (cn *conn) limits(rec []byte) bool {
	a := abi.Overlay[abi.Limits](rec)
	if a == nil {
		return false
	}
	info, ok := infoOf(rec, a)
	if !ok {
		return false
	}
	cn.info = info
	cn.fence, cn.fenceNS = a.Fence, a.FenceNS
	cn.maxConns, cn.depth, cn.handover = max(a.MaxConns, 1), a.Depth, a.Handover != 0
	switch cn.state {
	case login:
		cn.loggedIn()
	case online:
		if !cn.news.ok(cn.ch.r.Now(), 10*time.Millisecond, 100) {
			return cn.violation("it floods the engine with news of its limits")
		}
		if err := cn.s().learn(cn.info, cn.maxConns); err != nil {
			cn.otherDisk(err)
		}
	}
	return cn.state != lost
}

// want takes in how the stream should be cut.
func (cn *conn) want(a *abi.Want) bool {
	if a.Min > abi.MaxWant || a.Max > abi.MaxWant || a.Min > a.Max {
		return cn.violation("it wants windows that do not exist")
	}
	cn.min, cn.max = int(max(a.Min, 1)), int(max(a.Max, 1))
	return true
}

// fail ends the connection, or more, at the plugin's word.
func (cn *conn) fail(rec []byte) bool {
	a := abi.Overlay[abi.Fail](rec)
	if a == nil {
		return false
	}
	text, ok := abi.Inline(rec, int(unsafe.Sizeof(*a)), a.Len)
	if !ok {
		return false
	}
	why := short(text)
	switch a.Scope {
	case abi.FailForever:
		if cn.mayStop() {
			cn.s().stop(why)
		}
	case abi.FailSession:
		cn.s().loseAll(cn, why)
	}
	if cn.state == login {
		_ = cn.stream.Flush() // the plugin may have said goodbye politely
	}
	cn.lose(loss{text: why, failed: true})
	return false
}

// rareCall is a call that is not on the data path. Only the login and the
// goodbye may take long.
func (cn *conn) rareCall(n int, then step) bool {
	if cn.state == online {
		return cn.call(n, guest.BudgetCall+int64(n)*guest.PerByte, then)
	}
	return cn.call(n, guest.BudgetLogin, then)
}
