package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/sys"
	calls "blockengine/sdk/process/control"
)

// pipeRest is how long a dead process's pipes are still read: what it forked
// may hold them open for ever, and those whom it served wait for its last words.
const pipeRest = 20 * time.Millisecond

// runner starts and ends the process for go-plugin: a runner.Runner. Its voice
// is what the process says.
type runner struct {
	spec  sandbox.Spec
	voice *voice

	proc           *sandbox.Process
	stdout, stderr *os.File      // the engine's ends
	heard          chan struct{} // closed when stderr has been read to its end
	addr           atomic.Value  // string: where the process listens, as the engine gets there
	closeOnce      sync.Once
}

// Start implements runner.Runner.
func (r *runner) Start(context.Context) error {
	var theirs [2]*os.File
	var err error
	if r.stdout, theirs[0], err = os.Pipe(); err != nil {
		return err
	}
	defer theirs[0].Close()
	if r.stderr, theirs[1], err = os.Pipe(); err != nil {
		r.closePipes()
		return err
	}
	defer theirs[1].Close()
	r.spec.Stdout, r.spec.Stderr = theirs[0], theirs[1]
	if r.proc, err = sandbox.Start(r.spec); err != nil {
		r.closePipes()
		return err
	}
	r.heard = make(chan struct{})
	go func() {
		defer close(r.heard)
		r.voice.listen(r.stderr)
	}()
	return nil
}

// hear waits for the last words of a dead process.
func (r *runner) hear() {
	select {
	case <-r.heard:
	case <-time.After(pipeRest):
	}
	r.closePipes()
}

// closePipes ends the reading of what the process says.
func (r *runner) closePipes() {
	r.closeOnce.Do(func() {
		for _, f := range []*os.File{r.stdout, r.stderr} {
			if f != nil {
				_ = f.Close()
			}
		}
	})
}

// Stdout implements runner.Runner: go-plugin reads where the process listens.
// What else comes is thrown away there.
func (r *runner) Stdout() io.ReadCloser {
	return &slowly{r.stdout, newBucket(byteBurst, byteRate)}
}

// Stderr implements runner.Runner. Its lines are the voice's and not go-plugin's.
func (r *runner) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Wait implements runner.Runner. It comes back when the process has been reaped.
func (r *runner) Wait(context.Context) error {
	<-r.proc.Done()
	return nil
}

// Kill implements runner.Runner.
func (r *runner) Kill(context.Context) error {
	if r.proc != nil {
		r.proc.Kill()
	}
	return nil
}

// ID implements runner.Runner.
func (r *runner) ID() string {
	if r.proc == nil {
		return ""
	}
	return strconv.Itoa(r.proc.PID())
}

// Name implements runner.Runner.
func (r *runner) Name() string { return r.spec.Name }

// Diagnose implements runner.Runner.
func (r *runner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner. The process says that it listens at an
// address in its own view of the file system; anything but a file in the one
// directory that it was told is refused.
func (r *runner) PluginToHost(network, addr string) (string, string, error) {
	dir, name := filepath.Split(addr)
	if network != "unix" || filepath.Clean(dir) != socketDirOf(&r.spec) || name == "" || name == ".." || len(name) > 64 {
		return "", "", fmt.Errorf("it listens at %s %s, and has to listen at a Unix socket in %s", shown(network, 16), shown(addr, 128), socketDirOf(&r.spec))
	}
	if r.spec.Mode == sandbox.Strict {
		// Its /tmp is its own.
		addr = fmt.Sprintf("/proc/%d/root%s/%s", r.proc.PID(), strictSocketDir, name)
	}
	r.addr.Store(addr)
	return network, addr, nil
}

// HostToPlugin implements runner.Runner; nothing of ours listens.
func (r *runner) HostToPlugin(string, string) (string, string, error) {
	return "", "", fmt.Errorf("the engine listens at no address for plugins")
}

const (
	// strictSocketDir is where a process in a sandbox listens: in memory of its
	// own, so that it can fill nobody's file system.
	strictSocketDir = "/tmp"
	socketDirEnv    = "PLUGIN_UNIX_SOCKET_DIR" // go-plugin's name for it
)

// listensIn gives the process the environment that go-plugin has for it, but for
// the directory to listen in.
func (r *runner) listensIn(dir string, env []string) {
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, socketDirEnv+"=") })
	r.spec.Env = append(append(r.spec.Env, env...), socketDirEnv+"="+dir)
}

func socketDirOf(s *sandbox.Spec) string {
	for _, e := range s.Env {
		if dir, ok := strings.CutPrefix(e, socketDirEnv+"="); ok {
			return dir
		}
	}
	return ""
}

// dial connects to the process and sees to it that it, and nobody that its
// directory leads to, is the one who listens there.
func (r *runner) dial(ctx context.Context, _ string) (net.Conn, error) {
	var d net.Dialer
	addr, _ := r.addr.Load().(string)
	conn, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, err
	}
	if err := r.checkPeer(conn.(*net.UnixConn)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (r *runner) checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred sys.PeerCred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = sys.PeerCredOf(int(fd)) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if int(cred.PID) != r.proc.PID() {
		return fmt.Errorf("process %d listens where plugin process %d should", cred.PID, r.proc.PID())
	}
	return nil
}

// dialOptions are what go-plugin's connection is made with. No message is
// larger than ours may be.
func (r *runner) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(r.dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(calls.MaxMessage), grpc.MaxCallSendMsgSize(calls.MaxMessage)),
	}
}
