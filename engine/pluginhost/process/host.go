package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"blockengine/engine/pluginhost/sandbox"
	"blockengine/sdk/manifest"
	calls "blockengine/sdk/process/control"
)

// host keeps one process of a plugin running as long as somebody wants it: it
// serves all volumes on that version of the plugin.
type host struct {
	opt      Options
	log      *slog.Logger
	program  *program
	scratch  string // in the place of a state directory, "" if there is one
	words    *words
	life     chan struct{}  // closed with Close
	said     calls.Manifest // as the first process gave it; every other has to give the same
	manifest manifest.Manifest
	payloads payloads

	mu       sync.Mutex // guards what follows; proc.mu is not taken under it
	current  *proc      // that serves, nil if none does
	start    *start     // under way, nil if none is
	policy   policy
	restarts uint64
	lastEnd  string // how the last process ended that nobody wanted to end
	numbers  uint64 // given to channels and devices so far
	users    int    // links and instances, from before they are made
	closed   bool
	freed    bool
}

// start is the start of a process that several may wait for.
type start struct {
	done chan struct{}
	proc *proc // after done
	err  error
}

// Loaded is a plugin that runs in processes: a protocol plugin or a store.
type Loaded struct{ host *host }

// Load reads a plugin's file, starts its process and asks it for its manifest.
// It takes some tens of milliseconds: call it off the data path. ctx bounds it.
func Load(ctx context.Context, o Options) (*Loaded, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p, err := openProgram(o.Path, o.SHA256)
	if err != nil {
		return nil, err
	}
	scratch := ""
	if o.StateDir == "" {
		if scratch, err = os.MkdirTemp("", "engine-plugin"); err != nil {
			return nil, errors.Join(err, p.close())
		}
		o.StateDir = scratch
	}
	h := &host{opt: o, program: p, scratch: scratch, policy: newPolicy(), life: make(chan struct{}),
		log: o.Log.With("plugin_file", o.Path)}
	h.words = newWords(h.log)
	up := make(chan error, 1)
	go func() { up <- h.first() }()
	select {
	case err = <-up:
	case <-ctx.Done():
		go func() { // the file is in use until it has come up or failed
			if <-up == nil {
				_ = h.Close()
			}
		}()
		return nil, fmt.Errorf("load plugin %s: %w", o.Path, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", o.Path, err)
	}
	return &Loaded{h}, nil
}

// first starts the first process, which says what all of them are. When that
// fails the host is of no use any more.
func (h *host) first() error {
	p, m, err := startProc(h)
	if err != nil {
		return errors.Join(err, h.discard())
	}
	if h.manifest, err = readManifest(m); err == nil && h.opt.GuestMemory && m.Kind == calls.Protocol {
		err = ErrNoPayload
	}
	if err != nil {
		p.kill(errUnloaded)
		<-p.gone
		return errors.Join(err, h.discard())
	}
	h.said = *m
	h.mu.Lock()
	h.serve(p)
	h.mu.Unlock()
	return nil
}

// serve makes p the process that serves. h.mu is held.
func (h *host) serve(p *proc) {
	p.mu.Lock()
	over := p.end != nil
	p.ready = time.Now()
	p.mu.Unlock()
	if !over {
		h.current = p
		go p.mind()
	}
}

// process gives the process that serves, and starts one if there is none. It
// waits, until ctx ends.
func (h *host) process(ctx context.Context) (*proc, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, errUnloaded
	}
	if p := h.current; p != nil {
		h.mu.Unlock()
		return p, nil
	}
	s, err := h.begin()
	if err != nil {
		h.mu.Unlock()
		return nil, err
	}
	h.mu.Unlock()
	select {
	case <-s.done:
		return s.proc, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("plugin %q: its process is being started: %w", h.opt.Name, context.Cause(ctx))
	}
}

// begin begins to start a process, if that is not under way. h.mu is held.
func (h *host) begin() (*start, error) {
	if h.start != nil {
		return h.start, nil
	}
	wait, err := h.policy.admit(time.Now())
	if err != nil {
		return nil, fmt.Errorf("plugin %q: %w", h.opt.Name, err)
	}
	h.start = &start{done: make(chan struct{})}
	go h.restart(h.start, wait)
	return h.start, nil
}

// restart starts a process in the place of one that has died.
func (h *host) restart(s *start, wait time.Duration) {
	select {
	case <-time.After(wait):
	case <-h.life:
		s.err = errUnloaded
		close(s.done)
		return
	}
	p, m, err := startProc(h)
	if err == nil && !reflect.DeepEqual(*m, h.said) {
		err = fmt.Errorf("its process shows another manifest than the one before")
		p.kill(err)
		<-p.gone
	}
	h.mu.Lock()
	h.start = nil
	switch {
	case err != nil:
		err = fmt.Errorf("plugin %q: %w", h.opt.Name, err)
		h.notes(h.policy.died(time.Now(), 0, err.Error()), err)
	case h.closed:
		err = errUnloaded
	default:
		h.restarts++
		h.serve(p)
		h.log.Info("the plugin has a new process", "pid", p.pid, "took", time.Since(p.since).Round(time.Millisecond))
	}
	h.mu.Unlock()
	if errors.Is(err, errUnloaded) && p != nil {
		p.kill(err)
		<-p.gone
	}
	s.proc, s.err = p, err
	close(s.done)
}

