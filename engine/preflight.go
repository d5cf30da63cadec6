package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/pluginhost/builtin"
	"blockengine/engine/pluginhost/process"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
	"blockengine/plugins/nbd"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// plan is a configuration that has been looked at from all sides, with the
// plugins loaded that it names.
type plan struct {
	cfg      *config.Config
	state    *stateDir // held if it is to be served
	registry *pluginhost.Registry
	values   []pluginhost.Values // by volume
}

// preflight finds out, without serving anything, all that is wrong with a
// configuration; the error is config.Problems then, and nothing is held. serve
// says that it will be served: the state directory is made and locked. warn is
// told what was left out of account.
func preflight(ctx context.Context, file string, serve bool, warn func(config.Problem), log *slog.Logger) (*plan, error) {
	cfg, err := config.Load(file)
	var problems config.Problems
	errors.As(err, &problems)
	if cfg == nil {
		return nil, problems
	}
	for _, w := range cfg.Warnings {
		warn(w)
	}
	p := &plan{cfg: cfg}
	problems = append(problems, checkAdmin(cfg)...)
	// Of a file that will not be served nothing is made on disk.
	stateProblems, running := p.takeState(serve && len(problems) == 0)
	problems = append(problems, stateProblems...)
	problems = append(problems, p.load(ctx, log)...)
	if ctx.Err() != nil {
		p.close()
		return nil, ctx.Err()
	}
	problems = append(problems, checkDevices(cfg, ublk.Probe, func() nbdkernel.Report { return nbdkernel.Probe(ctx) })...)
	problems = append(problems, checkFileWays(cfg)...)
	if !running { // else every socket is in use, by that engine
		problems = append(problems, checkSockets(cfg)...)
	}
	if err := problems.Err(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close gives back what the plan holds.
func (p *plan) close() {
	if p.registry != nil {
		_ = p.registry.Close() // nothing runs in it
	}
	if p.state != nil {
		p.state.close()
	}
}

// checkAdmin refuses what the configuration can say and the engine cannot do.
func checkAdmin(cfg *config.Config) config.Problems {
	if cfg.Engine.Admin.Network == "unix" {
		return nil
	}
	return config.Problems{cfg.ProblemAt(cfg.Engine.Place, "admin",
		fmt.Sprintf("%q is no Unix socket, and only there can the engine tell who gives it orders", cfg.Engine.Admin),
		`write "unix:PATH", or leave it out`)}
}

// takeState makes and locks the state directory, or only looks at it. running
// says that another engine has it.
func (p *plan) takeState(lock bool) (problems config.Problems, running bool) {
	var err error
	if lock {
		p.state, err = openStateDir(p.cfg.Engine.StateDir)
	} else {
		err = lookAtStateDir(p.cfg.Engine.StateDir)
	}
	if err == nil {
		return nil, false
	}
	var other *engineRunning
	return config.Problems{problemOf(p.cfg, p.cfg.Engine.Place, "state_dir", p.cfg.Engine.StateDir, err)}, errors.As(err, &other)
}

// problemOf makes a problem of an error about a value of a section.
func problemOf(cfg *config.Config, at config.Place, key, value string, err error) config.Problem {
	what, fix := err.Error(), ""
	var ve *config.ValueError
	if errors.As(err, &ve) {
		what, fix = ve.What, ve.Fix
	}
	return cfg.ProblemAt(at, key, fmt.Sprintf("%q %s", value, what), fix)
}

// builtins are the plugins that are linked in.
func builtins() pluginhost.Builtins {
	return pluginhost.Builtins{
		Stores:    []store.Plugin{builtin.Null(), builtin.Memory(), builtin.File()},
		Protocols: []protocol.Plugin{nbd.Plugin()},
	}
}

// load loads the plugins and checks the volumes' options against them.
func (p *plan) load(ctx context.Context, log *slog.Logger) config.Problems {
	if problems := p.reap(log); len(problems) > 0 {
		return problems
	}
	registry, problems := pluginhost.Load(ctx, p.cfg, pluginhost.Options{
		Builtins: builtins(), CacheDir: p.cacheDir(), Self: []string{"/proc/self/exe", compileName},
		StateDir: p.processDir(), Hide: hidden(p.cfg), Poll: p.cfg.Engine.Poll, Log: log})
	p.registry = registry
	p.values = make([]pluginhost.Values, len(p.cfg.Volumes))
	for i := range p.cfg.Volumes {
		v := &p.cfg.Volumes[i]
		plugin := registry.Find(v.Plugin)
		if plugin == nil {
			continue // reported already
		}
		var more config.Problems
		p.values[i], more = plugin.Check(p.cfg, v)
		problems = append(problems, more...)
	}
	return problems
}

// reap ends the plugin processes that an engine which was killed has left: they
// may still hold writes of it. Nothing may resume before.
func (p *plan) reap(log *slog.Logger) config.Problems {
	if p.state == nil {
		return nil
	}
	if err := sandbox.Reap(p.state.path, log); err != nil {
		return config.Problems{problemOf(p.cfg, p.cfg.Engine.Place, "state_dir", p.state.path,
			&config.ValueError{What: "says that an engine left plugin processes, and they cannot be ended: " + err.Error(),
				Fix: "end them by hand: they may still write to its volumes"})}
	}
	if err := process.CleanUp(p.state.path); err != nil {
		log.Warn("what an engine that was killed has left is not removed", "err", err)
	}
	return nil
}

// processDir is where it is kept which processes plugins have, if they are to
// serve.
func (p *plan) processDir() string {
	if p.state == nil {
		return ""
	}
	return p.state.path
}

// cacheDir is where compiled plugins are kept: in the state directory, or, if
// that is not there, nowhere.
func (p *plan) cacheDir() string {
	dir := p.cfg.Engine.StateDir
	if p.state == nil {
		if _, err := os.Stat(dir); err != nil || checkOwner(dir) != nil {
			return ""
		}
	}
	return filepath.Join(dir, cacheName)
}

// checkSockets tries every address that the configuration listens on, once.
func checkSockets(cfg *config.Config) config.Problems {
	var problems config.Problems
	tried := map[config.Address]bool{}
	try := func(at config.Place, key, text string, a config.Address) {
		if tried[a] || a.Addr == "" {
			return
		}
		tried[a] = true
		if err := canListen(a, cfg.Engine.StateDir); err != nil {
			problems = append(problems, problemOf(cfg, at, key, text, err))
		}
	}
	e := &cfg.Engine
	if e.Admin.Network == "unix" {
		try(e.Place, "admin", e.Admin.String(), e.Admin)
	}
	try(e.Place, "http", e.HTTP, config.Address{Network: "tcp", Addr: e.HTTP})
	for i := range cfg.Exports {
		x := &cfg.Exports[i]
		switch x.Frontend {
		case config.FrontendNBD:
			try(x.Place, "listen", x.Listen.String(), x.Listen)
		case config.FrontendVhostUser:
			try(x.Place, "socket", x.Socket, config.Address{Network: "unix", Addr: x.Socket})
		}
	}
	return problems
}
