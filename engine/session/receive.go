package session

import (
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// directFrom is the length from which a payload is read into its request's
// memory rather than copied there: below it the copy is cheaper than a system
// call of its own.
const directFrom = 16 << 10

// directive says where the next bytes of the stream go.
type directive struct {
	kind     uint16 // abi.ActReceive, ActDiscard or ActCheckDigest
	digested bool
	slot     uint32
	id       uint32 // of a digest
	at, to   uint64 // of a request's payload; or a count from 0
}

// prediction is how the stream was cut last: a header, then payload. It tells
// where the next headers probably are, so that one call of the plugin can see
// many of them without seeing the payload in between.
type prediction struct{ header, payload uint64 }

const receivedSize = int(unsafe.Sizeof(abi.Received{}))

// maxWindows bounds the windows of one call.
const maxWindows = 128

// receive reads the socket, a bounded number of times a turn.
func (cn *conn) receive() {
	more := true
	for i := 0; more; i++ {
		if i == 8 {
			cn.stream.Again()
			break
		}
		into := cn.direct()
		n, again, eof, e := cn.stream.Receive(into)
		switch {
		case e == sys.EAGAIN:
			more = false
		case e == sys.EINTR:
			continue
		case e == sys.EFAULT && len(into) > 0:
			cn.spoil(cn.directives[0].slot)
			continue
		case e != 0:
			cn.lose(loss{text: "receive: " + e.Error(), byEOF: true})
			return
		case eof:
			cn.ended()
			return
		default:
			more = again || cn.hangup
			if n > 0 {
				cn.arrived(uint64(n))
			}
			if !cn.feed() {
				cn.unread()
				return
			}
		}
	}
	cn.afterReceive()
}

// ended deals with the server's end of stream.
func (cn *conn) ended() {
	if cn.state == leaving {
		cn.lose(loss{})
		return
	}
	cn.lose(loss{text: "the server closed the connection", byEOF: true})
}

// afterReceive does once what a batch of replies brings with it.
func (cn *conn) afterReceive() {
	if cn.acked {
		cn.acked = false
		cn.acknowledged(sys.Nanotime())
	}
	cn.gen.add(cn.ch.r.Index(), &cn.tally)
	if cn.stream != nil && cn.stream.Unsent() > 0 {
		cn.send()
	}
	if cn.ch.waiting.Len()+cn.own.Len() > 0 {
		cn.ch.r.Defer(&cn.ch.submit)
	}
	if cn.calls-cn.idleCalls > 100_000 && !cn.idle.Running() {
		cn.ch.r.StartTimer(&cn.idle, idleAfter)
	}
	if cn.quiet.done != nil {
		cn.lookQuiet() // last: it may end the connection
	}
}

// direct gives the memory into which the next bytes can be read in place.
func (cn *conn) direct() [][]byte {
	if len(cn.directives) == 0 || len(cn.stream.Buffered()) > 0 {
		return nil
	}
	d := &cn.directives[0]
	if d.kind != abi.ActReceive || d.digested || d.to-d.at < directFrom {
		return nil
	}
	io := cn.slots[d.slot].io
	if io == nil {
		return nil
	}
	return cn.segments(io, d.at, d.to)
}

// segments gives the memory of bytes [from, to) of a payload, in cn.into: it is to be
// cleared after use.
func (cn *conn) segments(io *volume.IO, from, to uint64) [][]byte {
	into := cn.into[:0]
	io.EachSegment(from, to, func(b []byte) { into = append(into, b) })
	cn.into = into
	return into
}

// arrived counts bytes that were read in place.
func (cn *conn) arrived(n uint64) {
	d := &cn.directives[0]
	s := &cn.slots[d.slot]
	s.io.Filled += n
	d.at += n
	clear(cn.into)
	if d.at == d.to {
		cn.popDirective()
	}
}

func (cn *conn) popDirective() {
	d := cn.directives[0]
	cn.directives = cn.directives[:copy(cn.directives, cn.directives[1:])]
	if d.kind == abi.ActReceive {
		cn.slots[d.slot].recv--
		if cn.slots[d.slot].ended {
			cn.settle(d.slot)
		}
	}
}

// carryOut applies the directives to what is buffered. It reports whether all
// are done, so that what follows is for the plugin.
func (cn *conn) carryOut() bool {
	for len(cn.directives) > 0 {
		d := &cn.directives[0]
		b := cn.stream.Buffered()
		if d.kind == abi.ActCheckDigest {
			if len(b) < 4 {
				return false
			}
			cn.checkDigest(d.id, b[:4])
			cn.stream.Take(4)
			cn.popDirective()
			continue
		}
		n := min(uint64(len(b)), d.to-d.at)
		if n > 0 {
			cn.place(d, b[:n])
			cn.stream.Take(int(n))
			d.at += n
		}
		if d.at < d.to {
			return false
		}
		cn.popDirective()
	}
	return true
}

// place puts received bytes where a directive wants them.
func (cn *conn) place(d *directive, b []byte) {
	if d.digested {
		cn.recvCRC = updateCRC(cn.recvCRC, b)
	}
	if d.kind != abi.ActReceive {
		return
	}
	io := cn.slots[d.slot].io
	if io == nil {
		return
	}
	if !fill(io, d.at, b) {
		cn.spoil(d.slot)
		return
	}
	io.Filled += uint64(len(b))
}

// feed hands the plugin what is buffered until it wants more than there is. It
// reports whether the connection is still there.
func (cn *conn) feed() bool {
	for !cn.cut.enough && cn.carryOut() {
		if len(cn.events) > 0 && !cn.digestEvents() {
			return false
		}
		b := cn.stream.Buffered()
		if len(b) == 0 || len(b) < cn.min {
			break
		}
		n, first := cn.windows(b)
		cn.cut = cut{min: cn.min, pos: cn.stream.Pos(), first: first, have: len(b)}
		if !cn.call(n, cn.receiveBudget(n), thenFeed) || !cn.fed() {
			return false
		}
	}
	if cn.cut.enough {
		cn.cut.enough = false
		return true
	}
	return len(cn.events) == 0 || cn.digestEvents()
}

// cut is how the stream was cut for a call.
type cut struct {
	min    int // that the plugin wanted
	pos    uint64
	first  int  // length of the first window
	have   int  // bytes that were buffered
	enough bool // the plugin waits for more than there is
}

// fed looks at what the plugin has made of the windows it was handed. It reports
// whether the connection is still there.
func (cn *conn) fed() bool {
	c := &cn.cut
	if cn.stream.Pos() != c.pos || len(cn.directives) > 0 {
		return true
	}
	switch {
	case cn.min != c.min && cn.wanted != c.pos+1: // another cut, which it may choose once
		cn.wanted = c.pos + 1
	case c.first < min(c.have, cn.max): // the prediction cut it short
		cn.predict = prediction{}
	case c.first < cn.max: // it waits for more
		c.enough = true
	default:
		return cn.violation("it does not consume what it receives")
	}
	return true
}

func (cn *conn) receiveBudget(n int) int64 {
	if cn.state == login {
		return guest.BudgetLogin
	}
	return guest.BudgetCall + int64(n)*guest.PerByte
}

// windows writes receive events for b and returns their length in bytes and
// the length of the first window.
func (cn *conn) windows(b []byte) (n, first int) {
	in := cn.inst.Input()
	header, payload := cn.predict.header, cn.predict.payload
	first = min(len(b), cn.max)
	if payload > 0 {
		first = min(first, max(int(header), cn.min))
	}
	pos := cn.stream.Pos()
	n = window(in, pos, b[:first])
	if payload == 0 {
		return n, first
	}
	stride := header + payload
	for off, i := stride, 1; off+uint64(first) <= uint64(len(b)) && i < maxWindows; off, i = off+stride, i+1 {
		if n+receivedSize+abi.Align(first) > len(in) {
			break
		}
		n += window(in[n:], pos+off, b[off:off+uint64(first)])
	}
	return n, first
}

func window(in []byte, pos uint64, b []byte) int {
	size := abi.Align(receivedSize + len(b))
	*abi.Overlay[abi.Received](in) = abi.Received{
		Header: abi.Header{Kind: abi.EvReceived, Size: uint32(size)}, Offset: pos, Len: uint32(len(b)),
	}
	copy(in[receivedSize:], b)
	return size
}

// status maps what a plugin reports to an errno that is one.
func status(v uint32) block.Status {
	if s := block.Status(v); s <= block.MaxStatus {
		return s
	}
	return block.EIO
}
