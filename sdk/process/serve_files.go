package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// Bounds on what the engine sends over the socket for descriptors.
const (
	filesMessage = 8  // bytes: the channel's number
	filesOOB     = 64 // room for the descriptors of one region
)

// inbox holds the descriptors that have come for channels until the call comes
// that opens them, or keeps that call until they have come.
type inbox struct {
	mu      sync.Mutex // guards what follows
	arrived map[uint64][]int
	waiting map[uint64]chan []int // each takes one
}

func newInbox() *inbox {
	return &inbox{arrived: map[uint64][]int{}, waiting: map[uint64]chan []int{}}
}

// receive takes descriptors until the engine is gone, and then ends the process.
func (in *inbox) receive(fd int) {
	for {
		channel, fds, err := receiveFiles(fd)
		switch {
		case errors.Is(err, errEngineGone):
			os.Exit(0) // nobody wants the answers any more
		case err != nil:
			fail(fmt.Sprintf("descriptors from the engine: %v", err))
		}
		in.put(channel, fds)
	}
}

// errEngineGone: the engine's end of the socket is closed.
var errEngineGone = errors.New("the engine has gone")

// receiveFiles takes one message.
func receiveFiles(fd int) (channel uint64, fds []int, err error) {
	var b [filesMessage]byte
	var oob [filesOOB]byte
	n, oobn, flags, _, err := syscall.Recvmsg(fd, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
	for err == syscall.EINTR {
		n, oobn, flags, _, err = syscall.Recvmsg(fd, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
	}
	switch {
	case err != nil:
		return 0, nil, os.NewSyscallError("recvmsg", err)
	case n == 0 && oobn == 0:
		return 0, nil, errEngineGone
	case n != len(b) || flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0:
		return 0, nil, fmt.Errorf("a message of %d bytes (flags %#x): 8 are the number of a channel; raise the limit on open files if it is low", n, flags)
	}
	if fds, err = rightsOf(oob[:oobn]); err != nil {
		return 0, nil, err
	}
	return binary.LittleEndian.Uint64(b[:]), fds, nil
}

// rightsOf takes the descriptors out of ancillary data.
func rightsOf(oob []byte) ([]int, error) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("parse control message", err)
	}
	var fds []int
	for i := range msgs {
		got, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			return nil, os.NewSyscallError("parse SCM_RIGHTS", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func (in *inbox) put(channel uint64, fds []int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c, ok := in.waiting[channel]; ok {
		delete(in.waiting, channel)
		c <- fds
		return
	}
	closeAll(in.arrived[channel])
	in.arrived[channel] = fds
}

// take gives the descriptors of a channel, once, and waits for them until ctx
// ends.
func (in *inbox) take(ctx context.Context, channel uint64) ([]int, error) {
	in.mu.Lock()
	if fds, ok := in.arrived[channel]; ok {
		delete(in.arrived, channel)
		in.mu.Unlock()
		return fds, nil
	}
	c := make(chan []int, 1)
	in.waiting[channel] = c
	in.mu.Unlock()
	select {
	case fds := <-c:
		return fds, nil
	case <-ctx.Done():
	}
	in.mu.Lock()
	delete(in.waiting, channel)
	in.mu.Unlock()
	select {
	case fds := <-c: // they came after all
		closeAll(fds)
	default:
	}
	return nil, fmt.Errorf("the descriptors of channel %d have not come: %w", channel, ctx.Err())
}

// drop closes what has come for a channel that will not be opened.
func (in *inbox) drop(channel uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	closeAll(in.arrived[channel])
	delete(in.arrived, channel)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
