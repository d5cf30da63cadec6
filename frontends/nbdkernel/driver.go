package nbdkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"blockengine/engine/sys"
)

// DefaultTimeout bounds an order to the driver. It carries orders out in the
// call that gives them, and has been seen to hang there.
const DefaultTimeout = 30 * time.Second

// ErrNoDriver says that the kernel has no NBD driver, or that it is not loaded.
var ErrNoDriver = errors.New("this kernel has no NBD driver, or it is not loaded: modprobe nbd")

// driver is a way to the kernel's driver.
type driver struct {
	family uint16
	group  uint32
	sysfs  string // where block devices are, /sys/block
	// exchange gives an order and takes the answers to it; it may block for as
	// long as the kernel likes.
	exchange func(order []byte) ([]answer, error)
}

const sysBlock = "/sys/block"

// openDriver finds the driver; ErrNoDriver if there is none.
func openDriver(ctx context.Context) (*driver, error) {
	d := &driver{sysfs: sysBlock, exchange: netlinkExchange}
	return d, d.resolve(ctx)
}

// resolve asks for the number of the driver's family and of its group.
func (d *driver) resolve(ctx context.Context) error {
	m := message(genlController, nlAck, 1, ctrlGetFamily, 1)
	list, err := d.call(ctx, "find the NBD driver", finish(attrText(m, ctrlAttrName, familyName)))
	if errors.Is(err, sys.Errno(syscall.ENOENT)) {
		return ErrNoDriver
	}
	if err != nil {
		return err
	}
	for _, a := range list {
		attributes(a.data, func(kind uint16, v []byte) {
			switch kind {
			case ctrlAttrFamily:
				d.family = uint16(uintOf(v))
			case ctrlAttrGroups:
				attributes(v, func(_ uint16, group []byte) { d.takeGroup(group) })
			}
		})
	}
	if d.family == 0 {
		return errors.New("the kernel does not say which netlink family the NBD driver has")
	}
	return nil
}

func (d *driver) takeGroup(group []byte) {
	var name string
	var id uint32
	attributes(group, func(kind uint16, v []byte) {
		switch kind {
		case ctrlAttrGroupName:
			name = textOf(v)
		case ctrlAttrGroupID:
			id = uint32(uintOf(v))
		}
	})
	if name == familyGroup {
		d.group = id
	}
}

// call gives an order. When ctx ends first the order goes on in the kernel, and
// nobody knows how it ends.
func (d *driver) call(ctx context.Context, what string, order []byte) ([]answer, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	type result struct {
		list []answer
		err  error
	}
	done := make(chan result, 1)
	go func() {
		list, err := d.exchange(order)
		done <- result{list, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return r.list, fmt.Errorf("%s: %w", what, r.err)
		}
		return r.list, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: the kernel does not answer: %w", what, ctx.Err())
	}
}

// netlinkExchange sends an order on a socket of its own, and receives until it
// is acknowledged. The error is a sys.Errno where the kernel refuses.
func netlinkExchange(order []byte) ([]answer, error) {
	fd, err := sys.GenericNetlink()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(DefaultTimeout))
	if _, err := f.Write(order); err != nil {
		return nil, err
	}
	return receiveAnswers(f.Read)
}

// receiveAnswers collects answers up to the acknowledgement.
func receiveAnswers(read func([]byte) (int, error)) (list []answer, err error) {
	for {
		b := make([]byte, 64<<10) // more than the kernel puts into one
		n, err := read(b)
		if err != nil {
			return list, err
		}
		got, err := messages(b[:n])
		if err != nil {
			return list, err
		}
		for _, a := range got {
			if a.kind != nlError {
				list = append(list, a)
				continue
			}
			no, ok := a.errno()
			switch {
			case !ok:
				return list, errors.New("the kernel's answer is cut short")
			case no != 0:
				return list, sys.Errno(no)
			}
			return list, nil
		}
	}
}

// settings are what a device is made with, or changed to. Zero fields are left
// out.
type settings struct {
	number    int    // AnyNumber leaves it to the kernel
	size      uint64 // bytes
	blockSize uint32
	timeout   time.Duration
	dead      time.Duration
	flags     uint16 // transmission flags
	backend   string
	sockets   []int
}

// append writes the settings as attributes.
func (s *settings) append(b []byte) []byte {
	if s.number != AnyNumber {
		b = attrUint32(b, attrIndex, uint32(s.number))
	}
	if s.size != 0 {
		b = attrUint64(b, attrSize, s.size)
	}
	if s.blockSize != 0 {
		b = attrUint64(b, attrBlockSize, uint64(s.blockSize))
	}
	if s.timeout != 0 {
		b = attrUint64(b, attrTimeout, seconds(s.timeout))
	}
	if s.dead != 0 {
		b = attrUint64(b, attrDeadConnTimeout, seconds(s.dead))
	}
	if s.flags != 0 {
		b = attrUint64(b, attrServerFlags, uint64(s.flags))
	}
	if s.backend != "" {
		b = attrText(b, attrBackend, s.backend)
	}
	if len(s.sockets) > 0 {
		b = attrSocketList(b, s.sockets)
	}
	return b
}

// seconds rounds up: a limit must not end before it is over.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func (d *driver) order(ctx context.Context, what string, cmd uint8, s settings) ([]answer, error) {
	return d.call(ctx, what, finish(s.append(message(d.family, nlAck, 1, cmd, familyVersion))))
}

// connect makes a device, or takes one that nobody uses, and gives its number.
func (d *driver) connect(ctx context.Context, s settings) (int, error) {
	list, err := d.order(ctx, "connect", cmdConnect, s)
	if err != nil {
		return AnyNumber, err
	}
	number := s.number
	for _, a := range list {
		attributes(a.data, func(kind uint16, v []byte) {
			if kind == attrIndex {
				number = int(uintOf(v))
			}
		})
	}
	if number == AnyNumber {
		return number, errors.New("connect: the kernel does not say which device it has made")
	}
	return number, nil
}

// reconfigure changes a device. Of its sockets the driver takes as many as the
// device has dead ones, and says nothing of the rest.
func (d *driver) reconfigure(ctx context.Context, s settings) error {
	_, err := d.order(ctx, fmt.Sprintf("reconfigure nbd%d", s.number), cmdReconfigure, s)
	return err
}

// disconnect ends a device; requests that are outstanding fail.
func (d *driver) disconnect(ctx context.Context, number int) error {
	_, err := d.order(ctx, fmt.Sprintf("disconnect nbd%d", number), cmdDisconnect, settings{number: number})
	return err
}

// connected gives the numbers of the devices that are connected.
func (d *driver) connected(ctx context.Context) ([]int, error) {
	list, err := d.order(ctx, "ask for the devices", cmdStatus, settings{number: AnyNumber})
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, a := range list {
		attributes(a.data, func(kind uint16, v []byte) {
			if kind == attrDevices {
				attributes(v, func(_ uint16, item []byte) { numbers = takeDevice(item, numbers) })
			}
		})
	}
	return numbers, nil
}

func takeDevice(item []byte, numbers []int) []int {
	number, connected := AnyNumber, false
	attributes(item, func(kind uint16, v []byte) {
		switch kind {
		case attrDeviceIndex:
			number = int(uintOf(v))
		case attrDeviceConnected:
			connected = uintOf(v) != 0
		}
	})
	if number != AnyNumber && connected {
		numbers = append(numbers, number)
	}
	return numbers
}