// died notes that a process has ended. Whoever wants one gets another.
func (h *host) died(p *proc, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.mu.Lock()
	p.end = why
	ready := p.ready
	p.mu.Unlock()
	if h.current != p {
		return // it never served, or nobody needs it
	}
	h.current = nil
	if errors.Is(why, errUnloaded) {
		return
	}
	lived := time.Since(ready)
	h.lastEnd = why.Error()
	h.log.Error("the plugin's process has ended", "pid", p.pid, "err", why, "lived", lived.Round(time.Millisecond))
	h.notes(h.policy.died(time.Now(), lived, why.Error()), why)
	if h.users > 0 && !h.closed {
		_, _ = h.begin() // they will want another; who asks is told what is wrong
	}
}

// notes tells that the plugin is left alone. h.mu is held.
func (h *host) notes(leftAlone bool, why error) {
	if leftAlone {
		h.log.Error("the plugin's process dies again and again: it is left alone for a while",
			"deaths", h.policy.budget, "within", h.policy.window, "for", h.policy.penalty, "err", why)
	}
}

// number gives a number for a channel or device.
func (h *host) number() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.numbers++
	return h.numbers
}

// acquire counts a link or an instance that is about to be made.
func (h *host) acquire() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errUnloaded
	}
	h.users++
	return nil
}

// release counts one less; the last one of a closed plugin ends its process.
func (h *host) release() {
	h.mu.Lock()
	h.users--
	h.mu.Unlock()
	_ = h.free()
}

// Close ends the process when the last link or instance is closed, and waits for
// it if none is open.
func (h *host) Close() error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.life)
	}
	h.mu.Unlock()
	return h.free()
}

// free ends what nobody uses. It waits.
func (h *host) free() error {
	h.mu.Lock()
	if !h.closed || h.users > 0 || h.freed {
		h.mu.Unlock()
		return nil
	}
	h.freed = true
	p, s := h.current, h.start
	h.mu.Unlock()
	if s != nil {
		<-s.done // it sees that the plugin is closed
	}
	if p != nil {
		p.finish()
	}
	return h.discard()
}

// discard gives back what processes were started with.
func (h *host) discard() error {
	if h.scratch != "" {
		_ = os.RemoveAll(h.scratch)
	}
	return h.program.close()
}

// spec is how a process is started.
func (h *host) spec(files *os.File) sandbox.Spec {
	o := &h.opt
	log := h.log
	if h.said.Name != "" { // what it has to say it has said at the first start
		log = slog.New(slog.DiscardHandler)
	}
	return sandbox.Spec{
		Name: o.Name, Path: h.program.name(), Args: append([]string{o.processName()}, o.Args...), Env: o.environment(),
		Files: []*os.File{files}, Mode: o.Sandbox, Network: o.Network, ReadWrite: o.ReadWrite, Hide: o.Hide,
		Memory: o.Memory, CPUs: o.CPUs, StateDir: o.StateDir, Self: o.Self, Log: log,
	}
}

// Status is what can be told of a plugin's process.
type Status struct {
	PID      int           // 0: none runs
	Since    time.Time     // when it was started
	Restarts uint64        // processes after the first
	LastEnd  string        // how the last one ended that nobody wanted to end
	Sandbox  sandbox.Mode  // how it is held
	CPU      time.Duration // that this process has used
	Memory   uint64        // bytes that it uses
	Peak     uint64        // bytes that it has used at most
	Lends    bool          // payload stays in guests' memory where that can be
	Lent     Traffic       // Lends: what has stayed there, with all processes so far
	Copied   Traffic       // Lends: what has not
}

// Status tells how the plugin's process fares.
func (l *Loaded) Status() Status {
	h := l.host
	h.mu.Lock()
	p := h.current
	s := Status{Restarts: h.restarts, LastEnd: h.lastEnd, Sandbox: h.opt.Sandbox,
		Lends: h.lends(), Lent: h.payloads.lent.load(), Copied: h.payloads.copied.load()}
	h.mu.Unlock()
	if p == nil {
		return s
	}
	s.PID, s.Since = p.pid, p.since
	if u, err := p.run.proc.Usage(); err == nil {
		s.CPU, s.Memory, s.Peak = u.CPU, u.Memory, u.Peak
	}
	return s
}

// Close unloads the plugin: see guest.Module and guest.Store.
func (l *Loaded) Close() error { return l.host.Close() }
