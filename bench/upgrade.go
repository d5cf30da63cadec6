package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"blockengine/internal/nbdload"
)

// upgradeCase is a way to replace the nbd plugin in front of a server while a
// client hammers the volume.
type upgradeCase struct {
	server string // in upgradeServers
	method string // as the engine calls it, or compiling
}

// compiling is the case whose upgrades are to builds that were never compiled.
const compiling = "compiling"

// upgradeCases in the order of the table. A server that admits one client has no
// second session.
var upgradeCases = []upgradeCase{
	{"nbdkit, memory", "handover"}, {"nbdkit, memory", "second-session"}, {"nbdkit, memory", "serial"},
	{"qemu-nbd, one client", "handover"}, {"qemu-nbd, one client", "serial"},
	{"nbdkit, memory", compiling},
}

// name is what -run matches: "upgrade nbdkit, memory handover".
func (c upgradeCase) name() string { return "upgrade " + c.server + " " + c.method }

// upgradeServers stand behind the engine that is upgraded.
var upgradeServers = map[string]func(context.Context, place) (*instance, error){
	"nbdkit, memory":       nbdkit("memory", strconv.Itoa(diskSize)),
	"qemu-nbd, one client": qemuNBD,
}

// qemuNBD serves a file on tmpfs, to one client at a time as is its default.
func qemuNBD(ctx context.Context, at place) (*instance, error) {
	file, err := sparseFile(at.dir)
	if err != nil {
		return nil, err
	}
	return serve(ctx, at, "qemu-nbd", "--persistent", "--socket="+at.socket(), "--export-name=disk", "--format=raw", file)
}

// The client's load.
const (
	upgradeConnections = 2
	upgradeDepth       = 32
	upgradeReads       = 70 // percent
)

// Times of a cycle: an upgrade, then as long without one.
const (
	upgradeAfter   = 200 * time.Millisecond // that still belongs to an upgrade
	upgradeBetween = 100 * time.Millisecond
	upgradeSecond  = time.Second // over which throughput is compared
	compileQuiet   = 3 * time.Second
	upgradeTimeout = 3 * time.Minute // for one: compiling takes what the load leaves over
)

// upgrader replaces the plugin with the one in a file, and says how that went.
type upgrader func(ctx context.Context, file string) (upgradeNews, error)

// upgradeRun is one case under way.
type upgradeRun struct {
	load    *nbdload.Load
	upgrade upgrader
	windows []upgradeWindow
}

// upgradeWindow is an upgrade and the quiet times around it, on the load's clock.
type upgradeWindow struct {
	from, ended   time.Duration // of the command
	to            time.Duration // end of the quiet time before the next
	quiet         time.Duration // start of the quiet time after it
	before        time.Duration // start of the quiet time before it
	news          upgradeNews
	compiledAfter time.Duration // from the start of the command
}

// upgrades runs the wanted cases.
func (r *run) upgrades(ctx context.Context) []upgradeRow {
	var rows []upgradeRow
	var files []string
	for _, c := range upgradeCases {
		if !r.settings.only.MatchString(c.name()) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintln(os.Stderr, c.name())
		var err error
		if files == nil {
			files, err = buildPlugins(ctx, r.dir, r.settings.compiles)
		}
		row := upgradeRow{Server: c.server, Method: c.method}
		if err == nil {
			err = r.upgradeCase(ctx, c, files, &row)
		}
		if err != nil {
			row.Failed, row.Missing = err.Error(), errors.Is(err, errMissing)
		}
		rows = append(rows, row)
	}
	return rows
}

