package transport

import (
	"unsafe"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
)

// Sizes of a stream's buffers, in bytes.
const (
	BufferSize = 256 << 10 // receive buffer
	chunkSize  = 64 << 10  // piece of the arena for what is sent by copy
)

// NoLoan marks sent bytes that nobody waits for.
const NoLoan = ^uint32(0)

// Lender is told when memory that it lent to a stream is free again.
type Lender interface {
	// Returned: a piece that was lent under loan has been taken by the kernel
	// whole, or will never be.
	Returned(loan uint32)
}

// Stream is a connected socket on a reactor, with the queue of what is to be
// sent and the buffer of what was received. Its owner is the socket's Handler.
type Stream struct {
	fd     int
	src    *reactor.Source
	lender Lender

	// What was received: buf[rd:wr], of which buf[rd] is byte Pos of the stream.
	buf    []byte
	rd, wr int
	pos    uint64

	// What is to be sent: queue[head:].
	queue  []piece
	head   int
	chunk  *chunk
	spare  *chunk
	iov    []sys.Iovec
	copied uint64 // bytes of chunks in the queue
	queued uint64 // bytes ever queued
	sent   uint64 // bytes ever taken by the kernel
	wrote  bool   // the write half was shut down
}

// piece is memory to be sent: a run of a chunk, or memory on loan.
type piece struct {
	base  *byte
	n     int
	loan  uint32
	chunk *chunk
}

// chunk holds copies of small things to be sent.
type chunk struct {
	b    []byte
	used int
	refs int // pieces in the queue
}

// NewStream takes over fd on r.
func NewStream(r *reactor.Reactor, fd int, h reactor.Handler, l Lender) (*Stream, error) {
	s := &Stream{fd: fd, lender: l, buf: make([]byte, BufferSize), iov: make([]sys.Iovec, 0, sys.MaxIovecs)}
	src, err := r.Add(fd, sys.EpollIn|sys.EpollOut|sys.EpollRdHup, h)
	if err != nil {
		return nil, err
	}
	s.src = src
	return s, nil
}

// Again has the handler called in the next turn.
func (s *Stream) Again() { s.src.Again() }

// Pos is the position in the received stream of the first byte of Buffered.
func (s *Stream) Pos() uint64 { return s.pos }

// Buffered is what was received and has not been taken.
func (s *Stream) Buffered() []byte { return s.buf[s.rd:s.wr] }

// Take moves past n buffered bytes.
func (s *Stream) Take(n int) {
	s.rd += n
	s.pos += uint64(n)
	if s.rd == s.wr {
		s.rd, s.wr = 0, 0
	}
}

// skip counts n bytes that were received past the buffer.
func (s *Stream) skip(n int) { s.pos += uint64(n) }

// Receive reads once. into, which may be empty, is filled first and then the
// buffer; that is only allowed while nothing is buffered. It returns the bytes
// that went into into, and whether the socket may have more. n == 0 and more
// with errno 0 never happens: end of stream is eof.
func (s *Stream) Receive(into [][]byte) (n int, more, eof bool, e sys.Errno) {
	if s.rd > 0 && s.wr == len(s.buf) {
		s.wr = copy(s.buf, s.buf[s.rd:s.wr])
		s.rd = 0
	}
	if len(into) == 0 {
		return s.receiveBuffer()
	}
	v := s.iov[:0]
	want := 0
	for _, b := range into[:min(len(into), sys.MaxIovecs-1)] {
		if len(b) > 0 {
			v = appendIovec(v, b)
			want += len(b)
		}
	}
	v = appendIovec(v, s.buf[s.wr:])
	room := want + len(s.buf) - s.wr
	got, e := sys.RawReadv(s.fd, v)
	clear(v)
	if e != 0 || got == 0 {
		return 0, false, e == 0, e
	}
	n = min(got, want)
	s.skip(n)
	s.wr += got - n
	// If into was not filled, there may be no more, or its memory is gone: the
	// next read tells.
	return n, got == room || got < want, false, 0
}

func (s *Stream) receiveBuffer() (n int, more, eof bool, e sys.Errno) {
	room := s.buf[s.wr:]
	if len(room) == 0 {
		return 0, true, false, 0 // the owner must take something first
	}
	got, e := sys.RawRead(s.fd, room)
	if e != 0 || got == 0 {
		return 0, false, e == 0, e
	}
	s.wr += got
	return 0, got == len(room), false, 0
}

func appendIovec(v []sys.Iovec, b []byte) []sys.Iovec {
	v = v[:len(v)+1]
	sys.SetIovec(&v[len(v)-1], b)
	return v
}

// Send queues a copy of b.
func (s *Stream) Send(b []byte) {
	for len(b) > 0 {
		c := s.chunk
		if c == nil || c.used == len(c.b) {
			c = s.newChunk()
		}
		n := copy(c.b[c.used:], b)
		s.queueChunk(c, n)
		b = b[n:]
	}
}

