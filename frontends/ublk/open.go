package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
)

// Open makes the device and serves it, or goes on serving the one of the same
// export that an engine before has left behind. The volume must be the same disk
// then, and not smaller; else the device stays as it is and Open fails. It
// returns when /dev/ublkbN can be used.
//
// What is left of a device that could not be made is removed; if that fails too,
// the next Open removes it.
func Open(ctx context.Context, o Options) (*Device, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ublk export %q: %w", o.Name, err)
	}
	d := &Device{o: o, log: o.Log, records: recordsIn(o.StateDir), char: -1, page: os.Getpagesize(),
		changed: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
	d.life, d.die = context.WithCancel(context.Background())
	if d.ctl, err = openControl(ctx, o.Timeout, o.Log); err != nil {
		d.die()
		return nil, d.wrap(err)
	}
	if err := d.open(ctx); err != nil {
		d.die()
		d.ctl.close()
		return nil, d.wrap(err)
	}
	d.keep()
	return d, nil
}

func (d *Device) open(ctx context.Context) (err error) {
	if d.rec, err = d.records.load(d.o.Name); err != nil {
		return err
	}
	if d.rec == nil {
		return d.add(ctx)
	}
	info, err := d.find(ctx)
	if err != nil {
		return err
	}
	if info == nil { // the host was restarted, or it was removed by hand
		return d.add(ctx)
	}
	d.dev = device{d.ctl, int(info.id), info.flags&flagUnprivileged != 0}
	at(StepFound)
	if info, err = d.orphaned(ctx, info); err != nil {
		return err
	}
	if info.state == stateDead || info.flags&flagRecovery == 0 {
		return d.replace(ctx)
	}
	return d.recover(ctx, info)
}

// find looks for the device of the record. It gives nil if there is none.
func (d *Device) find(ctx context.Context) (*devInfo, error) {
	ids, err := numbers()
	if err != nil {
		return nil, err
	}
	if d.rec.ID >= 0 {
		ids = append([]int{d.rec.ID}, ids...) // the likely one first
	}
	for _, id := range ids {
		info, err := d.ctl.info(ctx, id)
		var refused *CommandError
		switch {
		case err == nil && info.token == d.rec.Token:
			return &info, nil
		case err == nil || errors.As(err, &refused): // another's, or it has just gone
		default:
			return nil, err
		}
	}
	return nil, nil
}

// orphanEvery is how often a device is looked at whose server is dying.
const orphanEvery = time.Millisecond

// orphaned waits until the driver has noticed that the device's server is dead,
// and gives its state then.
func (d *Device) orphaned(ctx context.Context, info *devInfo) (*devInfo, error) {
	for deadline := time.Now().Add(d.o.Timeout); info.state == stateLive; {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s is served by process %d: stop that one first", blockPath(d.dev.id), info.pid)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(orphanEvery):
		}
		now, err := d.ctl.info(ctx, d.dev.id)
		if errors.Is(err, syscall.ENODEV) {
			now, err = *info, nil
			now.state = stateDead
		}
		if err != nil {
			return nil, err
		}
		info = &now
	}
	return info, nil
}

// replace removes what is left of a device that was never started, or has been
// stopped, and makes it anew, under its old number if it can be had.
func (d *Device) replace(ctx context.Context) error {
	if err := d.dev.do(ctx, cmdDelete, 0); err != nil && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	if d.o.ID == AnyID {
		old := d.dev.id
		d.o.ID = old
		err := d.add(ctx)
		if !errors.Is(err, syscall.EEXIST) {
			return err
		}
		d.o.ID = AnyID
	}
	return d.add(ctx)
}

// spread chooses the reactors of devices in turn.
var spread atomic.Uint64

// prepare makes the queues, with all that they need of us, on their reactors.
func (d *Device) prepare(info *devInfo) error {
	way, buffers := copyOf(info.flags), d.o.Buffers
	if buffers == 0 {
		buffers = DefaultBuffers(int(info.depth), int(info.maxIO))
	}
	first := spread.Add(uint64(info.queues)) - uint64(info.queues)
	for i := range int(info.queues) {
		q, err := newQueue(i, int(info.depth), int(info.maxIO), way, buffers, d.ctl.encoded)
		if err != nil {
			return err
		}
		q.onGone = func() { poke(d.ended) }
		q.onBack = q.onGone
		q.trouble, q.warn, q.journal = d.trouble, d.warn, d.journal
		d.queues = append(d.queues, q)
		if err := d.arrive(q, d.o.Reactors[(first+uint64(i))%uint64(len(d.o.Reactors))]); err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	return nil
}

// arrive puts a queue on a reactor: r, or the volume's home if it has one.
func (d *Device) arrive(q *queue, r *reactor.Reactor) error {
	for range 2 {
		if home := d.o.Volume.Home(); home != nil {
			r = home
		}
		var err error
		if !r.Do(func() { err = q.arrive(r, d.o.Volume, d.o.ReadOnly) }) {
			return errors.New("the reactor has stopped")
		}
		if !errors.Is(err, volume.ErrWrongReactor) {
			return err
		}
	}
	return volume.ErrWrongReactor
}

// charPatience is how long udev has to give us the character device.
const charPatience = 5 * time.Second

// openChar opens /dev/ublkcN. A server before us may still be letting go of it.
func (d *Device) openChar(ctx context.Context) error {
	for deadline := time.Now().Add(charPatience); ; {
		fd, err := sys.OpenDevice(charPath(d.dev.id))
		if err == nil {
			d.char = fd
			return nil
		}
		soon := errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES)
		if !soon || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(orphanEvery):
		}
	}
}

// attach fetches all queues, all at the same time: until that is done a kill
// leaves the driver with some.
func (d *Device) attach() error {
	errs := make([]error, len(d.queues))
	var all sync.WaitGroup
	for i, q := range d.queues {
		all.Go(func() {
			if !q.r.Do(func() { errs[i] = q.attach(d.char, d.page) }) {
				errs[i] = errors.New("the reactor has stopped")
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("queue %d: %w", i, errs[i])
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// cut lets go of the driver at once, whatever is outstanding: it sees a dead
// server. Memory that the volume may still use stays.
func (d *Device) cut() {
	for _, q := range d.queues {
		if q.r == nil {
			q.free()
			continue
		}
		q.r.Do(q.sever)
	}
	if d.char >= 0 {
		_ = sys.Close(d.char)
		d.char = -1
	}
	d.queues = nil
	if d.journal != nil {
		d.journal.close()
	}
}
