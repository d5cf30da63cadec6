package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"blockengine/engine/sys"
)

// oobBytes holds the descriptors of a message, and more, so that a message with
// too many is refused for that and none of them stays open unseen.
var oobBytes = syscall.CmsgSpace(4 * 4 * maxDescriptors)

// socket is a connection as a stream.
type socket struct {
	*net.UnixConn
	oob []byte
}

func newSocket(c *net.UnixConn) *socket { return &socket{UnixConn: c, oob: make([]byte, oobBytes)} }

func (s *socket) receive(b []byte, fds []int) (int, []int, error) {
	n, oobn, flags, _, err := s.ReadMsgUnix(b, s.oob)
	if oobn > 0 {
		var ferr error
		if fds, ferr = sys.Descriptors(s.oob[:oobn], fds); err == nil {
			err = ferr
		}
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET): // closed; reset, with something of ours unread
		return n, fds, io.EOF
	case err != nil:
		return n, fds, err
	case sys.Truncated(flags):
		return n, fds, broken("more descriptors than a message can have")
	case n == 0:
		return 0, fds, io.EOF
	}
	return n, fds, nil
}

func (s *socket) send(b []byte, fd int) error {
	if err := s.SetWriteDeadline(time.Now().Add(replyTime)); err != nil {
		return err
	}
	if fd < 0 {
		_, err := s.Write(b)
		return err
	}
	n, _, err := s.WriteMsgUnix(b, sys.Rights(fd), nil)
	if err == nil && n < len(b) {
		_, err = s.Write(b[n:])
	}
	return err
}

// peer says who the front-end is, for messages.
func (s *socket) peer() string {
	raw, err := s.SyscallConn()
	if err != nil {
		return "unknown"
	}
	who := "unknown"
	_ = raw.Control(func(fd uintptr) {
		if p, err := sys.PeerCredOf(int(fd)); err == nil {
			who = fmt.Sprintf("pid %d uid %d", p.PID, p.UID)
		}
	})
	return who
}

// listen binds a socket's path.
func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	fd, err := sys.ListenUnix(path, 16, mode)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f) // a duplicate
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}
