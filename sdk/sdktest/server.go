package sdktest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Server is one connection to a storage server, as the executor uses it.
type Server interface {
	// Send takes bytes that the plugin sent.
	Send(b []byte)
	// Recv gives what the server has sent since the last call. With wait it
	// may block for that, for a bounded time. It gives io.EOF, without bytes,
	// when the server has closed.
	Recv(wait bool) ([]byte, error)
	// Close ends the connection.
	Close()
}

// Answers makes a Server of a function that is given what the plugin sent, as
// it arrives, and returns what the server sends then; it is called once with
// nothing at the start, for servers that speak first. closed says that the
// server closes after that. Without f the server says nothing.
func Answers(f func(b []byte) (answer []byte, closed bool)) Server { return &answers{f: f} }

type answers struct {
	f      func([]byte) ([]byte, bool)
	out    []byte
	begun  bool
	closed bool
}

func (s *answers) Send(b []byte) {
	s.begin()
	s.give(b)
}

func (s *answers) begin() {
	if !s.begun {
		s.begun = true
		s.give(nil)
	}
}

func (s *answers) give(b []byte) {
	if s.closed || s.f == nil {
		return
	}
	answer, closed := s.f(b)
	s.out = append(s.out, answer...)
	s.closed = closed
}

func (s *answers) Recv(bool) ([]byte, error) {
	s.begin()
	b := s.out
	s.out = nil
	if len(b) == 0 && s.closed {
		return nil, io.EOF
	}
	return b, nil
}

func (s *answers) Close() { s.closed = true }

// recvWait bounds how long a Recv waits for a real server.
const recvWait = 10 * time.Second

// Over makes a Server of a network connection to a real one.
func Over(c net.Conn) Server { return Within(c, recvWait) }

// Within is Over with a bound of the caller's on how long a Recv waits.
func Within(c net.Conn, wait time.Duration) Server {
	s := &over{conn: c, wait: wait, news: make(chan struct{}, 1)}
	go s.read()
	return s
}

type over struct {
	conn net.Conn
	wait time.Duration
	news chan struct{} // holds one token when there is something new

	mu  sync.Mutex // guards what follows
	buf []byte
	err error
}

func (s *over) read() {
	b := make([]byte, 64<<10)
	for {
		n, err := s.conn.Read(b)
		s.mu.Lock()
		s.buf = append(s.buf, b[:n]...)
		if err != nil {
			s.err = io.EOF
		}
		s.mu.Unlock()
		select {
		case s.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (s *over) Send(b []byte) {
	// An error shows as the end of what is received.
	_, _ = s.conn.Write(b)
}

func (s *over) Recv(wait bool) ([]byte, error) {
	deadline := time.NewTimer(s.wait)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		b, err := s.buf, s.err
		s.buf = nil
		s.mu.Unlock()
		if len(b) > 0 {
			return b, nil
		}
		if err != nil || !wait {
			return nil, err
		}
		select {
		case <-s.news:
		case <-deadline.C:
			return nil, errors.New("the server said nothing for " + s.wait.String())
		}
	}
}

func (s *over) Close() { s.conn.Close() }
