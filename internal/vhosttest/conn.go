package vhosttest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Message is one message with the descriptors that come with it.
type Message struct {
	Request Request
	Flags   uint32 // version included
	Payload []byte
	FDs     []int
	Size    int // what the header says of the payload's size; 0: the truth, -1: zero
}

// encode gives the bytes on the wire.
func (m *Message) encode() []byte {
	size := len(m.Payload)
	switch {
	case m.Size > 0:
		size = m.Size
	case m.Size < 0:
		size = 0
	}
	b := le.AppendUint32(make([]byte, 0, headerSize+len(m.Payload)), uint32(m.Request))
	b = le.AppendUint32(b, m.Flags)
	b = le.AppendUint32(b, uint32(size))
	return append(b, m.Payload...)
}

// Conn is a connection to a back-end. A goroutine of its own reads, so that the
// back-end's end is noticed though nobody asks.
type Conn struct {
	sock    *net.UnixConn
	timeout time.Duration
	replies chan Message  // what was read
	lost    chan struct{} // closed when no more is read
	err     error         // why; set before lost is closed
	closing sync.Once
	done    chan struct{} // closed by Close
}

// ErrLost is in every error of a connection that has ended.
var ErrLost = errors.New("the back-end has closed the connection")

// newConn takes a connected socket over.
func newConn(sock *net.UnixConn, timeout time.Duration) *Conn {
	c := &Conn{sock: sock, timeout: timeout, replies: make(chan Message, 1), lost: make(chan struct{}), done: make(chan struct{})}
	go c.read()
	return c
}

// DialConn connects and sends nothing. timeout bounds the wait for each reply.
func DialConn(socket string, timeout time.Duration) (*Conn, error) {
	s, err := net.DialTimeout("unix", socket, timeout)
	if err != nil {
		return nil, fmt.Errorf("vhosttest: %w", err)
	}
	return newConn(s.(*net.UnixConn), timeout), nil
}

// Lost is closed when the connection has ended, from either side.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Close ends the connection and waits for its reader.
func (c *Conn) Close() {
	c.closing.Do(func() { close(c.done) })
	c.sock.Close()
	<-c.lost
	select {
	case m := <-c.replies:
		closeAll(m.FDs)
	default:
	}
}

// read hands on what comes until the end.
func (c *Conn) read() {
	defer close(c.lost)
	for {
		m, err := readMessage(c.sock)
		if err != nil {
			c.err = err
			return
		}
		select {
		case c.replies <- m:
		case <-c.done:
			closeAll(m.FDs)
			c.err = net.ErrClosed
			return
		}
	}
}

// readMessage reads one message. Its descriptors come with the first byte.
func readMessage(sock *net.UnixConn) (Message, error) {
	header, oob := make([]byte, headerSize), make([]byte, syscall.CmsgSpace(4*maxFDs))
	n, oobn, _, _, err := sock.ReadMsgUnix(header, oob)
	if err != nil {
		return Message{}, err
	}
	m := Message{FDs: descriptors(oob[:oobn])}
	if n == 0 {
		return m, io.EOF
	}
	if _, err = io.ReadFull(sock, header[n:]); err == nil {
		m.Request, m.Flags = Request(le.Uint32(header)), le.Uint32(header[4:])
		size := le.Uint32(header[8:])
		if size > maxPayload {
			err = fmt.Errorf("%v: a payload of %d bytes, more than %d", m.Request, size, maxPayload)
		} else {
			m.Payload = make([]byte, size)
			_, err = io.ReadFull(sock, m.Payload)
		}
	}
	if err != nil {
		closeAll(m.FDs)
	}
	return m, err
}

// descriptors takes them out of ancillary data; what is not one is ignored.
func descriptors(oob []byte) (fds []int) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range messages {
		if got, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// Send sends a message as it is.
func (c *Conn) Send(m Message) error { return c.SendRaw(m.encode(), m.FDs) }

// SendRaw sends bytes, with descriptors beside the first of them.
func (c *Conn) SendRaw(b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	c.sock.SetWriteDeadline(time.Now().Add(c.timeout))
	n, _, err := c.sock.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.sock.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("vhosttest: send: %w", errors.Join(err, c.ended(err)))
	}
	return nil
}

// ended gives ErrLost if the connection has, as the reader or a failed send has
// noticed, whichever came first.
func (c *Conn) ended(send error) error {
	select {
	case <-c.lost:
		return fmt.Errorf("%w: %w", ErrLost, c.err)
	default:
	}
	if errors.Is(send, syscall.EPIPE) || errors.Is(send, syscall.ECONNRESET) {
		return ErrLost
	}
	return nil
}

// Receive waits for a message from the back-end.
func (c *Conn) Receive() (Message, error) {
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case m := <-c.replies:
		return m, nil
	case <-c.lost:
	case <-timer.C:
		return Message{}, fmt.Errorf("vhosttest: no reply within %v", c.timeout)
	}
	select { // the last one may have come before the end
	case m := <-c.replies:
		return m, nil
	default:
		return Message{}, fmt.Errorf("vhosttest: %w: %w", ErrLost, c.err)
	}
}

// Ask sends a message that has a reply and gives that; it must be of the same
// request, version 1, with the reply flag. Whoever sets need_reply on a message
// that has a reply anyway may get the flag back (qemu-storage-daemon's replies
// have it, rust-vmm's front-end does not look).
func (c *Conn) Ask(m Message) (Message, error) {
	if err := c.Send(m); err != nil {
		return Message{}, fmt.Errorf("%v: %w", m.Request, err)
	}
	r, err := c.Receive()
	if err != nil {
		return Message{}, fmt.Errorf("%v: %w", m.Request, err)
	}
	flags := r.Flags
	if m.Request.replied() {
		flags &^= m.Flags & FlagNeedReply
	}
	if r.Request != m.Request || flags != FlagVersion|FlagReply {
		closeAll(r.FDs)
		return Message{}, fmt.Errorf("vhosttest: asked %v, got a reply of %v with flags %#x (want %#x)", m.Request, r.Request, r.Flags, FlagVersion|FlagReply)
	}
	return r, nil
}

// Refused is a need_reply that was answered with a failure.
type Refused struct {
	Request Request
	Code    uint64
}

func (e *Refused) Error() string {
	return fmt.Sprintf("vhosttest: the back-end refused %v with %d", e.Request, e.Code)
}

// Acknowledge sends a message with need_reply set and waits for the answer
// (vhost-user, REPLY_ACK).
func (c *Conn) Acknowledge(m Message) error {
	m.Flags |= FlagNeedReply
	r, err := c.Ask(m)
	if err != nil {
		return err
	}
	code, err := oneU64(r)
	if err != nil {
		return err
	}
	if code != 0 {
		return &Refused{m.Request, code}
	}
	return nil
}

// oneU64 takes the number out of a reply that is one.
func oneU64(m Message) (uint64, error) {
	if len(m.FDs) > 0 {
		closeAll(m.FDs)
		return 0, fmt.Errorf("vhosttest: the reply to %v brings %d descriptors", m.Request, len(m.FDs))
	}
	if len(m.Payload) != 8 {
		return 0, fmt.Errorf("vhosttest: the reply to %v has %d bytes, not 8", m.Request, len(m.Payload))
	}
	return le.Uint64(m.Payload), nil
}
