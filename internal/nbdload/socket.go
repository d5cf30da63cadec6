package nbdload

import (
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"
)

// socket is a connected socket in blocking mode.
type socket struct {
	file *os.File // keeps fd open
	fd   uintptr
}

func newSocket(f *os.File) *socket { return &socket{f, f.Fd()} }

// send sends what can be sent without waiting.
func (s *socket) send(b []byte) (int, error) {
	return s.transfer(syscall.SYS_SENDTO, "sendto", b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// receive waits for bytes, or takes what is there. io.EOF: the server has
// closed.
func (s *socket) receive(b []byte, wait bool) (int, error) {
	flags := 0
	if !wait {
		flags = syscall.MSG_DONTWAIT
	}
	n, err := s.transfer(syscall.SYS_RECVFROM, "recvfrom", b, flags)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// errAgain: nothing was transferred because that would have meant to wait.
var errAgain = errors.New("nbdload: try again")

// transfer is sendto or recvfrom without an address; b is not empty.
func (s *socket) transfer(call uintptr, name string, b []byte, flags int) (int, error) {
	for {
		n, _, e := syscall.Syscall6(call, s.fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errAgain
		default:
			return 0, os.NewSyscallError(name, e)
		}
	}
}

// pollFD is struct pollfd of poll(2).
type pollFD struct {
	fd            int32
	events, ready int16
}

// wait waits until something can be received or sent.
func (s *socket) wait() error {
	const in, out = 0x1, 0x4 // POLLIN, POLLOUT
	p := pollFD{fd: int32(s.fd), events: in | out}
	for {
		_, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, 0, 0, 0, 0)
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return os.NewSyscallError("ppoll", e)
		}
	}
}

// cut ends both directions, which wakes who waits.
func (s *socket) cut() { _ = syscall.Shutdown(int(s.fd), syscall.SHUT_RDWR) }

func (s *socket) close() { _ = s.file.Close() }
