package nbdload

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

// slot is a request that may be outstanding.
type slot struct {
	serial uint32 // of the request; its cookie is serial<<32 | the slot's index
	op     uint16
	live   bool
	block  uint32
	at     int64 // ns, when it was made
}

// conn is one connection with its share of the disk. It belongs to one
// goroutine, but for the atomics.
type conn struct {
	number  int
	sock    *socket
	size    int // bytes of a block
	reads   uint64
	flushes int // writes from one to the next, 0 for none
	epoch   time.Time
	runs    int64        // ns after which no more requests are made
	stop    *atomic.Bool // no more requests are to be made

	pattern pattern
	blocks  blocks
	slots   []slot
	free    []uint32 // indices of slots
	writes  int      // since the last flush
	in      []byte   // what was received is in[taken:got]
	taken   int
	got     int
	out     []byte // what is to be sent is out[sent:]
	sent    int
	filling bool
	rec     *recorder

	counts   counts
	progress struct{ completed, failed, mismatched atomic.Uint64 } // for others to see
	lost     int
	err      error
}

// counts of requests, by how they ended.
type counts struct {
	reads, writes, flushes uint64 // answered, with or without an error
	failed                 uint64 // answered with an error
	mismatched             uint64
	errnos                 map[syscall.Errno]uint64
	examples               []string
}

// maxExamples of mismatches are described.
const maxExamples = 8

func newConn(number int, s *socket, o *Options, first, each uint64) *conn {
	c := &conn{number: number, sock: s, size: o.BlockSize, reads: uint64(o.ReadPercent), flushes: o.FlushEvery,
		runs: int64(o.Run), pattern: newPattern(o.Seed, o.BlockSize), slots: make([]slot, o.Depth)}
	c.blocks = blocks{of: make([]block, each), first: first + uint64(number)*each}
	c.blocks.rnd.Seed(o.Seed, uint64(number))
	for i := range c.slots {
		c.free = append(c.free, uint32(i))
	}
	// A request has at most one frame that is not sent.
	c.out = make([]byte, 0, (o.Depth+1)*(requestSize+o.BlockSize))
	c.in = make([]byte, max(256<<10, 2*(replySize+o.BlockSize)))
	c.counts.errnos = map[syscall.Errno]uint64{}
	return c
}

// now is the time on the load's clock, in ns.
func (c *conn) now() int64 { return int64(time.Since(c.epoch)) }

// fill writes every block once.
func (c *conn) fill() error {
	c.filling = true
	err := c.loop()
	c.filling = false
	if err == nil && c.counts.failed > 0 {
		for errno := range c.counts.errnos {
			return fmt.Errorf("%d of the first writes failed, with %w", c.counts.failed, errno)
		}
	}
	c.counts = counts{errnos: c.counts.errnos}
	c.publish()
	return err
}

// run makes requests until it is told to stop, and takes leave.
func (c *conn) run() {
	c.err = c.loop()
	for i := range c.slots {
		if c.slots[i].live {
			c.lost++
		}
	}
	if c.err == nil {
		c.out, c.sent = c.header(c.out[:0], cmdDisc, 0, 0, 0), 0
		_, _ = c.sock.send(c.out) // it is a courtesy
	}
}

// loop makes requests and takes answers until there are no more of them.
func (c *conn) loop() error {
	for {
		c.issue()
		if len(c.free) == len(c.slots) {
			return nil
		}
		if err := c.send(); err != nil {
			return err
		}
		if err := c.receive(); err != nil {
			return err
		}
		if err := c.take(); err != nil {
			return err
		}
		c.publish()
	}
}

// publish shows others how far it is.
func (c *conn) publish() {
	c.progress.completed.Store(c.counts.reads + c.counts.writes + c.counts.flushes)
	c.progress.failed.Store(c.counts.failed)
	c.progress.mismatched.Store(c.counts.mismatched)
}

// issue makes a request for every free slot.
func (c *conn) issue() {
	now := c.now()
	if !c.filling && (now >= c.runs || c.stop.Load()) {
		return
	}
	c.makeRoom()
	for len(c.free) > 0 && !(c.filling && c.blocks.filled()) {
		i := c.free[len(c.free)-1]
		c.free = c.free[:len(c.free)-1]
		s := &c.slots[i]
		s.serial++
		s.live, s.at = true, now
		c.choose(s, uint64(s.serial)<<32|uint64(i))
	}
}

// makeRoom brings what is not sent to the start of the buffer.
func (c *conn) makeRoom() {
	n := copy(c.out[:cap(c.out)], c.out[c.sent:])
	c.out, c.sent = c.out[:n], 0
}

