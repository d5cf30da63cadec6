package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/config"
	"blockengine/frontends/ublk"
)

// How long the end may take: clients and servers have drainTime, and then what
// is under way is cut, for which there is closeTime, or cutTime after a second
// signal.
const (
	drainTime = 30 * time.Second
	closeTime = 5 * time.Second
	cutTime   = time.Second
)

func runCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "run", Short: "Serve in the foreground until SIGTERM or SIGINT, then drain", Args: noArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			return serve(file, cmd.OutOrStdout(), cmd.ErrOrStderr())
		})}
	fileFlag(cmd, &file)
	return cmd
}

// serve is the life of an engine.
func serve(file string, stdout, stderr io.Writer) error {
	ownHost := serveOwnHost(file) // first: it may execute the program anew
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // a closed stdout must not end the engine
	log := newLogger(stderr, logLevelOf(file))
	raiseOpenFiles(log)
	if ownHost != nil {
		log.Warn("this host may come to wait for itself when its memory is full of what it has to write: run the engine as root, or give it CAP_SYS_RESOURCE", "err", ownHost)
	}

	// A signal ends the start, too.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	first := make(chan os.Signal, 1)
	go func() {
		s := <-signals
		first <- s
		stop()
	}()
	p, err := preflight(ctx, file, true, func(w config.Problem) { log.Warn(w.Error()) }, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to end, and nothing was served
		}
		return err
	}
	if p.cfg.Engine.LockMemory {
		if err := ublk.LockMemory(); err != nil {
			log.Warn("memory cannot be locked: raise the limit (ulimit -l, LimitMEMLOCK=)", "err", err)
		}
	}
	for _, note := range keptNotes(p.cfg) {
		log.Info(note)
	}
	e, err := start(ctx, p, stdout, log)
	if err != nil {
		p.close()
		return err
	}
	e.follow()
	if ctx.Err() == nil {
		e.sayReady()
		notify("READY=1", log)
	}
	log.Info("draining", "signal", (<-first).String(), "limit", drainTime)
	notify("STOPPING=1", log)
	return e.end(signals)
}

// end drains, until the time is over or a second signal comes.
func (e *engine) end(signals <-chan os.Signal) error {
	ctx, cut := context.WithTimeout(context.Background(), drainTime)
	defer cut()
	drained := make(chan error, 1)
	go func() { drained <- e.drain(ctx) }()
	grace := closeTime
	select {
	case err := <-drained:
		return err
	case s := <-signals:
		cut()
		grace = cutTime
		e.log.Warn("cut short by a second signal", "signal", s.String())
	case <-ctx.Done():
	}
	select {
	case err := <-drained:
		return errors.Join(errNotDrained, err)
	case <-time.After(grace):
		return errNotDrained
	}
}

// serveOwnHost makes an engine whose exports are devices of this host fit to be in
// the way of its dirty pages. It does nothing for others.
func serveOwnHost(file string) error {
	cfg, _ := config.Load(file)
	if cfg == nil || !hasDevices(cfg) {
		return nil
	}
	return ublk.ServeOwnHost()
}

var errNotDrained = errors.New("ended before everything was drained: clients or storage servers did not answer in time")

// logLevelOf reads the level before anything is reported; a file that cannot
// be read is reported later.
func logLevelOf(file string) slog.Level {
	if cfg, _ := config.Load(file); cfg != nil {
		return cfg.Engine.LogLevel
	}
	return slog.LevelInfo
}

// fewFiles is a limit on open files that a host with many exports will meet.
const fewFiles = 4096

// raiseOpenFiles raises the limit on open files as far as the system allows:
// every client and every server's connection is one.
func raiseOpenFiles(log *slog.Logger) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	if err == nil && l.Cur < l.Max {
		l.Cur = l.Max
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
	if err != nil {
		log.Warn("the limit on open files cannot be raised", "err", err)
	} else if l.Cur < fewFiles {
		log.Warn(fmt.Sprintf("only %d files may be open: raise the hard limit (ulimit -Hn, LimitNOFILE=)", l.Cur))
	}
}
