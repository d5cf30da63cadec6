package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/volume"
	"blockengine/frontends/nbd"
	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
)

// deviceNetwork begins the address of an export that is a device of this host.
const deviceNetwork = "device"

// deviceDoor is a door that makes a device of this host.
type deviceDoor interface {
	door
	// device says how it stands; ok is false while there is none.
	device() (d admin.Device, ok bool)
}

// device gives the device of an export that is one.
func (x *export) device() (admin.Device, bool) {
	if d, ok := x.door.(deviceDoor); ok {
		return d.device()
	}
	return admin.Device{}, false
}

// usable tells whether clients can use the export: a device may have been taken
// away by somebody else since it came up.
func (x *export) usable() bool {
	d, ok := x.device()
	return x.up.Load() && (!ok || d.State == "serving")
}

// deviceAddr is the address of a device; "any" while it has no number yet.
func deviceAddr(path, prefix string, number int) string {
	switch {
	case path != "":
		return deviceNetwork + ":" + path
	case number == config.AnyDevice:
		return deviceNetwork + ":any"
	}
	return fmt.Sprintf("%s:%s%d", deviceNetwork, prefix, number)
}

// deviceUse gives commands that use a device.
func deviceUse(path string, readOnly bool) []string {
	if readOnly {
		return []string{"mount -o ro " + path + " /mnt"}
	}
	return []string{"mkfs.ext4 " + path + " && mount " + path + " /mnt"}
}

// ublkDoor is an export that the kernel's ublk driver makes a device of.
type ublkDoor struct {
	e   *engine
	cfg config.Export
	dev atomic.Pointer[ublk.Device]
}

func (e *engine) ublkDoor(x config.Export) *ublkDoor { return &ublkDoor{e: e, cfg: x} }

func (d *ublkDoor) path() string {
	if dev := d.dev.Load(); dev != nil {
		return dev.Path()
	}
	return ""
}

func (d *ublkDoor) addr() string { return deviceAddr(d.path(), "/dev/ublkb", d.cfg.Device) }

func (d *ublkDoor) slow() bool { return true }

var ublkRecovery = map[config.Recovery]ublk.Recovery{
	config.RecoveryReissue: ublk.Reissue, config.RecoveryFail: ublk.FailIO, config.RecoveryNone: ublk.None,
}

var ublkCopy = map[config.Copy]ublk.Copy{
	config.CopyAuto: ublk.CopyAuto, config.CopyKernel: ublk.CopyKernel, config.CopyGetData: ublk.CopyGetData, config.CopyUser: ublk.CopyUser,
	config.CopyZero: ublk.CopyZero,
}

func (d *ublkDoor) open(ctx context.Context, v *volume.Volume) error {
	x := &d.cfg
	dev, err := ublk.Open(ctx, ublk.Options{Name: x.Name, Volume: v, ReadOnly: x.ReadOnly, ID: x.Device, Queues: x.Queues,
		Depth: x.Depth, MaxIO: int(x.MaxIO), Recovery: ublkRecovery[x.Recovery], Unprivileged: x.Unprivileged,
		Copy: ublkCopy[x.Copy], Buffers: int(x.Buffers),
		StateDir: d.e.state.path, Reactors: d.e.reactors, Log: d.e.log})
	if err == nil {
		d.dev.Store(dev)
	}
	return err
}

// close is the end of the engine: the device stays for the next one, if it is to.
func (d *ublkDoor) close(ctx context.Context) error {
	dev := d.dev.Load()
	if d.cfg.OnStop == config.OnStopRemove {
		return dev.Close(ctx)
	}
	return dev.Leave(ctx)
}

func (d *ublkDoor) use() []string { return deviceUse(d.path(), d.cfg.ReadOnly) }

func (d *ublkDoor) count(*seen) (exportCounts, bool) {
	dev := d.dev.Load()
	if dev == nil {
		return exportCounts{}, false
	}
	s := dev.Status()
	c := exportCounts{requests: &s.Requests}
	if s.State == ublk.Serving {
		c.connections = 1
	}
	return c, true
}

func (d *ublkDoor) device() (admin.Device, bool) {
	dev := d.dev.Load()
	if dev == nil {
		return admin.Device{}, false
	}
	s := dev.Status()
	return admin.Device{Path: s.Path, State: s.State.String(), Problem: s.Problem, Recovered: s.Recovered, Size: s.Size,
		Queues: s.Queues, Depth: s.Depth, Again: s.Again}, true
}

// nbdKernelDoor is an export that the kernel's NBD driver makes a device of. The
// driver is a client of our own NBD server.
type nbdKernelDoor struct {
	e        *engine
	cfg      config.Export
	listener *nbd.Listener
	dev      atomic.Pointer[nbdkernel.Device]
}

// nbdKernelDoor makes the listener for the driver, which these exports share.
func (e *engine) nbdKernelDoor(x config.Export) (door, *config.Problem) {
	if e.servers.kernel == nil {
		a := e.cfg.NBDKernelSocket()
		l, err := e.servers.nbd.Listen(a.Network, a.Addr)
		if err != nil {
			p := problemOf(e.cfg, x.Place, "frontend", a.String(), listenError(err))
			return nil, &p
		}
		e.servers.kernel = l
	}
	return &nbdKernelDoor{e: e, cfg: x, listener: e.servers.kernel}, nil
}

func (d *nbdKernelDoor) path() string {
	if dev := d.dev.Load(); dev != nil {
		return dev.Path()
	}
	return ""
}

func (d *nbdKernelDoor) addr() string { return deviceAddr(d.path(), "/dev/nbd", d.cfg.Device) }

func (d *nbdKernelDoor) slow() bool { return true }

func (d *nbdKernelDoor) open(ctx context.Context, v *volume.Volume) error {
	x := &d.cfg
	if err := d.listener.Add(nbd.Export{Name: x.Name, Volume: v, ReadOnly: x.ReadOnly}); err != nil {
		return err
	}
	dev, err := nbdkernel.Open(ctx, nbdkernel.Options{Name: x.Name, Volume: v, Server: d.e.cfg.NBDKernelSocket().Addr,
		Number: x.Device, Connections: x.Connections, DeadConnTimeout: x.DeadConnTimeout, RequestTimeout: x.RequestTimeout,
		StateDir: d.e.state.path, Log: d.e.log})
	if err != nil {
		return errors.Join(err, d.listener.Remove(ctx, x.Name)) // somebody may order another try
	}
	d.dev.Store(dev)
	return nil
}

// close is the end of the engine. The driver's requests that have arrived are
// answered in either case.
func (d *nbdKernelDoor) close(ctx context.Context) error {
	dev := d.dev.Load()
	var err error
	if d.cfg.OnStop == config.OnStopRemove {
		err = dev.Close(ctx)
	} else {
		dev.Leave()
	}
	return errors.Join(err, d.listener.Remove(ctx, d.cfg.Name))
}

func (d *nbdKernelDoor) use() []string { return deviceUse(d.path(), d.cfg.ReadOnly) }

func (d *nbdKernelDoor) count(s *seen) (exportCounts, bool) {
	return s.at(d.listener.Addr(), d.cfg.Name)
}

func (d *nbdKernelDoor) device() (admin.Device, bool) {
	dev := d.dev.Load()
	if dev == nil {
		return admin.Device{}, false
	}
	s := dev.Status()
	return admin.Device{Path: s.Path, State: s.State.String(), Problem: s.Problem, Recovered: s.Recovered, Size: s.Size,
		Queues: d.cfg.Connections, Reconnects: s.Reconnects}, true
}