// choose says what a slot does next and puts that at the end of what is to be
// sent.
func (c *conn) choose(s *slot, cookie uint64) {
	switch {
	case c.filling:
		s.op, s.block = cmdWrite, c.blocks.next
		c.blocks.next++
	case c.flushes > 0 && c.writes >= c.flushes:
		c.writes = 0
		s.op = cmdFlush
		c.out = c.header(c.out, cmdFlush, cookie, 0, 0)
		return
	case c.blocks.rnd.Uint64()%100 < c.reads:
		s.op, s.block = cmdRead, c.blocks.pick(false)
	default:
		s.op, s.block = cmdWrite, c.blocks.pick(true)
		c.writes++
	}
	number := c.blocks.first + uint64(s.block)
	c.out = c.header(c.out, s.op, cookie, number*uint64(c.size), uint32(c.size))
	if s.op == cmdRead {
		c.blocks.beginRead(s.block)
		return
	}
	c.out = c.pattern.append(c.out, number, c.blocks.beginWrite(s.block))
}

// header appends a request's header ("Request message").
func (c *conn) header(b []byte, op uint16, cookie, offset uint64, length uint32) []byte {
	b = be.AppendUint32(b, magicRequest)
	b = be.AppendUint16(b, 0)
	b = be.AppendUint16(b, op)
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint64(b, offset)
	return be.AppendUint32(b, length)
}

// send sends what the kernel takes.
func (c *conn) send() error {
	for c.sent < len(c.out) {
		n, err := c.sock.send(c.out[c.sent:])
		if errors.Is(err, errAgain) {
			return nil
		}
		if err != nil {
			return err
		}
		c.sent += n
	}
	return nil
}

// receive waits for answers. A server that does not take requests before its
// answers are taken is not waited for in vain, nor one that does the reverse.
func (c *conn) receive() error {
	n := copy(c.in, c.in[c.taken:c.got])
	c.taken, c.got = 0, n
	unsent := c.sent < len(c.out)
	if unsent {
		if err := c.sock.wait(); err != nil {
			return err
		}
	}
	n, err := c.sock.receive(c.in[c.got:], !unsent)
	if errors.Is(err, errAgain) {
		return nil
	}
	c.got += n
	return err
}

// take carries out what every whole answer says ("Simple reply message").
func (c *conn) take() error {
	now := c.now()
	for c.got-c.taken >= replySize {
		b := c.in[c.taken:c.got]
		if magic := be.Uint32(b); magic != magicSimple {
			return fmt.Errorf("an answer begins with %#x instead of %#x", magic, uint32(magicSimple))
		}
		errno, cookie := syscall.Errno(be.Uint32(b[4:])), be.Uint64(b[8:])
		i := uint32(cookie)
		if i >= uint32(len(c.slots)) || !c.slots[i].live || c.slots[i].serial != uint32(cookie>>32) {
			return fmt.Errorf("an answer has cookie %#x, which no outstanding request has", cookie)
		}
		n := replySize
		if c.slots[i].op == cmdRead && errno == 0 {
			n += c.size
		}
		if len(b) < n {
			return nil
		}
		c.taken += n
		c.complete(i, errno, b[replySize:n], now)
	}
	return nil
}

// complete ends a request.
func (c *conn) complete(i uint32, errno syscall.Errno, payload []byte, now int64) {
	s := &c.slots[i]
	s.live = false
	c.free = append(c.free, i)
	switch s.op {
	case cmdRead:
		c.counts.reads++
		lo, hi := c.blocks.endRead(s.block)
		if errno == 0 {
			c.verify(s.block, lo, hi, payload)
		}
	case cmdWrite:
		c.counts.writes++
		c.blocks.endWrite(s.block, errno == 0)
	default:
		c.counts.flushes++
	}
	if errno != 0 {
		c.counts.failed++
		c.counts.errnos[errno]++
	}
	if !c.filling {
		c.rec.complete(now, now-s.at)
	}
}

func (c *conn) verify(block, lo, hi uint32, payload []byte) {
	number := c.blocks.first + uint64(block)
	bad := c.pattern.check(payload, number, lo, hi)
	if bad < 0 {
		return
	}
	c.counts.mismatched++
	if len(c.counts.examples) < maxExamples {
		c.counts.examples = append(c.counts.examples, c.mismatch(number, bad, lo, hi, payload))
	}
}

// mismatch describes one.
func (c *conn) mismatch(block uint64, bad int, lo, hi uint32, payload []byte) string {
	sectors := uint64(c.size / sectorSize)
	held := "nothing that this load has written"
	if sector, version, ok := c.pattern.seen(payload[bad*sectorSize:]); ok {
		held = fmt.Sprintf("version %d of block %d, sector %d", version, sector/sectors, sector%sectors)
	}
	want := fmt.Sprintf("version %d", lo)
	if lo != hi {
		want = fmt.Sprintf("one of the versions %d to %d", lo, hi)
	}
	return fmt.Sprintf("connection %d: block %d (offset %d), sector %d holds %s instead of %s",
		c.number, block, block*uint64(c.size), bad, held, want)
}
