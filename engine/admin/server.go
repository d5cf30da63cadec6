package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"blockengine/engine/sys"
)

// Limits on a client: its user is trusted, its programs may hang all the same.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	maxHeader      = 16 << 10 // bytes
)

// Source tells what the Server is asked for.
type Source interface {
	// Status comes back soon, with what is known, even if a reactor hangs.
	Status(ctx context.Context) Status
	// Upgrade and Rollback carry out an order and come back when it is done or
	// has failed; report is told how it goes, one event at a time, and does not
	// wait. They end with the engine, not with the client. What is refused
	// before anything was reported is answered with the status of a Refusal, or
	// as a conflict.
	Upgrade(plugin string, r UpgradeRequest, report func(Event)) error
	Rollback(plugin string, r RollbackRequest, report func(Event)) error
	// Record writes a recording of a volume to w, until it is over or ctx ends.
	// What is refused before the first byte is answered as with Upgrade.
	Record(ctx context.Context, plugin string, r RecordRequest, w io.Writer) error
	// Recover tries once more to serve an export that is a device of this host,
	// and comes back when it is up or why it is not.
	Recover(ctx context.Context, export string) error
	// Rescan looks at what is behind a volume, which may have grown, and tells how
	// large it is.
	Rescan(ctx context.Context, volume string) (Rescanned, error)
}

// Server answers on the admin socket.
type Server struct {
	http http.Server
	path string
	done chan struct{}
}

// Listen makes the admin socket, with mode 0600 from its first moment. Nothing
// may stand at path. It sets the process's umask for a moment: call it before
// there are goroutines that make files.
func Listen(path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Serve answers on l, which is Listen's, until Close.
func Serve(l net.Listener, src Source, log *slog.Logger) *Server {
	s := &Server{path: l.Addr().String(), done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, src.Status(r.Context()))
	})
	mux.HandleFunc("GET /v1/plugins", func(w http.ResponseWriter, r *http.Request) {
		answer(w, src.Status(r.Context()).Plugins)
	})
	mux.HandleFunc("POST /v1/plugins/{name}/upgrade", order(src.Upgrade))
	mux.HandleFunc("POST /v1/plugins/{name}/rollback", order(src.Rollback))
	mux.HandleFunc("POST /v1/plugins/{name}/record", record(src))
	mux.HandleFunc("POST /v1/exports/{name}/recover", recovery(src))
	mux.HandleFunc("POST /v1/volumes/{name}/rescan", rescan(src))
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
		WriteTimeout: requestTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func() {
		defer close(s.done)
		err := s.http.Serve(checked{Listener: l, log: log})
		if !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin socket has failed: restart the engine to use it again", "path", s.path, "err", err)
		}
	}()
	return s
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client is gone, if anything
}

// Close ends the server, cutting what is under way, and removes the socket.
func (s *Server) Close() {
	_ = s.http.Close()
	<-s.done
}

// checked lets only the engine's own user and root in. The socket's mode says
// the same, but somebody may have changed that, or its directory.
type checked struct {
	net.Listener
	log *slog.Logger
}

// Accept gives the next connection from somebody who may.
func (l checked) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		err = permitted(c)
		if err == nil {
			return c, nil
		}
		l.log.Warn("refused a connection to the admin socket", "err", err)
		_ = c.Close()
	}
}

// permitted checks who is at the other end of a Unix socket.
func permitted(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%s is no Unix socket", c.RemoteAddr())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred sys.PeerCred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = sys.PeerCredOf(int(fd)) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	return allow(cred.UID, uint32(os.Geteuid()))
}

// allow decides who may give orders to an engine of user own.
func allow(uid, own uint32) error {
	if uid == 0 || uid == own {
		return nil
	}
	return fmt.Errorf("user %d may not: only root and user %d, whose engine it is", uid, own)
}
