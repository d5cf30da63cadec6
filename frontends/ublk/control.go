package ublk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"blockengine/engine/iouring"
	"blockengine/engine/sys"
)

// control sends control commands to the driver, one at a time, each with a
// deadline. It blocks: it is for goroutines, never for a reactor.
type control struct {
	log      *slog.Logger
	timeout  time.Duration
	encoded  bool   // opcodes are encoded as ioctls
	features uint64 // of the driver; 0: it cannot tell

	mu   sync.Mutex // guards what follows; held while a command is outstanding
	fd   int
	line *line // nil: none, or a command hangs in the last one
	seq  uint64
}

// line is a ring for control commands, with memory for their arguments. The
// kernel may write there for as long as a command is outstanding, so a line in
// which one hangs is left as it is.
type line struct {
	ring *iouring.Ring
	mem  []byte
}

const (
	lineMemory = 4096
	maxPayload = 1024
	// glanceEvery is how often a wait looks whether it is still wanted.
	glanceEvery = 100 * time.Millisecond
)

// openControl opens the driver and asks what it can do.
func openControl(ctx context.Context, timeout time.Duration, log *slog.Logger) (*control, error) {
	fd, err := sys.OpenDevice(controlPath)
	if err != nil {
		return nil, noDriver(err)
	}
	c := &control{log: log, timeout: timeout, fd: fd, encoded: true}
	if err := c.learn(ctx); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// noDriver says how to come by the driver.
func noDriver(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w: load the driver: modprobe ublk_drv (Linux 6.0 or later, built with CONFIG_BLK_DEV_UBLK)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root, or let udev give this user %s and make the device unprivileged", err, controlPath)
	}
	return err
}

// learn finds out which encoding the driver takes, and its features. A driver
// before 6.5 knows neither this command nor, perhaps, any encoded one.
func (c *control) learn(ctx context.Context) error {
	var features [8]byte
	err := c.run(ctx, order{nr: cmdGetFeatures, id: anyDevice, out: features[:]})
	var refused *CommandError
	switch {
	case err == nil:
		c.features = *(*uint64)(unsafe.Pointer(&features))
		c.encoded = c.features&flagIoctlEncode != 0
		return nil
	case errors.As(err, &refused):
		c.encoded = false
		return nil
	}
	return err
}

func (c *control) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.ring.Close()
		_ = sys.Unmap(c.line.mem)
		c.line = nil
	}
	if c.fd >= 0 {
		_ = sys.Close(c.fd)
		c.fd = -1
	}
}

// order is a control command.
type order struct {
	nr   uint8
	id   uint32
	data uint64
	in   []byte        // given to the driver
	out  []byte        // what it gives back; may be the same as in
	path string        // the character device's, where the driver checks who asks
	long time.Duration // more time than the others have
}

// CommandError is a control command that the driver has refused.
type CommandError struct {
	Command string
	ID      int // of the device, -1: none
	Errno   syscall.Errno
}

func (e *CommandError) Error() string {
	if e.ID < 0 {
		return fmt.Sprintf("ublk: %s: %v", e.Command, e.Errno)
	}
	return fmt.Sprintf("ublk: %s of device %d: %v", e.Command, e.ID, e.Errno)
}

// Unwrap gives the errno.
func (e *CommandError) Unwrap() error { return e.Errno }

// ErrHung is in the error of a control command without an answer in time. The
// kernel may still carry it out.
var ErrHung = errors.New("the kernel does not answer")

// run sends a command and waits for its end, ctx's, or the deadline.
func (c *control) run(ctx context.Context, o order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return os.ErrClosed
	}
	if c.line == nil {
		l, err := newLine()
		if err != nil {
			return fmt.Errorf("ublk: %w", err)
		}
		c.line = l
	}
	c.seq++
	c.line.put(c.fd, c.seq, ctrlOp(o.nr, c.encoded), &o)
	res, err := c.line.wait(ctx, c.seq, time.Now().Add(c.timeout+o.long))
	if err != nil {
		c.line = nil // for ever: see line
		c.log.Warn("a control command hangs", "command", cmdNames[o.nr], "device", int32(o.id), "err", err)
		return fmt.Errorf("ublk: %s of device %d: %w", cmdNames[o.nr], int32(o.id), err)
	}
	if res < 0 {
		return &CommandError{Command: cmdNames[o.nr], ID: int(int32(o.id)), Errno: syscall.Errno(-res)}
	}
	copy(o.out, c.line.mem[pathRoom(o.path):])
	return nil
}

func newLine() (*line, error) {
	mem, err := sys.MapMemory(lineMemory)
	if err != nil {
		return nil, err
	}
	ring, err := iouring.New(iouring.Options{Entries: 4, SQE128: true})
	if err != nil {
		_ = sys.Unmap(mem)
		return nil, err
	}
	return &line{ring, mem}, nil
}

// pathRoom is how many bytes a path takes before the payload.
func pathRoom(path string) int {
	if path == "" {
		return 0
	}
	return len(path) + 1
}

// put fills in the entry of a command.
func (l *line) put(fd int, seq uint64, op uint32, o *order) {
	clear(l.mem)
	skip := pathRoom(o.path)
	copy(l.mem, o.path)
	copy(l.mem[skip:], o.in)
	cmd := ctrlCmd{devID: o.id, queueID: 0xffff, data: o.data}
	if n := skip + max(len(o.in), len(o.out)); n > 0 {
		cmd.addr, cmd.len, cmd.pathLen = uint64(uintptr(unsafe.Pointer(&l.mem[0]))), uint16(n), uint16(skip)
	}
	e := l.ring.Get() // there is room: one command at a time
	e.Opcode, e.Fd, e.Off, e.UserData = sys.UringOpCmd, int32(fd), uint64(op), seq
	*(*ctrlCmd)(unsafe.Pointer(&l.ring.Command(e)[0])) = cmd
}

// wait gives what the command has ended with.
func (l *line) wait(ctx context.Context, seq uint64, deadline time.Time) (int32, error) {
	for {
		for {
			e, ok := l.ring.Next()
			if !ok {
				break
			}
			if e.UserData == seq {
				return e.Res, nil
			}
		}
		left := time.Until(deadline)
		switch {
		case ctx.Err() != nil:
			return 0, fmt.Errorf("%w: %w", ErrHung, ctx.Err())
		case left <= 0:
			return 0, ErrHung
		}
		err := l.ring.SubmitAndWait(min(left, glanceEvery))
		if err != nil && !errors.Is(err, sys.ETIME) && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EAGAIN) {
			return 0, err
		}
	}
}
