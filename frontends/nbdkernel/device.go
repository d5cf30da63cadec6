package nbdkernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"blockengine/sdk/block"
)

// pageSize bounds the block size of a device.
const pageSize = 4096

// leastBlock is the smallest block of a device, in bytes.
const leastBlock = 512

// Device is a volume as /dev/nbdN. Its methods are safe from any goroutine but a
// reactor's.
type Device struct {
	o         Options
	driver    *driver
	news      *news
	number    int
	backend   string // the record's
	links     int    // connections that it has
	recovered bool

	reconnects atomic.Uint64 // times that sockets were handed over again
	problem    atomic.Pointer[string]

	changed   chan struct{} // the volume may have grown; holds one
	stopWatch func()
	quit      chan struct{}
	keeping   sync.WaitGroup
	ending    sync.Once

	mu     sync.Mutex // guards record; held while the driver is asked to resize
	record *record
}

// Open makes the device, or goes on with that of the same export which an engine
// before has left behind. The volume must be the same disk then, and not
// smaller; else the device stays as it is and Open fails. It returns when
// /dev/nbdN can be used.
func Open(ctx context.Context, o Options) (*Device, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("nbd-kernel export %q: %w", o.Name, err)
	}
	k, err := openDriver(ctx)
	if err == nil {
		var d *Device
		if d, err = open(ctx, o, k); err == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("nbd-kernel export %q: %w", o.Name, err)
}

// open listens to what the driver tells before anything is asked of it: a
// connection that is lost at any time after is heard of.
func open(ctx context.Context, o Options, k *driver) (*Device, error) {
	n, err := listenNews(k.group)
	if err != nil {
		return nil, err
	}
	d, err := openWith(ctx, o, k, n)
	if err != nil {
		n.close()
	}
	return d, err
}

func openWith(ctx context.Context, o Options, k *driver, n *news) (*Device, error) {
	d := &Device{o: o, driver: k, news: n, number: AnyNumber, changed: make(chan struct{}, 1), quit: make(chan struct{})}
	rec, err := readRecord(recordPath(o.StateDir, o.Name))
	if err != nil {
		return nil, err
	}
	info, _ := o.Volume.Info()
	found := false
	if rec != nil {
		d.number, found = k.find(rec.Backend)
	}
	if found {
		d.remember(rec)
		d.recovered = true
		err = d.recover(ctx, &info)
	} else {
		err = d.create(ctx, &info)
	}
	if err != nil {
		return nil, err
	}
	d.start()
	return d, nil
}

// remember takes over what is kept of the device.
func (d *Device) remember(r *record) { d.record, d.backend, d.links = r, r.Backend, r.Connections }

// create makes a new device.
func (d *Device) create(ctx context.Context, info *block.Info) error {
	size, err := sizeOf(info)
	if err != nil {
		return err
	}
	socks, server, err := d.dial(ctx, d.o.Connections)
	if err != nil {
		return err
	}
	defer closeAll(socks)
	if len(socks) > 1 && server.flags&flagCanMultiConn == 0 {
		return fmt.Errorf("%d connections, and the volume takes one: write connections = 1", len(socks))
	}
	at(StepSockets)
	rec, err := newRecord(&d.o, info)
	if err == nil {
		err = rec.write(d.o.StateDir)
	}
	if err != nil {
		return fmt.Errorf("remember the device: %w", err)
	}
	at(StepRecord)
	d.remember(rec)
	s := d.settings(d.o.Number)
	s.size, s.blockSize, s.flags = size, blockOf(info), server.flags
	err = withDescriptors(socks, func(fds []int) (err error) {
		s.sockets = fds
		d.number, err = d.driver.connect(ctx, s)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			_ = forget(d.o.StateDir, d.o.Name) // the kernel has refused: there is no device
		}
		return d.explain(err)
	}
	at(StepConnected)
	return d.checkBackend(ctx)
}

// checkBackend makes sure that the next engine will find the device.
func (d *Device) checkBackend(ctx context.Context) error {
	if d.driver.backend(d.number) == d.backend {
		return nil
	}
	err := d.driver.disconnect(ctx, d.number)
	return errors.Join(errors.New("this kernel keeps no identifier with an NBD device, so no later engine could find it again: "+
		"use Linux 5.14 or later"), err, forget(d.o.StateDir, d.o.Name))
}

// settings that a device has from first to last.
func (d *Device) settings(number int) settings {
	return settings{number: number, timeout: d.o.RequestTimeout, dead: d.o.DeadConnTimeout, backend: d.backend}
}

// explain says what an errno of the driver means.
func (d *Device) explain(err error) error {
	var no syscall.Errno
	errors.As(err, &no)
	switch no {
	case syscall.EBUSY:
		return fmt.Errorf("nbd%d is in use: choose another number, or leave device out: %w", d.o.Number, err)
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("this user may not make devices: run the engine as root, or give it CAP_SYS_ADMIN: %w", err)
	}
	return err
}

// recover goes on with the device of an engine that is gone.
func (d *Device) recover(ctx context.Context, info *block.Info) error {
	path := devicePath(d.number)
	if err := d.record.sameDisk(d.o.Volume.Name(), info); err != nil {
		return fmt.Errorf("%s stays as it is: %w: bring the disk back, or give the device up with engine nbd-kernel delete %d", path, err, d.number)
	}
	at(StepFound)
	if d.o.Number != AnyNumber && d.o.Number != d.number {
		d.o.Log.Warn("the device is there already, under another number", "export", d.o.Name, "device", path, "configured", d.o.Number)
	}
	if err := d.handOver(ctx); err != nil {
		return fmt.Errorf("go on with %s: %w", path, err)
	}
	at(StepReconfigured)
	return d.grow(ctx)
}

// handOver gives the driver as many sockets as the device may have; it takes
// those for which it has lost one. The rest end here.
func (d *Device) handOver(ctx context.Context) error {
	socks, _, err := d.dial(ctx, d.links)
	if err != nil {
		return err
	}
	defer closeAll(socks)
	s := d.settings(d.number)
	return withDescriptors(socks, func(fds []int) error {
		s.sockets = fds
		return d.driver.reconfigure(ctx, s)
	})
}

// dial makes n connections to our own server.
func (d *Device) dial(ctx context.Context, n int) (socks []*net.UnixConn, info exportInfo, err error) {
	for range n {
		c, i, err := dial(ctx, d.o.Server, d.o.Name)
		if err != nil {
			closeAll(socks)
			return nil, info, err
		}
		socks, info = append(socks, c), i
	}
	return socks, info, nil
}

// closeAll closes our copies; the driver has its own of those that it took.
func closeAll(socks []*net.UnixConn) {
	for _, c := range socks {
		_ = c.Close()
	}
}

// withDescriptors calls f with the sockets' descriptors, which are valid for as
// long as it runs.
func withDescriptors(socks []*net.UnixConn, f func(fds []int) error) error {
	fds := make([]int, 0, len(socks))
	for _, c := range socks {
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return err
		}
	}
	return f(fds) // the caller closes them after
}

// sizeOf is how long the device of a volume is.
func sizeOf(info *block.Info) (uint64, error) {
	b := uint64(blockOf(info))
	if b > pageSize {
		return 0, fmt.Errorf("the volume has blocks of %d bytes, and the kernel's NBD driver takes %d at most", b, pageSize)
	}
	size := info.Size &^ (b - 1)
	if size == 0 {
		return 0, fmt.Errorf("the volume has %d bytes, less than a block of %d", info.Size, b)
	}
	return size, nil
}

func blockOf(info *block.Info) uint32 { return max(info.BlockSize, leastBlock) }
