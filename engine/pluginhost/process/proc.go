package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	goplugin "github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/sys"
	calls "blockengine/sdk/process/control"
)

// Times that no option sets.
const (
	startTimeout = 10 * time.Second // from the start to the answer to Hello
	callTimeout  = 10 * time.Second // of calls that only the SDK's end works for
	closeTimeout = 5 * time.Second  // to end what is outstanding of a region, and to close a disk
	endTimeout   = 2 * time.Second  // to end in order
)

// member is a link or an instance that a process serves.
type member interface{ died(err error) }

// proc is one process, from its start until it has been reaped. Its methods are
// safe from any goroutine; those that wait say so.
type proc struct {
	host   *host
	run    *runner
	client *plugin.Client
	calls  *calls.Client
	pid    int
	since  time.Time

	send  sync.Mutex // held while descriptors are sent
	files *os.File   // the engine's end of the socket for them
	msg   sys.Message

	lender *lender // of guests' memory, if the plugin may have that

	gone chan struct{} // closed when it has been reaped and everybody told

	mu      sync.Mutex // guards what follows; host.mu is not taken under it
	why     error      // it was killed for this, nil if it was not
	end     error      // why it has ended, set when it has
	ready   time.Time  // when it began to serve; zero before
	members map[uint64]member
	devices map[string]*device
}

// startProc starts a process and asks who it is. It waits.
func startProc(h *host) (*proc, *calls.Manifest, error) {
	own, theirs, err := sys.PacketPair()
	if err != nil {
		return nil, nil, err
	}
	inherited := os.NewFile(uintptr(theirs), "files")
	defer inherited.Close()
	p := &proc{host: h, since: time.Now(), gone: make(chan struct{}), files: os.NewFile(uintptr(own), "files"),
		members: map[uint64]member{}, devices: map[string]*device{}}
	p.lender = newLender(h.log, h.number)
	p.lender.show, p.lender.hide = p.showMemory, p.hideMemory
	dir, err := h.socketDir()
	if err != nil {
		return nil, nil, errors.Join(err, p.files.Close())
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	p.run = &runner{spec: h.spec(inherited), voice: newVoice(h.words)}
	p.client = plugin.NewClient(p.config(dir))
	if _, err = p.client.Start(); err != nil {
		if p.run.proc == nil {
			return nil, nil, errors.Join(err, p.files.Close())
		}
		p.run.proc.Kill()
	}
	p.pid = p.run.proc.PID()
	go p.watch(dir)
	if err == nil {
		var m *calls.Manifest
		if m, err = p.hello(); err == nil {
			return p, m, nil
		}
	}
	p.kill(nil)
	<-p.gone
	return nil, nil, p.startError(err)
}

// startError says why a process that never served did not.
func (p *proc) startError(err error) error {
	said := ""
	if last := p.run.voice.last(); last != "" {
		said = fmt.Sprintf("; it wrote %q", last)
	}
	return fmt.Errorf("its process did not come up: %s (%v)%s", shown(err.Error(), maxTextLength), p.run.proc.Exit(), said)
}

// config is what go-plugin is told. The environment that it adds to is not the
// engine's.
func (p *proc) config(dir string) *plugin.ClientConfig {
	r := p.run
	return &plugin.ClientConfig{
		HandshakeConfig: calls.Handshake(), Plugins: plugin.PluginSet{calls.PluginName: &controlPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SkipHostEnv:      true, Logger: hclog.NewNullLogger(), StartTimeout: startTimeout,
		SyncStdout: r.voice, SyncStderr: r.voice,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		GRPCDialOptions:  r.dialOptions(),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, tmp string) (goplugin.Runner, error) {
			if r.spec.Mode == sandbox.Strict {
				tmp = strictSocketDir
			}
			r.listensIn(tmp, cmd.Env)
			return r, nil
		},
	}
}

// hello connects and asks who the plugin is.
func (p *proc) hello() (*calls.Manifest, error) {
	c, err := p.client.Client()
	if err != nil {
		return nil, err
	}
	raw, err := c.Dispense(calls.PluginName)
	if err != nil {
		return nil, err
	}
	p.calls = raw.(*calls.Client)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	m, err := p.calls.Hello(ctx, &calls.Hello{Version: calls.Version})
	return m, plain(err)
}

// controlPlugin makes the engine's end of the calls.
type controlPlugin struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer implements plugin.GRPCPlugin; this is the other end.
func (*controlPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("this is the engine's end")
}

// GRPCClient implements plugin.GRPCPlugin.
func (*controlPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return calls.NewClient(conn), nil
}

// watch waits for the process's end and clears up after it.
func (p *proc) watch(dir string) {
	<-p.run.proc.Done()
	p.run.hear()
	p.lender.end()
	err := p.ended()
	p.host.died(p, err)
	p.mu.Lock()
	members := p.members
	p.members, p.end = nil, err
	p.mu.Unlock()
	for _, m := range members {
		m.died(err)
	}
	close(p.gone)
	p.client.Kill() // lets go of the connection; there is nothing to kill
	p.send.Lock()
	_ = p.files.Close()
	p.send.Unlock()
	_ = os.RemoveAll(dir)
}

// ended says why the process has ended.
func (p *proc) ended() error {
	p.mu.Lock()
	why := p.why
	p.mu.Unlock()
	exit := p.run.proc.Exit()
	switch {
	case why != nil:
		return why
	case exit.OOM:
		return &guest.Trap{Cause: "memory", Err: fmt.Errorf("process %d of plugin %q %v", p.pid, p.host.opt.Name, exit)}
	}
	text := fmt.Sprintf("process %d of plugin %q: %v", p.pid, p.host.opt.Name, exit)
	if last := p.run.voice.last(); last != "" {
		text += fmt.Sprintf("; it wrote %q", last)
	}
	return &guest.Trap{Cause: "exit", Err: errors.New(text)}
}

// kill ends the process now. Whoever it serves is told the first cause; without
// one, that it has exited.
func (p *proc) kill(cause error) {
	p.mu.Lock()
	if p.why == nil {
		p.why = cause
	}
	p.mu.Unlock()
	p.run.proc.Kill()
}

// hung is why a process that does not answer is killed.
func (p *proc) hung(what string) error {
	return &guest.Trap{Cause: "hang", Err: fmt.Errorf("process %d of plugin %q %s", p.pid, p.host.opt.Name, what)}
}

// mind asks for signs of life until the process ends. Two have to be missing:
// one may be the engine's own fault, which was stopped for a while.
func (p *proc) mind() {
	every := p.host.opt.Hang / 2
	missing := 0
	for {
		select {
		case <-p.gone:
			return
		case <-time.After(every):
		}
		ctx, cancel := context.WithTimeout(context.Background(), every)
		err := p.calls.Health(ctx)
		cancel()
		if err == nil {
			missing = 0
			continue
		}
		if missing++; missing == 2 {
			p.kill(p.hung(fmt.Sprintf("has given no sign of life for %v (%v)", p.host.opt.Hang, plain(err))))
			return
		}
	}
}

// finish has the process end in order, and ends it if it does not. It waits
// until it has been reaped.
func (p *proc) finish() {
	p.mu.Lock()
	if p.why == nil {
		p.why = errUnloaded
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := plain(p.calls.Close(ctx)); err != nil {
		p.host.log.Warn("the plugin's process did not close in order", "pid", p.pid, "err", err)
	}
	p.hangUp()
	select {
	case <-p.gone:
		return
	case <-ctx.Done():
	}
	p.run.proc.Kill()
	<-p.gone
}

// hangUp tells the process that nobody is at the other end any more: it ends
// itself.
func (p *proc) hangUp() {
	if raw, err := p.files.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = sys.ShutdownSocket(int(fd), sys.ShutBoth) })
	}
}