func (s *Stream) queueChunk(c *chunk, n int) {
	at := &c.b[c.used]
	c.used += n
	s.queued += uint64(n)
	s.copied += uint64(n)
	if last := len(s.queue) - 1; last >= s.head && s.queue[last].chunk == c {
		p := &s.queue[last]
		if unsafe.Add(unsafe.Pointer(p.base), p.n) == unsafe.Pointer(at) {
			p.n += n
			return
		}
	}
	c.refs++
	s.queue = append(s.queue, piece{base: at, n: n, loan: NoLoan, chunk: c})
}

func (s *Stream) newChunk() *chunk {
	c := s.spare
	s.spare = nil
	if c == nil {
		c = &chunk{b: make([]byte, chunkSize)}
	}
	c.used = 0
	s.chunk = c
	return c
}

// Lend queues b without copying it. Lender.Returned ends the loan.
func (s *Stream) Lend(b []byte, loan uint32) {
	if len(b) == 0 {
		if loan != NoLoan {
			s.lender.Returned(loan)
		}
		return
	}
	s.queued += uint64(len(b))
	s.queue = append(s.queue, piece{base: unsafe.SliceData(b), n: len(b), loan: loan})
}

// Copied is how many of the queued bytes that the kernel has not taken are
// copies, which take memory.
func (s *Stream) Copied() uint64 { return s.copied }

// Unsent is how many queued bytes the kernel has not taken.
func (s *Stream) Unsent() uint64 { return s.queued - s.sent }

// Queued is the number of bytes ever queued.
func (s *Stream) Queued() uint64 { return s.queued }

// Sent is the number of bytes ever taken by the kernel.
func (s *Stream) Sent() uint64 { return s.sent }

// Flush sends what is queued until the kernel takes no more. The rest goes when
// the handler is told that the socket can be written and flushes again.
func (s *Stream) Flush() sys.Errno {
	for s.head < len(s.queue) {
		v := s.iov[:0]
		for i := s.head; i < len(s.queue) && len(v) < sys.MaxIovecs; i++ {
			p := &s.queue[i]
			v = appendIovec(v, unsafe.Slice(p.base, p.n))
		}
		n, e := sys.RawWritev(s.fd, v)
		clear(v)
		if e == sys.EINTR {
			continue
		}
		if e == sys.EAGAIN {
			return 0
		}
		if e != 0 {
			return e
		}
		s.sent += uint64(n)
		s.taken(n)
		// A short write may mean that the socket is full, or that memory on loan is
		// gone: the next one tells.
	}
	return 0
}

// Culprit gives the loan of the first queued piece whose memory is not there any
// more, after Flush has failed with EFAULT.
func (s *Stream) Culprit() (loan uint32, found bool) {
	for _, p := range s.queue[s.head:] {
		v := appendIovec(s.iov[:0], unsafe.Slice(p.base, p.n))
		if sys.FirstBadIovec(v) == 0 {
			return p.loan, p.loan != NoLoan
		}
	}
	return NoLoan, false
}

// taken drops n bytes from the front of the queue. A lender that is told may
// close the stream, which drops the rest.
func (s *Stream) taken(n int) {
	for n > 0 && s.head < len(s.queue) {
		p := &s.queue[s.head]
		if n < p.n {
			p.base = (*byte)(unsafe.Add(unsafe.Pointer(p.base), n))
			p.n -= n
			if p.chunk != nil {
				s.copied -= uint64(n)
			}
			return
		}
		n -= p.n
		s.pop()
	}
}

func (s *Stream) pop() {
	p := s.queue[s.head]
	s.queue[s.head] = piece{}
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	} else if s.head >= 1024 && s.head*2 >= len(s.queue) {
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	if c := p.chunk; c != nil {
		s.copied -= uint64(p.n)
		if c.refs--; c.refs == 0 {
			s.release(c)
		}
		return
	}
	if p.loan != NoLoan {
		s.lender.Returned(p.loan)
	}
}

// release makes an emptied chunk usable again.
func (s *Stream) release(c *chunk) {
	c.used = 0
	if c != s.chunk {
		s.spare = c
	}
}

// HalfClose drops what has not been sent, ends its loans, and tells the server
// that nothing more comes.
func (s *Stream) HalfClose() {
	s.drop()
	s.FinishSending()
}

// FinishSending tells the server that nothing comes behind what was sent.
func (s *Stream) FinishSending() {
	if !s.wrote {
		s.wrote = true
		_ = sys.ShutdownSocket(s.fd, sys.ShutWrite)
	}
}

// HungUp reports whether the server has ended its half, or all of the
// connection, whether or not that has been read.
func (s *Stream) HungUp() bool { return sys.HungUp(s.fd) }

// HalfClosed reports whether the write half was shut down.
func (s *Stream) HalfClosed() bool { return s.wrote }

func (s *Stream) drop() {
	for s.head < len(s.queue) {
		s.pop()
	}
	s.queued = s.sent
}

// Close closes the socket and ends every loan.
func (s *Stream) Close() {
	if s.fd < 0 {
		return
	}
	s.src.Close()
	_ = sys.Close(s.fd)
	s.fd = -1
	s.drop()
}
