package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EpollEvent is an event with 64 bits of the caller's.
type EpollEvent = unix.EpollEvent

// Readiness bits.
const (
	EpollIn    = unix.EPOLLIN
	EpollOut   = unix.EPOLLOUT
	EpollErr   = unix.EPOLLERR
	EpollHup   = unix.EPOLLHUP
	EpollRdHup = unix.EPOLLRDHUP
	EpollEdge  = 1 << 31 // unix.EPOLLET is negative
)

// EpollCreate makes an epoll instance.
func EpollCreate() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return fd, call("epoll_create1", "", err)
}

// EpollAdd watches fd; data comes back in the event.
func EpollAdd(ep, fd int, events uint32, data uint64) error {
	ev := EpollEvent{Events: events, Fd: int32(data), Pad: int32(data >> 32)}
	return call("epoll_ctl add", "", unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &ev))
}

// EpollMod changes what fd is watched for.
func EpollMod(ep, fd int, events uint32, data uint64) error {
	ev := EpollEvent{Events: events, Fd: int32(data), Pad: int32(data >> 32)}
	return call("epoll_ctl mod", "", unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &ev))
}

// EpollDel stops watching fd.
func EpollDel(ep, fd int) error {
	return call("epoll_ctl del", "", unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, fd, nil))
}

// EpollData gives back the 64 bits of an event.
func EpollData(ev *EpollEvent) uint64 { return uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32 }

// EpollPoll looks for events without sleeping.
func EpollPoll(ep int, evs []EpollEvent) (int, Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(evs))), uintptr(len(evs)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// EpollWait sleeps until there are events or ms milliseconds have passed; -1
// waits without end.
func EpollWait(ep int, evs []EpollEvent, ms int) (int, Errno) {
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(evs))), uintptr(len(evs)), uintptr(ms), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Eventfd makes a non-blocking event counter.
func Eventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return fd, call("eventfd", "", err)
}

// EventfdSignal adds one to the counter and so wakes whoever waits for it.
func EventfdSignal(fd int) {
	one := [8]byte{1}
	RawWrite(fd, one[:])
}

// EventfdClear resets the counter.
func EventfdClear(fd int) {
	var b [8]byte
	RawRead(fd, b[:])
}

// start is where the clock of Nanotime begins.
var start = time.Now()

// Nanotime gives a monotonic time in ns; never 0.
func Nanotime() int64 { return int64(time.Since(start)) + 1 }
