package main

import (
	"context"
	"errors"
	"log/slog"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/frontends/nbd"
	"blockengine/frontends/vhostuser"
)

// door is where an export meets its clients.
type door interface {
	addr() string // "unix:PATH", "tcp:HOST:PORT" or "device:PATH"
	// open serves; the volume's disk has been seen. It may take its time: it is
	// called on a goroutine of its own if slow says so.
	open(ctx context.Context, v *volume.Volume) error
	slow() bool
	close(ctx context.Context) error // take the export away from its clients
	use() []string                   // lines that tell a person how to use it
	count(s *seen) (exportCounts, bool)
}

// servers are the frontends that have listeners.
type servers struct {
	nbd       *nbd.Server
	vhostUser *vhostuser.Server
	kernel    *nbd.Listener // of exports that the kernel's NBD driver is given; nil if there are none
}

func newServers(reactors []*reactor.Reactor, log *slog.Logger) servers {
	return servers{
		nbd:       nbd.NewServer(nbd.Options{Reactors: reactors, Log: log}),
		vhostUser: vhostuser.NewServer(vhostuser.Options{Reactors: reactors, Log: log}),
	}
}

func (s *servers) shutdown(ctx context.Context) error {
	return errors.Join(s.nbd.Shutdown(ctx), s.vhostUser.Shutdown(ctx))
}

// place tells exports apart.
type place struct{ addr, name string }

// seen is what the frontends have counted.
type seen struct {
	listeners int
	exports   map[place]exportCounts
}

type exportCounts struct {
	connections int
	requests    *volume.Stats
}

func (s *seen) at(addr, name string) (exportCounts, bool) {
	c, ok := s.exports[place{addr, name}]
	return c, ok
}

func (s *servers) stats() seen {
	n, v := s.nbd.Stats(), s.vhostUser.Stats()
	all := seen{listeners: len(n.Listeners) + len(v.Exports), exports: map[place]exportCounts{}}
	for i := range n.Exports {
		x := &n.Exports[i]
		all.exports[place{x.Listener, x.Name}] = exportCounts{x.Connections, &x.Requests}
	}
	for i := range v.Exports {
		x, connections := &v.Exports[i], 0
		if x.Connected {
			connections = 1
		}
		all.exports[place{x.Listener, x.Name}] = exportCounts{connections, &x.Requests}
	}
	return all
}

// listenExports makes the sockets of all exports.
func (e *engine) listenExports() (problems config.Problems) {
	disks := map[string]*pluginhost.Disk{}
	for _, d := range e.disks {
		disks[d.Config.Name] = d
	}
	listeners := map[config.Address]*nbd.Listener{}
	for _, x := range e.cfg.Exports {
		d, problem := e.makeDoor(x, listeners)
		if problem != nil {
			problems = append(problems, *problem)
		}
		if d != nil {
			e.exports = append(e.exports, &export{cfg: x, disk: disks[x.Volume], door: d})
		}
	}
	return problems
}

// makeDoor makes what an export's frontend wants to have beforehand.
func (e *engine) makeDoor(x config.Export, listeners map[config.Address]*nbd.Listener) (door, *config.Problem) {
	switch x.Frontend {
	case config.FrontendVhostUser:
		return e.vhostUserDoor(x)
	case config.FrontendUblk:
		return e.ublkDoor(x), nil
	case config.FrontendNBDKernel:
		return e.nbdKernelDoor(x)
	}
	return e.nbdDoor(x, listeners)
}

// nbdDoor joins a listener or makes it. Nothing comes back where the listener
// could not be had for another export.
func (e *engine) nbdDoor(x config.Export, listeners map[config.Address]*nbd.Listener) (door, *config.Problem) {
	l, tried := listeners[x.Listen]
	if !tried {
		var err error
		l, err = e.servers.nbd.Listen(x.Listen.Network, x.Listen.Addr)
		listeners[x.Listen] = l // nil: reported, not tried again
		if err != nil {
			p := problemOf(e.cfg, x.Place, "listen", x.Listen.String(), listenError(err))
			return nil, &p
		}
		if !x.Listen.Loopback() {
			e.log.Warn("exports can be used by everybody who reaches this address", "listen", x.Listen.String())
		}
	}
	if l == nil {
		return nil, nil
	}
	return &nbdDoor{l, x}, nil
}

func (e *engine) vhostUserDoor(x config.Export) (door, *config.Problem) {
	key, path, meet := "socket", x.Socket, e.servers.vhostUser.Listen
	if x.Connect != "" {
		key, path, meet = "connect", x.Connect, e.servers.vhostUser.Connect
	}
	l, err := meet(path)
	if err != nil {
		p := problemOf(e.cfg, x.Place, key, path, listenError(err))
		return nil, &p
	}
	return &vhostUserDoor{l, x}, nil
}

// nbdDoor is an NBD export.
type nbdDoor struct {
	listener *nbd.Listener
	cfg      config.Export
}

func (d *nbdDoor) addr() string { return d.listener.Addr() }

func (d *nbdDoor) slow() bool { return false }

func (d *nbdDoor) open(_ context.Context, v *volume.Volume) error {
	return d.listener.Add(nbd.Export{Name: d.cfg.Name, Description: d.cfg.Description, Volume: v, ReadOnly: d.cfg.ReadOnly})
}

func (d *nbdDoor) close(ctx context.Context) error { return d.listener.Remove(ctx, d.cfg.Name) }

func (d *nbdDoor) count(s *seen) (exportCounts, bool) { return s.at(d.addr(), d.cfg.Name) }

func (d *nbdDoor) use() []string { return nbdClients(addressOf(d.addr()), d.cfg.Name) }

// vhostUserDoor is a virtual machine's disk.
type vhostUserDoor struct {
	listener *vhostuser.Listener
	cfg      config.Export
}

func (d *vhostUserDoor) addr() string { return d.listener.Addr() }

func (d *vhostUserDoor) slow() bool { return false }

func (d *vhostUserDoor) open(_ context.Context, v *volume.Volume) error {
	serial := d.cfg.Serial
	if serial == "" {
		serial = d.cfg.Name[:min(len(d.cfg.Name), config.MaxSerial)]
	}
	return d.listener.Start(vhostuser.Export{Name: d.cfg.Name, Volume: v, ReadOnly: d.cfg.ReadOnly,
		Queues: d.cfg.Queues, Serial: serial})
}

func (d *vhostUserDoor) close(ctx context.Context) error { return d.listener.Remove(ctx) }

func (d *vhostUserDoor) count(s *seen) (exportCounts, bool) { return s.at(d.addr(), d.cfg.Name) }

func (d *vhostUserDoor) use() []string { return vhostUserClients(d.cfg) }
