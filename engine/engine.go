package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/metrics"
	"blockengine/engine/pluginhost"
	"blockengine/engine/reactor"
)

// engine is a plan that is served.
type engine struct {
	*plan
	log     *slog.Logger
	output  chan string // see print
	started time.Time

	reactors []*reactor.Reactor
	disks    []*pluginhost.Disk // as the volumes in the configuration
	servers  servers
	exports  []*export
	admin    *admin.Server
	http     *http.Server
	sampler  sampler
	orders   orders

	changed  chan struct{} // a volume has changed; holds one
	quit     chan struct{} // closed when no export is to come up any more
	watching sync.WaitGroup
	opened   context.Context // of slow doors; ends when no export is to come up any more
	stopOpen context.CancelFunc
	openings sync.WaitGroup
	draining atomic.Bool
}

// goroutines is how many threads' worth of the Go scheduler is kept for what
// does not run on reactors (DESIGN chapter 2).
const goroutines = 4

// start builds the engine up to the point where clients can come, and waits for
// its volumes for as long as ready may have to wait. If it fails nothing is
// left running; what is wrong with the configuration's sockets is reported as
// config.Problems.
func start(ctx context.Context, p *plan, stdout io.Writer, log *slog.Logger) (*engine, error) {
	e := &engine{plan: p, log: log, started: time.Now(),
		changed: make(chan struct{}, 1), quit: make(chan struct{})}
	e.opened, e.stopOpen = context.WithCancel(context.Background())
	e.sampler.collect = e.collect
	e.print(stdout)
	if err := e.startReactors(); err != nil {
		e.stopReactors()
		return nil, err
	}
	e.servers = newServers(e.reactors, log)
	err := e.makeDisks()
	if err == nil {
		err = e.takeOrders()
	}
	if err == nil {
		err = e.listen()
	}
	if err == nil {
		err = e.openDisks(ctx)
	}
	if err != nil {
		e.abandon()
		return nil, err
	}
	return e, nil
}

func (e *engine) startReactors() error {
	n := e.cfg.Engine.Reactors
	if n == 0 {
		n = runtime.NumCPU()
	}
	if runtime.GOMAXPROCS(0) < n+goroutines {
		runtime.GOMAXPROCS(n + goroutines)
	}
	for i := range n {
		r, err := reactor.New(reactor.Options{Index: i, Spin: e.cfg.Engine.Poll})
		if err != nil {
			return err
		}
		r.Start()
		e.reactors = append(e.reactors, r)
	}
	return nil
}

func (e *engine) stopReactors() {
	for _, r := range e.reactors {
		r.Stop()
	}
}

// makeDisks makes the volumes, closed as yet. Protocol plugins' first
// connections are spread over the reactors.
func (e *engine) makeDisks() error {
	id, err := pluginhost.LoadIdentity(e.state.path)
	if err != nil {
		return err
	}
	sessions := 0
	for i, v := range e.cfg.Volumes {
		plugin := e.registry.Find(v.Plugin)
		home := e.reactors[sessions%len(e.reactors)]
		if plugin.Upgradable() { // it stands on a session
			sessions++
		}
		e.disks = append(e.disks, pluginhost.NewDisk(pluginhost.DiskOptions{
			Config: v, Plugin: plugin, Values: e.values[i], Identity: id,
			Reactors: e.reactors, Home: home, Log: e.log}))
	}
	return nil
}

// openDisks opens the volumes and brings their exports up. Those whose storage
// server is this engine come when the others, on which they may stand, have had
// their time.
func (e *engine) openDisks(ctx context.Context) error {
	e.watch()
	var own, others []*pluginhost.Disk
	for _, d := range e.disks {
		if e.isOwnClient(d) {
			own = append(own, d)
		} else {
			others = append(others, d)
		}
	}
	err := startAll(others)
	if err == nil && len(own) > 0 {
		e.settle(ctx, ownPatience, func(x *export) bool { return !slices.Contains(own, x.disk) })
		err = startAll(own)
	}
	if err == nil {
		e.settle(ctx, readyPatience, func(*export) bool { return true })
	}
	return err
}

func startAll(disks []*pluginhost.Disk) error {
	for _, d := range disks {
		if err := d.Start(); err != nil {
			return err
		}
	}
	return nil
}

// listen makes every socket. The error is config.Problems, with all of those
// that could not be had since preflight looked at them.
func (e *engine) listen() error {
	problems := e.listenExports()
	problems = append(problems, e.listenAdmin()...)
	problems = append(problems, e.listenHTTP()...)
	return problems.Err()
}

func (e *engine) listenAdmin() config.Problems {
	a := e.cfg.Engine.Admin
	err := removeStale(a.Addr)
	var l net.Listener
	if err == nil {
		l, err = admin.Listen(a.Addr)
	}
	if err != nil {
		return config.Problems{problemOf(e.cfg, e.cfg.Engine.Place, "admin", a.String(), asListenError(err))}
	}
	e.admin = admin.Serve(l, e, e.log)
	return nil
}

// asListenError keeps what is a *config.ValueError already.
func asListenError(err error) error {
	var ve *config.ValueError
	if errors.As(err, &ve) {
		return err
	}
	return listenError(err)
}

// Limits on who asks for metrics.
const (
	httpHeaderTimeout = 5 * time.Second
	httpTimeout       = 30 * time.Second
	httpIdle          = 2 * time.Minute
	httpMaxHeader     = 16 << 10 // bytes
)

func (e *engine) listenHTTP() config.Problems {
	addr := e.cfg.Engine.HTTP
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return config.Problems{problemOf(e.cfg, e.cfg.Engine.Place, "http", addr, listenError(err))}
	}
	e.http = &http.Server{
		Handler:           metrics.Handler(metrics.Options{Version: version, Snapshot: e.sampler.get, Log: e.log}),
		ReadHeaderTimeout: httpHeaderTimeout, ReadTimeout: httpTimeout, WriteTimeout: httpTimeout,
		IdleTimeout: httpIdle, MaxHeaderBytes: httpMaxHeader,
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug)}
	if a := (config.Address{Network: "tcp", Addr: addr}); !a.Loopback() {
		e.log.Warn("names and figures of volumes can be read by everybody who reaches this address", "http", addr)
	}
	e.log.Info("metrics and health", "url", fmt.Sprintf("http://%s/", l.Addr()))
	go func() {
		if err := e.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			e.log.Error("the metrics listener has failed: restart the engine to use it again", "addr", addr, "err", err)
		}
	}()
	return nil
}
