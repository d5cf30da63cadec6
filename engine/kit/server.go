package kit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"blockengine/engine/config"
)

// startWait is how long a server may take until it accepts a connection.
const startWait = 20 * time.Second

// server is where a protocol plugin's connections go.
type server struct {
	network, address string
	dir              string // of our socket, "" if there is none
	cmd              *exec.Cmd
	said             tail
	ended            chan struct{} // the command is over
	err              error         // why, once ended is closed
}

// startServer runs a command, if there is one, and waits until the address
// accepts connections. Without an address it is a socket of ours, of which the
// command learns by the variable SOCKET.
func startServer(ctx context.Context, command, address string) (*server, error) {
	s := &server{}
	if address != "" {
		a, err := config.ParseAddress(".", address)
		if err != nil {
			return nil, fmt.Errorf("the server's address %s: %w (TLS is the engine's, no plugin sees it)", address, err)
		}
		s.network, s.address = a.Network, a.Addr
	}
	if command == "" {
		return s, nil
	}
	if err := s.run(command); err != nil {
		s.stop()
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// run starts the command with a process group of its own.
func (s *server) run(command string) error {
	dir, err := os.MkdirTemp("", "engine-plugin-test-")
	if err != nil {
		return err
	}
	s.dir = dir
	socket := filepath.Join(dir, "socket")
	if s.address == "" {
		s.network, s.address = "unix", socket
	}
	s.cmd = exec.Command("/bin/sh", "-c", command)
	s.cmd.Env = append(os.Environ(), "SOCKET="+socket)
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.WaitDelay = time.Second // for what it left behind with its output open
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("start the server: %w", err)
	}
	s.ended = make(chan struct{})
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	return nil
}

// await waits until the server accepts a connection. One that goes to the
// background by itself ends, with status 0, before that.
func (s *server) await(ctx context.Context) error {
	end := time.Now().Add(startWait)
	ended := s.ended
	for {
		c, err := net.DialTimeout(s.network, s.address, time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			if s.err != nil {
				return fmt.Errorf("the server ended: %w%s", s.err, s.said.quoted())
			}
			ended = nil
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server accepts no connection within %v: %w (it has to listen at unix:$SOCKET, or name its --address)%s",
				startWait, err, s.said.quoted())
		}
	}
}

// dial makes a connection.
func (s *server) dial() (net.Conn, error) {
	var d net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, s.network, s.address)
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w%s", err, s.said.quoted())
	}
	return c, nil
}

// stop ends what run has started: the whole group, first in a friendly way.
func (s *server) stop() {
	if s.cmd != nil {
		group := -s.cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM) // it may be gone
		select {
		case <-s.ended:
		case <-time.After(2 * time.Second):
		}
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-s.ended
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // in the temporary directory anyhow
	}
}

// tail keeps the end of what a server says.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

const maxTail = 2 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-maxTail):]...)
	t.b = t.b[max(0, len(t.b)-maxTail):]
	return len(p), nil
}

// quoted is what was said, for the end of a message.
func (t *tail) quoted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) == 0 {
		return ""
	}
	return "; it said:\n" + strings.TrimSpace(string(t.b))
}
