package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"blockengine/sdk/block"
)

// add makes a new device. Whatever instant a kill comes at, either the driver has
// nothing, or a record has the token of what it has.
func (d *Device) add(ctx context.Context) error {
	want, err := d.features()
	if err != nil {
		return err
	}
	info := devInfo{queues: uint16(d.o.Queues), depth: uint16(d.o.Depth), maxIO: uint32(d.o.MaxIO),
		id: uint32(d.o.ID), pid: int32(os.Getpid()), flags: want, token: newToken()}
	disk, _ := d.o.Volume.Info()
	if _, err := paramsOf(&disk, d.o.ReadOnly, info.maxIO, d.page); err != nil {
		return err
	}
	d.rec = &record{Version: recordVersion, Token: info.token, ID: d.o.ID, Name: d.o.Name, Volume: d.o.Volume.Name(),
		Identity: disk.Identity, Size: disk.Size, BlockSize: disk.BlockSize, Recovery: d.o.Recovery.String(),
		ReadOnly: d.o.ReadOnly || disk.Has(block.CapReadOnly)}
	if err := d.records.save(d.rec); err != nil {
		return err
	}
	at(StepRecorded)
	if err := d.ctl.add(ctx, &info); err != nil {
		if errors.Is(err, ErrHung) { // it may come to be yet: the record must find it
			return err
		}
		return errors.Join(d.notAdded(err), d.records.forget(d.o.Name))
	}
	at(StepAdded)
	d.dev = device{d.ctl, int(info.id), info.flags&flagUnprivileged != 0}
	if err := d.bringUp(ctx, &info, want, &disk); err != nil {
		return errors.Join(err, d.undo())
	}
	return nil
}

// features gives the flags that the device needs, and refuses what this kernel
// does not have.
func (d *Device) features() (uint64, error) {
	flags := flagIoctlEncode | d.o.Recovery.flags()
	flags |= d.chooseCopy().flags()
	if d.o.Unprivileged {
		if d.o.Recovery != None {
			return 0, fmt.Errorf("the kernel does not let an unprivileged device be recovered: choose recovery %q", None)
		}
		flags |= flagUnprivileged
	}
	if d.ctl.features == 0 {
		return flags, nil // it cannot tell; what it makes of the device will
	}
	if d.o.Recovery != None {
		flags |= d.ctl.features & flagQuiesce // see Leave
	}
	return flags, lacks(flags &^ d.ctl.features)
}

// lacks says what of the flags asked for the kernel does not have.
func lacks(missing uint64) error {
	missing &^= flagIoctlEncode
	switch {
	case missing&flagFailIO != 0:
		return fmt.Errorf("this kernel has no recovery %q: it needs Linux 6.13; choose %q", FailIO, Reissue)
	case missing&flagAutoBufReg != 0:
		return fmt.Errorf("this kernel has no copy %q: it needs Linux 6.16; choose %q or %q", CopyZero, CopyUser, CopyKernel)
	case missing&flagUserCopy != 0:
		return fmt.Errorf("this kernel has no copy %q: it needs Linux 6.5; choose %q", CopyUser, CopyKernel)
	case missing != 0:
		return fmt.Errorf("this kernel's driver lacks %s: use a newer kernel", strings.Join(namesOf(missing), ", "))
	}
	return nil
}

// notAdded explains why the driver has not made a device.
func (d *Device) notAdded(err error) error {
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%w: device number %d is taken: choose another, or none (engine ublk list shows whose it is)", err, d.o.ID)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: this takes CAP_SYS_ADMIN: run as root, or make the device unprivileged", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: there are as many unprivileged devices as the driver allows: raise ublks_max (%s)", err, maxPath)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: there are as many devices as the driver can have", err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%w: %d queues of depth %d are too much for the kernel's memory", err, d.o.Queues, d.o.Depth)
	}
	return err
}

// bringUp does the rest when the driver has the device.
func (d *Device) bringUp(ctx context.Context, info *devInfo, want uint64, disk *block.Info) error {
	if missing := want &^ info.flags; missing&^flagUnprivileged != 0 { // root's are never unprivileged
		if err := lacks(missing &^ flagUnprivileged); err != nil {
			return err
		}
	}
	d.quiesces = info.flags&flagQuiesce != 0
	d.rec.ID = d.dev.id
	if err := d.records.save(d.rec); err != nil {
		return err
	}
	at(StepNamed)
	if int(info.queues) < d.o.Queues {
		d.log.Warn("device has fewer queues than asked for: one for each CPU is the most", "export", d.o.Name, "queues", info.queues)
	}
	p, err := paramsOf(disk, d.o.ReadOnly, info.maxIO, d.page)
	if err != nil {
		return err
	}
	// udev may have to give us the character device before we may ask for more.
	if err := d.openChar(ctx); err != nil {
		return err
	}
	if err := d.dev.setParams(ctx, p); err != nil {
		return err
	}
	at(StepDescribed)
	d.size.Store(p.size())
	if err := d.takeJournal(info, settledDown); err != nil {
		return err
	}
	if err := d.prepare(info); err != nil {
		return err
	}
	d.populate()
	if err := d.attach(); err != nil {
		return err
	}
	at(StepFetched)
	if err := d.dev.start(ctx, startPatience); err != nil {
		return err
	}
	at(StepStarted)
	d.spareTag(info)
	d.log.Info("device", "export", d.o.Name, "device", d.Path(), "size", p.size(), "queues", info.queues, "depth", info.depth, "copy", copyOf(info.flags))
	return nil
}

// spareTag has users of the device leave a tag of each queue to the driver. Those
// before Linux 6.16 learn of our death only by a command that they hold: while all
// tags of a queue are with us, as they are when a busy volume's server is away, they
// would notice a kill by the kernel's timeout for requests only, half a minute later.
// Whoever sets nr_requests, or changes the I/O scheduler, takes that back.
func (d *Device) spareTag(info *devInfo) {
	const least = 4 // the kernel's, of nr_requests
	if d.ctl.features&flagPerIODaemon != 0 || info.depth <= least {
		return
	}
	path := fmt.Sprintf("/sys/block/%s/queue/nr_requests", filepath.Base(d.Path()))
	if err := os.WriteFile(path, strconv.AppendUint(nil, uint64(info.depth-1), 10), 0); err != nil {
		d.log.Info("a kill of the engine may be noticed late by the device", "device", d.Path(), "err", err)
	}
}

// startPatience is how much longer than other commands START_DEV may take: the
// kernel looks for partitions, on a storage server that may be slow.
const startPatience = 60 * time.Second

// takeJournal makes the journal, with what an engine before has left.
func (d *Device) takeJournal(info *devInfo, st stage) error {
	path := d.records.path(d.o.Name, journalEnd)
	l, err := readJournal(path)
	if err != nil {
		return err
	}
	l.stage = st
	d.journal, err = newJournal(path, int(info.queues)*int(info.depth), l)
	return err
}

// undoPatience bounds the removal of a device that could not be made.
const undoPatience = 10 * time.Second

// undo removes a device that was added and could not be brought up.
func (d *Device) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoPatience)
	defer cancel()
	if d.holds() {
		d.disarm(ctx, d.dev.order(cmdStop))
	}
	d.cut()
	if err := d.dev.do(ctx, cmdDelete, 0); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("and it could not be removed: %w", err)
	}
	return d.records.forget(d.o.Name)
}
