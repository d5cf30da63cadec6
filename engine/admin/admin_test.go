package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

type fixed Status

func (f fixed) Status(context.Context) Status { return Status(f) }

func (fixed) Upgrade(string, UpgradeRequest, func(Event)) error {
	return Refuse(http.StatusNotFound, "there is nothing to upgrade")
}

func (fixed) Rollback(string, RollbackRequest, func(Event)) error {
	return errors.New("there is nothing to go back to")
}

var quietLog = slog.New(slog.DiscardHandler)

func serveFixed(t *testing.T, s Status) string {
	t.Helper()
	return serve(t, fixed(s))
}

func serve(t *testing.T, src Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := Serve(l, src, quietLog)
	t.Cleanup(func() {
		srv.Close()
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return path
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestStatusTravelsWhole(t *testing.T) {
	want := Status{
		Engine: Engine{Version: "1", PID: 7, Uptime: 1.5, Reactors: []Reactor{{Index: 0, Turns: 1 << 60, Sleeps: 2}}},
		Volumes: []Volume{{Name: "v", State: "away", Reason: "no <answer>", Size: 1 << 62, Caps: []string{"flush"},
			Options: map[string]string{"token": "(secret)"}, Path: &Path{"unix:/x", 2, "refused"}, Session: &Session{Traps: 3},
			Counts: Counts{Ops: map[string]Op{"read": {Requests: 4, Bytes: 5, Errors: 6, Seconds: 0.25}}, Errors: map[string]uint64{"EIO": 6}}}},
		Exports: []Export{{Name: "a\"b\n", Listen: "tcp:127.0.0.1:1", Up: true}},
		Plugins: []Plugin{{Name: "nbd", Loaded: Loaded{Hash: "abc", Volumes: []string{"v"}}, Differs: "runs <b>",
			Phase: "watch", WatchUntil: time.Unix(9, 0).UTC(), Previous: &Loaded{Generation: 1}, Canary: &Loaded{Generation: 3},
			Upgrades: &Upgrades{Done: 1, Failed: 2, Rollbacks: map[string]uint64{"traps": 3}, LastRollback: "it traps",
				Takeovers: map[string]uint64{"serial": 4}, LastPause: 0.5},
			History: []Generation{{Generation: 1, Since: time.Unix(1, 0).UTC(), Until: time.Unix(2, 0).UTC(), Ended: "replaced"},
				{Generation: 2, Since: time.Unix(2, 0).UTC(), Volumes: []string{"v"}}}}},
	}
	c := NewClient(serveFixed(t, want))
	got, err := c.Status(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	plugins, err := c.Plugins(testContext(t))
	if err != nil || !reflect.DeepEqual(plugins, want.Plugins) {
		t.Errorf("plugins %+v, %v", plugins, err)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	path := serveFixed(t, Status{})
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestOnlyOwnUserAndRoot(t *testing.T) {
	for _, tc := range []struct {
		uid, own uint32
		ok       bool
	}{{0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if err := allow(tc.uid, tc.own); (err == nil) != tc.ok {
			t.Errorf("user %d at an engine of user %d: %v", tc.uid, tc.own, err)
		}
	}
}

// What cannot prove who it is is not let in, whatever listener it came through.
func TestTCPIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := Serve(l, fixed{}, quietLog)
	defer srv.Close()
	c := http.Client{Timeout: 10 * time.Second}
	resp, err := c.Get("http://" + l.Addr().String() + "/v1/status")
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("answered with %s", resp.Status)
	}
}

func TestUnknownRequest(t *testing.T) {
	path := serveFixed(t, Status{})
	c := NewClient(path)
	err := c.get(testContext(t), "/v2/status", nil)
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
}

// Errors say whether there is an engine at all, and what to do.
func TestClientExplains(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: stale}); err != nil { // nobody listens
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.sock"): "no engine is running",
		stale:                           "no engine is running",
		answering(t, dir, ""):           "closed the connection",
		answering(t, dir, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"): "no engine of this version",
	} {
		_, err := NewClient(path).Status(testContext(t))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", path, err, want)
		}
	}
}

// answering makes a socket where every client gets the same text.
func answering(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "s"+string(rune('a'+len(text)%26))+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = c.Read(buf)
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}()
	return path
}

func (fixed) Recover(context.Context, string) error             { return nil }
func (fixed) Rescan(context.Context, string) (Rescanned, error) { return Rescanned{}, nil }
