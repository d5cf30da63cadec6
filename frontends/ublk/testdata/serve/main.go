// Command serve is the smallest engine with a ublk device, for tests in a virtual
// machine: one volume on a builtin store. SIGTERM leaves the device for the next
// one, SIGUSR1 removes it. It prints a line that begins with "ready" when the
// device can be used.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"blockengine/engine/pluginhost/builtin"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/frontends/ublk"
	"blockengine/sdk/store"
)

var (
	state    = flag.String("state", "/run/engine", "state directory")
	name     = flag.String("name", "disk", "export and volume")
	kind     = flag.String("store", "null", "null, memory or file")
	path     = flag.String("path", "/run/disk", "of the file")
	size     = flag.Uint64("size", 1<<30, "bytes; 0: that of the file")
	queues   = flag.Int("queues", 1, "")
	depth    = flag.Int("depth", 64, "")
	maxIO    = flag.Int("max-io", 0, "bytes")
	id       = flag.Int("id", ublk.AnyID, "device number")
	recovery = flag.Int("recovery", 0, "0 reissue, 1 fail-io, 2 none")
	way      = flag.Int("copy", 0, "0 auto, 1 kernel, 2 get-data, 3 user, 4 zero")
	io       = flag.String("io", "", "of the file: auto, threads or io_uring")
	direct   = flag.Bool("direct", false, "past the page cache")
	buffers  = flag.Int("buffers", 0, "bytes of a queue that requests share")
	readOnly = flag.Bool("read-only", false, "")
	spin     = flag.Duration("poll", 20*time.Microsecond, "")
	reactors = flag.Int("reactors", 2, "")
	flusher  = flag.Bool("flusher", false, "serve the own host")
	step     = flag.String("die-at", "", "step at which it kills itself")
	cancel   = flag.String("cancel-at", "", "step at which making or taking over is called off, and then tried again")
	later    = flag.Bool("later", false, "not before SIGUSR2")
	list     = flag.Bool("list", false, "list devices and end")
	remove   = flag.Int("delete", -1, "delete a device and end")
	hush     = flag.Int("quiesce", -1, "quiesce a device and end")
	probe    = flag.Bool("probe", false, "say what there is and end")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx := context.Background()
	switch {
	case *probe:
		fmt.Printf("%+v\n", ublk.Probe())
		return nil
	case *list:
		all, err := ublk.List(ctx, *state)
		for _, f := range all {
			fmt.Printf("%+v\n", f)
		}
		return err
	case *remove >= 0:
		return ublk.Delete(ctx, *state, *remove)
	case *hush >= 0:
		return quiesce(*hush)
	}
	if *flusher {
		if err := ublk.ServeOwnHost(); err != nil {
			return err
		}
		if err := ublk.LockMemory(); err != nil {
			return err
		}
	}
	arm()
	began := time.Now()
	var rs []*reactor.Reactor
	for i := range *reactors {
		r, err := reactor.New(reactor.Options{Index: i, Spin: *spin})
		if err != nil {
			return err
		}
		r.Start()
		rs = append(rs, r)
	}
	v, err := open(ctx, rs)
	if err != nil {
		return err
	}
	o := ublk.Options{Name: *name, Volume: v, ReadOnly: *readOnly, ID: *id, Queues: *queues, Depth: *depth,
		MaxIO: *maxIO, Recovery: ublk.Recovery(*recovery), Copy: ublk.Copy(*way), Buffers: *buffers, StateDir: *state, Reactors: rs}
	if *cancel != "" {
		if err := calledOff(ctx, o); err != nil {
			return err
		}
	}
	d, err := ublk.Open(ctx, o)
	if err != nil {
		return err
	}
	fmt.Printf("ready %s after %v: %s\n", d.Path(), time.Since(began), short(d.Status()))
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGUSR1)
	s := <-end
	fmt.Printf("status %s\n", short(d.Status()))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if s == syscall.SIGUSR1 {
		err = d.Close(ctx)
	} else {
		err = d.Leave(ctx)
	}
	if err != nil {
		return err
	}
	return v.Close(ctx)
}

func open(ctx context.Context, rs []*reactor.Reactor) (*volume.Volume, error) {
	plugin := map[string]store.Plugin{"null": builtin.Null(), "memory": builtin.Memory(), "file": builtin.File()}[*kind]
	o := store.Options{Volume: *name, ReadOnly: *readOnly,
		Strings: map[string]string{"path": *path}, Sizes: map[string]uint64{"size": *size}, Bools: map[string]bool{"direct": *direct}}
	if *io != "" {
		o.Strings["io"] = *io
	}
	if *size == 0 {
		delete(o.Sizes, "size")
	}
	dev, err := plugin.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	v := volume.New(volume.Options{Name: *name, Reactors: rs, Log: slog.Default()})
	return v, v.Attach(volume.Store(dev), dev.Info())
}

// calledOff opens a device and calls that off at a step.
func calledOff(ctx context.Context, o ublk.Options) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	ublk.Failpoint = func(now ublk.Step) {
		if now.String() == *cancel {
			end()
		}
	}
	defer func() { ublk.Failpoint = nil }()
	if _, err := ublk.Open(ctx, o); err == nil {
		return fmt.Errorf("nothing was called off at %q", *cancel)
	} else {
		fmt.Println("called off:", err)
	}
	return nil
}

// arm has the process kill itself at a step: the next time that it comes there, or
// the next time after a SIGUSR2 with -later.
func arm() {
	var armed atomic.Bool
	armed.Store(!*later)
	if *later {
		order := make(chan os.Signal, 1)
		signal.Notify(order, syscall.SIGUSR2)
		go func() {
			<-order
			armed.Store(true)
			fmt.Println("armed")
		}()
	}
	for s := range ublk.Step(ublk.Steps) {
		if s.String() == *step {
			ublk.Failpoint = func(now ublk.Step) {
				if now == s && armed.Load() {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
			}
		}
	}
}
