package ublk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
)

// Found is a ublk device of this host, or the memory of one.
type Found struct {
	ID          int    // -1: only remembered; the kernel has no such device
	Path        string // /dev/ublkbN, "" where ID is -1
	State       string // the kernel's: dead, live, quiesced, fail_io; gone where ID is -1
	Server      int    // process that serves it, or served it last; 0: none
	UID, GID    uint32 // of who has made it, where ID is not -1
	Name        string // the export's that it is remembered for; "" for another program's device
	Volume      string // its name
	Identity    string // what the volume said of itself
	Size        uint64 // bytes; of another program's device 0
	Queues      int
	Depth       int
	Recoverable bool // an engine with that export goes on serving it
}

// List gives the devices that the kernel has, whoever made them, and those that
// are remembered in the state directory and are not there. The error may come
// with what could be found all the same.
func List(ctx context.Context, stateDir string) ([]Found, error) {
	known, err := recordsIn(stateDir).all()
	var list []Found
	ctl, open := openControl(ctx, DefaultTimeout, slog.Default())
	if open == nil {
		defer ctl.close()
		var more error
		list, more = ctl.found(ctx, known)
		err = errors.Join(err, more)
	} else if len(known) > 0 || !errors.Is(open, syscall.ENOENT) {
		err = errors.Join(err, open)
	}
	for _, r := range known {
		if !slices.ContainsFunc(list, func(f Found) bool { return f.Name == r.Name }) {
			f := Found{ID: -1, State: "gone"}
			f.remember(r)
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

// found asks the driver about every device that it has.
func (c *control) found(ctx context.Context, known []*record) (list []Found, err error) {
	ids, err := numbers()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		info, err := c.info(ctx, id)
		if errors.Is(err, syscall.ENODEV) {
			continue // it has just gone
		}
		if err != nil {
			return list, err
		}
		list = append(list, foundOf(&info, known))
	}
	return list, nil
}

func foundOf(info *devInfo, known []*record) Found {
	f := Found{ID: int(info.id), Path: blockPath(int(info.id)), State: "unknown", Server: max(int(info.pid), 0), UID: info.uid, GID: info.gid,
		Queues: int(info.queues), Depth: int(info.depth)}
	if int(info.state) < len(kernelStates) {
		f.State = kernelStates[info.state]
	}
	for _, r := range known {
		if r.Token == info.token {
			f.remember(r)
			f.Recoverable = info.flags&flagRecovery != 0 && info.state != stateDead
		}
	}
	return f
}

func (f *Found) remember(r *record) {
	f.Name, f.Volume, f.Identity, f.Size = r.Name, r.Volume, r.Identity, r.Size
}

// Delete stops and removes a device, whoever made it, and forgets it. What uses
// it gets errors. A server that is alive must let go of it: engines do.
func Delete(ctx context.Context, stateDir string, id int) error {
	ctl, err := openControl(ctx, DefaultTimeout, slog.Default())
	if err != nil {
		return err
	}
	defer ctl.close()
	info, err := ctl.info(ctx, id)
	if errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("ublk: there is no device %d (engine ublk list shows which there are): %w", id, err)
	}
	if err != nil {
		return err
	}
	dev := device{ctl, id, info.flags&flagUnprivileged != 0}
	if err := dev.do(ctx, cmdStop, 0); err != nil {
		return err
	}
	if err := dev.do(ctx, cmdDelete, 0); err != nil && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	s := recordsIn(stateDir)
	known, err := s.all()
	for _, r := range known {
		if r.Token == info.token {
			return s.forget(r.Name)
		}
	}
	return err
}

// Forget removes the memory of a device that the kernel does not have any more,
// and of the writes that its engine had not finished when it died: it is for when
// the volume's fence time is over.
func Forget(stateDir, name string) error {
	s := recordsIn(stateDir)
	return errors.Join(s.forget(name), s.forgive(name))
}
