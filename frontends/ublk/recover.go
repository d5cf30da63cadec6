package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// recover goes on serving a device whose server is dead. The driver has stopped
// it: requests wait, or fail. If this fails, or is killed, the device stays for
// the next engine.
func (d *Device) recover(ctx context.Context, info *devInfo) error {
	p, err := d.dev.getParams(ctx)
	if err != nil {
		return err
	}
	disk, _ := d.o.Volume.Info()
	if err := d.rec.same(d.o.Volume.Name(), &disk, p.size()); err != nil {
		return fmt.Errorf("%s is left as it is: %w (engine ublk delete %d removes it)", blockPath(d.dev.id), err, d.dev.id)
	}
	d.size.Store(p.size())
	d.recovered, d.quiesces = true, info.flags&flagQuiesce != 0
	at(StepVerified)
	d.keepsCopy(info.flags)
	l, err := readJournal(d.records.path(d.o.Name, journalEnd))
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.takeOver(ctx, info, l.stage); err != nil {
		d.giveUp()
		return err
	}
	at(StepServed)
	d.log.Info("device is served on", "export", d.o.Name, "device", d.Path(), "size", p.size(),
		"queues", info.queues, "depth", info.depth, "copy", copyOf(info.flags), "owed", d.journal.left.Load(), "took", time.Since(began))
	return nil
}

// giveUp leaves a device that could not be taken over to the next engine, or to
// another try of this one.
func (d *Device) giveUp() {
	ctx, cancel := context.WithTimeout(context.Background(), undoPatience)
	defer cancel()
	if d.holds() {
		d.disarmed(ctx)
	}
	d.cut()
}

// takeOver does it. before is how far an engine came that was killed in here.
//
// Drivers before Linux 6.16 are not made for that. START_USER_RECOVERY of a
// device of which some queues, and not all, have been fetched since the last one
// makes them use a server that is not there; of one of which none have been, they
// refuse it. Hence the stages, noted where they outlive us; and all that takes
// time is done before. A queue is fetched in one system call, so a device with
// one queue has none or all.
func (d *Device) takeOver(ctx context.Context, info *devInfo, before stage) error {
	if err := d.takeJournal(info, before); err != nil {
		return err
	}
	if err := d.prepare(info); err != nil {
		return err
	}
	robust := d.ctl.features&flagPerIODaemon != 0
	unsafe := before == fetching && info.queues > 1 && !robust
	if !unsafe {
		err := d.startRecovery(ctx, before)
		if err != nil && (before == settledDown || !errors.Is(err, syscall.EINVAL)) {
			return err
		} // refused: an engine before us has done it
	}
	at(StepTaken)
	err := d.openChar(ctx)
	if err == nil {
		d.journal.at(fetching)
		err = d.attach()
	}
	if err != nil && before == fetching && !robust {
		return fmt.Errorf("an engine was killed while it was taking %s over, which this kernel's driver does not get over (Linux 6.16 does): remove it with engine ublk delete %d: %w",
			blockPath(d.dev.id), d.dev.id, err)
	}
	if err != nil {
		return err
	}
	d.journal.at(fetched)
	at(StepRefetch)
	if err := d.dev.do(ctx, cmdEndRecovery, uint64(os.Getpid())); err != nil {
		return err
	}
	d.journal.at(settledDown)
	return nil
}

// startRecovery tells the driver that there is a new server, as soon as it has
// taken leave of the old one.
func (d *Device) startRecovery(ctx context.Context, before stage) error {
	at(StepTaking)
	if before != fetching {
		d.journal.at(taking)
	}
	for deadline := time.Now().Add(d.o.Timeout); ; {
		err := d.dev.do(ctx, cmdStartRecovery, 0)
		if err == nil || !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(orphanEvery):
		}
	}
}