// upgradeCase has a server and an engine of its own. files are the two builds
// that take turns and those that are only compiled once.
func (r *run) upgradeCase(ctx context.Context, c upgradeCase, files []string, row *upgradeRow) error {
	in, stop, err := r.upgradeEngine(ctx, c.server, files[0])
	if err != nil {
		return err
	}
	defer stop()
	method := c.method
	if method == compiling {
		method = "handover"
	}
	u := &upgradeRun{upgrade: in.upgrader(r.settings.engine, method)}
	// Both builds are compiled before anything is measured.
	for _, file := range []string{files[1], files[0]} {
		if _, err := u.upgrade(ctx, file); err != nil {
			return err
		}
	}
	if c.method == compiling {
		return u.measure(ctx, in.socket, files[2:], compileQuiet, row)
	}
	turns := make([]string, r.settings.upgrades)
	for i := range turns {
		turns[i] = files[(i+1)%2]
	}
	return u.measure(ctx, in.socket, turns, upgradeSecond, row)
}

// upgradeInstance is an engine with the plugin in a file.
type upgradeInstance struct {
	*instance
	config string
}

// upgradeEngine starts a server and an engine before it. stop ends both.
func (r *run) upgradeEngine(ctx context.Context, server, wasm string) (in *upgradeInstance, stop func(), err error) {
	back, err := r.place(ctx, false, false)
	if err != nil {
		return nil, nil, err
	}
	backing, err := upgradeServers[server](ctx, back)
	if err != nil {
		return nil, nil, err
	}
	at, err := r.place(ctx, false, false)
	if err != nil {
		backing.stop()
		return nil, nil, err
	}
	own := *r.settings
	own.wasm = wasm
	at.settings, at.backing = &own, backing.socket
	e, err := startEngine(ctx, at, engineConfig{volumes: []volumeConfig{{name: "disk", plugin: "nbdwasm"}}})
	if err != nil {
		backing.stop()
		return nil, nil, err
	}
	return &upgradeInstance{e, filepath.Join(at.dir, "engine.toml")}, func() { e.stop(); backing.stop() }, nil
}

// measure puts the load on a socket and upgrades to one file after the other,
// with at least quiet between.
func (u *upgradeRun) measure(ctx context.Context, socket string, files []string, quiet time.Duration, row *upgradeRow) error {
	// The client's threads wait in the kernel: none of them may wait for another.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.NumCPU(), upgradeConnections+4)))
	load, err := nbdload.Start(ctx, nbdload.Options{Network: "unix", Addr: socket, Export: "disk",
		Connections: upgradeConnections, Depth: upgradeDepth, ReadPercent: upgradeReads,
		Run: min(nbdload.MaxRun, time.Minute+time.Duration(len(files))*(15*time.Second+3*quiet))})
	if err != nil {
		return err
	}
	u.load = load
	err = u.cycles(ctx, files, quiet)
	result, loadErr := load.Stop()
	row.fill(result, u.windows)
	return errors.Join(err, loadErr, result.Bad())
}

// cycles upgrades, again and again.
func (u *upgradeRun) cycles(ctx context.Context, files []string, quiet time.Duration) error {
	if err := sleep(ctx, upgradeBetween); err != nil {
		return err
	}
	before := u.load.Now()
	if err := u.sleep(ctx, quiet); err != nil {
		return err
	}
	for _, file := range files {
		w := upgradeWindow{before: before, from: u.load.Now()}
		begun := time.Now()
		news, err := u.upgrade(ctx, file)
		if err != nil {
			return err
		}
		w.ended, w.news, w.compiledAfter = u.load.Now(), news, news.loaded.Sub(begun)
		// The second of an upgrade begins with the command, or ends soon after it.
		w.quiet = max(w.from+upgradeSecond, w.ended+upgradeAfter) + upgradeBetween
		w.to = w.quiet + max(quiet, w.ended+upgradeAfter-w.from)
		if err := u.sleep(ctx, w.to-u.load.Now()+upgradeBetween); err != nil {
			return err
		}
		before = w.quiet
		u.windows = append(u.windows, w)
	}
	return nil
}

// sleep is cut short by the end of the load, which nobody has asked for.
func (u *upgradeRun) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-u.load.Done():
		return errors.New("the client's load has ended before its time")
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
