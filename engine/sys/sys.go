// Package sys is the only importer of golang.org/x/sys. It gives the calls
// that the data path makes in the form that it needs: no allocation, the errno
// as a value that is never lost, and the choice between calls that may block
// and calls that must not.
//
// A call named Raw… does not tell the Go scheduler: it is for descriptors that
// are non-blocking, because a raw call that sleeps would hold up the garbage
// collector and with it the process.
package sys

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errno is a Linux error number; 0 means success.
type Errno = syscall.Errno

// The error numbers that callers tell apart.
const (
	EAGAIN       = unix.EAGAIN
	EINTR        = unix.EINTR
	EINPROGRESS  = unix.EINPROGRESS
	ECONNRESET   = unix.ECONNRESET
	EPIPE        = unix.EPIPE
	EFAULT       = unix.EFAULT
	EMFILE       = unix.EMFILE
	ENFILE       = unix.ENFILE
	ENOBUFS      = unix.ENOBUFS
	ENOMEM       = unix.ENOMEM
	ECONNABORTED = unix.ECONNABORTED
	EADDRINUSE   = unix.EADDRINUSE
	ETIMEDOUT    = unix.ETIMEDOUT
	ENOENT       = unix.ENOENT
	ECONNREFUSED = unix.ECONNREFUSED
)

// CallError is an error of a system call with what it was about.
type CallError struct {
	Call  string
	About string
	Errno Errno
}

func (e *CallError) Error() string {
	if e.About == "" {
		return fmt.Sprintf("%s: %v", e.Call, e.Errno)
	}
	return fmt.Sprintf("%s %s: %v", e.Call, e.About, e.Errno)
}

// Unwrap gives the errno, for errors.Is.
func (e *CallError) Unwrap() error { return e.Errno }

// call makes an error of what package unix returned.
func call(name, about string, err error) error {
	if err == nil {
		return nil
	}
	var no Errno
	if !errors.As(err, &no) {
		return fmt.Errorf("%s %s: %w", name, about, err)
	}
	return &CallError{Call: name, About: about, Errno: no}
}

// Iovec is one piece of memory of a gather or scatter call.
type Iovec = unix.Iovec

// MaxIovecs is how many pieces a call takes.
const MaxIovecs = 1024

// SetIovec points v at b, which must not be empty.
func SetIovec(v *Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

// RawRead reads from a non-blocking descriptor.
func RawRead(fd int, b []byte) (int, Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// RawWrite writes to a non-blocking descriptor.
func RawWrite(fd int, b []byte) (int, Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// RawReadv reads from a non-blocking descriptor into at most MaxIovecs pieces.
func RawReadv(fd int, v []Iovec) (int, Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
	return int(n), e
}

// RawWritev writes at most MaxIovecs pieces to a non-blocking descriptor.
func RawWritev(fd int, v []Iovec) (int, Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
	return int(n), e
}

// Close closes a descriptor.
func Close(fd int) error { return call("close", "", unix.Close(fd)) }
