package nbdkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

// State is where a device stands in its life.
type State uint8

// The states of a device.
const (
	Serving State = iota
	Closing
	Removed // somebody else has removed it
	Broken  // the driver does not take what we give it, see Status.Problem
)

var stateNames = [...]string{"serving", "closing", "removed", "broken"}

func (s State) String() string { return stateNames[s] }

// Status is how a device stands.
type Status struct {
	Number     int
	Path       string // /dev/nbdN
	State      State
	Problem    string // why it is Broken
	Recovered  bool   // it was found after another engine, and is served on
	Size       uint64 // bytes, as the kernel has it
	Reconnects uint64 // times that connections were lost and made again
}

// Number is N in /dev/nbdN.
func (d *Device) Number() int { return d.number }

// Path is /dev/nbdN.
func (d *Device) Path() string { return devicePath(d.number) }

// Status looks at the device.
func (d *Device) Status() Status {
	s := Status{Number: d.number, Path: d.Path(), Recovered: d.recovered, Size: d.driver.size(d.number), Reconnects: d.reconnects.Load()}
	if p := d.problem.Load(); p != nil {
		s.State, s.Problem = Broken, *p
	}
	select {
	case <-d.quit:
		s.State = Closing
	default:
		if d.gone() {
			s.State = Removed
		}
	}
	return s
}

// gone tells whether the kernel has the device no more.
func (d *Device) gone() bool { return d.driver.backend(d.number) != d.backend }

// start begins to look after the device.
func (d *Device) start() {
	d.stopWatch = d.o.Volume.Watch(func(*volume.Volume) {
		select {
		case d.changed <- struct{}{}:
		default: // one look will see all
		}
	})
	d.keeping.Go(d.keep)
}

// retryTime is how long a device waits for another try to give it sockets.
const retryTime = time.Second

// keep gives the device new connections for those that it loses, and tells it of
// a volume that has grown, until quit.
func (d *Device) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-d.quit
		cancel()
	}()
	var retry <-chan time.Time
	for {
		select {
		case <-d.quit:
			return
		case number := <-d.news.lost:
			if number != d.number && number != AnyNumber {
				continue
			}
		case <-retry:
		case <-d.changed:
			if err := d.grow(ctx); err != nil && ctx.Err() == nil {
				d.o.Log.Error("the kernel does not learn that a volume has grown", "export", d.o.Name, "device", d.Path(), "err", err)
			}
			continue
		}
		retry = d.mend(ctx)
	}
}

// mend hands new sockets over; if that fails it gives when to try again.
func (d *Device) mend(ctx context.Context) (retry <-chan time.Time) {
	err := d.handOver(ctx)
	switch {
	case err == nil:
		d.problem.Store(nil)
		d.reconnects.Add(1)
		d.o.Log.Info("the kernel has a new connection", "export", d.o.Name, "device", d.Path())
	case ctx.Err() != nil:
	case d.gone():
		d.o.Log.Warn("somebody has removed the device", "export", d.o.Name, "device", d.Path())
	default:
		text := err.Error()
		if d.problem.Swap(&text) == nil {
			d.o.Log.Error("the kernel has lost a connection and takes no new one, trying again", "export", d.o.Name, "device", d.Path(), "err", err)
		}
		return time.After(retryTime)
	}
	return nil
}

// Resize tells the kernel the volume's size, where it has grown. A device does
// so by itself; this one says why it fails.
func (d *Device) Resize(ctx context.Context) error { return d.grow(ctx) }

// grow sets the device's size to that of its volume; a device never shrinks.
func (d *Device) grow(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	info, _ := d.o.Volume.Info()
	size, err := sizeOf(&info)
	if err != nil || size <= d.driver.size(d.number) {
		return err
	}
	s := d.settings(d.number)
	s.size, s.blockSize = size, blockOf(&info)
	if err := d.driver.reconfigure(ctx, s); err != nil {
		return err
	}
	next := *d.record
	next.Size = info.Size
	d.record = &next
	d.o.Log.Info("the device has grown", "export", d.o.Name, "device", d.Path(), "bytes", size)
	return next.write(d.o.StateDir)
}

// end stops looking after the device.
func (d *Device) end() {
	d.ending.Do(func() {
		d.stopWatch()
		close(d.quit)
		d.keeping.Wait()
		d.news.close()
	})
}

// Leave ends the serving and keeps the device for the next engine. The server's
// connections are its owner's to end; requests wait for the next one then.
func (d *Device) Leave() { d.end() }

// Close removes the device and forgets it; what uses it gets errors. When ctx
// ends first the device may be left behind as after a kill, and the error says so.
func (d *Device) Close(ctx context.Context) error {
	d.end()
	if !d.gone() {
		if err := d.driver.disconnect(ctx, d.number); err != nil {
			return fmt.Errorf("nbd-kernel export %q: %s is left behind: %w", d.o.Name, d.Path(), err)
		}
	}
	at(StepDisconnected)
	return forget(d.o.StateDir, d.o.Name)
}

// news is what the driver tells everybody.
type news struct {
	f    *os.File
	lost chan int // a device has lost a connection; AnyNumber: some may have been missed
	quit chan struct{}
}

func listenNews(group uint32) (*news, error) {
	fd, err := sys.GenericNetlink()
	if err != nil {
		return nil, err
	}
	n := &news{f: os.NewFile(uintptr(fd), "netlink"), lost: make(chan int), quit: make(chan struct{})}
	if err := sys.JoinNetlinkGroup(fd, group); err != nil {
		_ = n.f.Close()
		return nil, err
	}
	go n.receive()
	return n, nil
}

// receive hands news on until close.
func (n *news) receive() {
	b := make([]byte, 16<<10)
	for {
		size, err := n.f.Read(b)
		switch {
		case errors.Is(err, sys.Errno(sys.ENOBUFS)):
			n.tell(AnyNumber) // more came than there was room for
		case err != nil:
			return
		}
		list, _ := messages(b[:max(size, 0)])
		for _, a := range list {
			if a.cmd == cmdLinkDead {
				attributes(a.data, func(kind uint16, v []byte) {
					if kind == attrIndex {
						n.tell(int(uintOf(v)))
					}
				})
			}
		}
	}
}

func (n *news) tell(number int) {
	select {
	case n.lost <- number:
	case <-n.quit:
	}
}

func (n *news) close() {
	close(n.quit)
	if n.f != nil { // tests tell the news themselves
		_ = n.f.Close()
	}
}