// errUnloaded is why a process has ended that nobody needs.
var errUnloaded = errors.New("the plugin has been unloaded")

// pass sends the descriptors of a channel's region.
func (p *proc) pass(channel uint64, fds []int) error {
	p.send.Lock()
	defer p.send.Unlock()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], channel)
	v := make([]sys.Iovec, 1)
	sys.SetIovec(&v[0], b[:])
	raw, err := p.files.SyscallConn()
	if err != nil {
		return err
	}
	var errno sys.Errno
	if err := raw.Control(func(fd uintptr) { _, errno = sys.RawSendmsg(int(fd), &p.msg, v, sys.Rights(fds...)) }); err != nil {
		return err
	}
	switch errno {
	case 0:
		return nil
	case sys.EAGAIN:
		err := p.hung("takes no more descriptors")
		p.kill(err)
		return err
	}
	return fmt.Errorf("hand descriptors to the plugin's process: %w", errno)
}

// socketsOf is where the directories of processes' sockets are.
func socketsOf(stateDir string) string { return filepath.Join(stateDir, "plugins") }

// CleanUp removes what an engine that was killed has left in its state directory.
// Its processes have been reaped before.
func CleanUp(stateDir string) error { return os.RemoveAll(socketsOf(stateDir)) }

// socketDir makes a directory of the process's own, which go-plugin wants. A
// process in a sandbox does not see it.
func (h *host) socketDir() (string, error) {
	base := socketsOf(h.opt.StateDir)
	// A socket's path has 108 bytes at most, and go-plugin adds some 40.
	if len(base) > 48 {
		return os.MkdirTemp("", "engine-plugin")
	}
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return os.MkdirTemp(base, "p")
}
