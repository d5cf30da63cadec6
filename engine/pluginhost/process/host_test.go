package process

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/sandbox"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	calls "blockengine/sdk/process/control"
)

// The test's own program is the sandbox's shim, and the plugin.
func init() {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	if h := calls.Handshake(); os.Getenv(h.MagicCookieKey) == h.MagicCookieValue {
		pluginMain(os.Args[1])
		os.Exit(0)
	}
}

// testOptions load the plugin that pluginMain calls by kind.
func testOptions(t testing.TB, kind string) Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Name: "test", Path: exe, Args: []string{kind}, Sandbox: sandbox.Strict, StateDir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(logWriter{t}, nil))}
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// load loads a plugin for the length of a test.
func load(t testing.TB, o Options) *Loaded {
	t.Helper()
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// keeper is a guest.LinkOwner that hands everything to a test.
type keeper struct {
	finished chan block.Status
	lost     chan error
}

func newKeeper() *keeper {
	return &keeper{finished: make(chan block.Status, 1024), lost: make(chan error, 1)}
}

func (o *keeper) Finished(_ int, st block.Status, _ uint64, _ []block.Extent) { o.finished <- st }
func (o *keeper) Turn()                                                       {}
func (o *keeper) Changed(block.Info)                                          {}
func (o *keeper) Lost(err error)                                              { o.lost <- err }

// testReactor is one for the length of a test.
func testReactor(t testing.TB) *reactor.Reactor {
	t.Helper()
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// on runs f on r and waits for it.
func on(r *reactor.Reactor, f func()) {
	done := make(chan struct{})
	r.Post(reactor.MailFunc(func() { f(); close(done) }))
	<-done
}

// open gives a started link.
func open(t testing.TB, l *Loaded, r *reactor.Reactor, o *keeper, volume string) guest.Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k, err := l.Store().NewLink(ctx, guest.LinkOptions{Volume: volume})
	if err != nil {
		t.Fatal(err)
	}
	on(r, func() {
		if err := k.Start(r, o); err != nil {
			t.Error(err)
		}
	})
	return k
}

// shut closes a link and tells how it ended.
func shut(t testing.TB, r *reactor.Reactor, k guest.Link) (finished bool) {
	t.Helper()
	c := make(chan bool, 1)
	on(r, func() { k.Close(func(f bool) { c <- f }) })
	return within(t, c, "the link is closed")
}

func within[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
	return v
}

// write sends one write and gives its status.
func write(t testing.TB, r *reactor.Reactor, k guest.Link, o *keeper) block.Status {
	t.Helper()
	on(r, func() {
		copy(k.Payload(0), "a block's worth of bytes")
		k.Submit(0, block.OpWrite, 0, 0, 512)
		k.Push()
	})
	return within(t, o.finished, "a write")
}

func TestStoreInAProcess(t *testing.T) {
	l := load(t, testOptions(t, "memory"))
	if l.Protocol() != nil {
		t.Error("a store is a protocol plugin as well")
	}
	m := l.Store().Manifest()
	if m.Name != "memory" || m.Version != "1" || len(m.Options) != 1 || !l.Store().FenceOnExit() {
		t.Errorf("the manifest is %+v", m)
	}
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	if got := k.Info(); got.Size != testSize || got.Identity != "test" {
		t.Errorf("the disk is %+v", got)
	}
	if st := write(t, r, k, o); st != block.OK {
		t.Errorf("a write ended with %v", st)
	}
	if s := l.Status(); s.PID == 0 || s.Restarts != 0 {
		t.Errorf("the status is %+v", s)
	}
	if !shut(t, r, k) {
		t.Error("the process did not say that all has ended")
	}
}

func TestLinksOfAVolumeShareADevice(t *testing.T) {
	l := load(t, testOptions(t, "exclusive")) // fails what is opened twice
	r := testReactor(t)
	a := open(t, l, r, newKeeper(), "v")
	b := open(t, l, r, newKeeper(), "v")
	shut(t, r, a)
	c := open(t, l, r, newKeeper(), "v")
	shut(t, r, b)
	shut(t, r, c)
	shut(t, r, open(t, l, r, newKeeper(), "v")) // closed and opened again
}

func TestKilledProcessIsReplaced(t *testing.T) {
	l := load(t, testOptions(t, "memory"))
	r, o := testReactor(t), newKeeper()
	for i := range 3 {
		k := open(t, l, r, o, "v")
		write(t, r, k, o)
		pid := l.Status().PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err := within(t, o.lost, "the link is lost")
		var trap *guest.Trap
		if !errors.As(err, &trap) || trap.Cause != "exit" || !strings.Contains(err.Error(), "signal 9") {
			t.Errorf("lost by %v", err)
		}
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is still there", pid)
		}
		if shut(t, r, k) {
			t.Error("a killed process has finished what was outstanding")
		}
		if s := l.Status(); s.Restarts < uint64(i) || s.Restarts > uint64(i)+1 || !strings.Contains(s.LastEnd, "signal 9") {
			t.Errorf("the status is %+v", s)
		}
	}
	k := open(t, l, r, o, "v")
	if st := write(t, r, k, o); st != block.OK {
		t.Errorf("a write ended with %v", st)
	}
	shut(t, r, k)
}

func TestStoppedProcessIsFound(t *testing.T) {
	opt := testOptions(t, "memory")
	opt.Hang = 200 * time.Millisecond
	l := load(t, opt)
	r, o := testReactor(t), newKeeper()
	k := open(t, l, r, o, "v")
	if err := syscall.Kill(l.Status().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	err := within(t, o.lost, "the hang is found")
	var trap *guest.Trap
	if !errors.As(err, &trap) || trap.Cause != "hang" {
		t.Errorf("lost by %v", err)
	}
	shut(t, r, k)
}

func TestRefusedVolume(t *testing.T) {
	l := load(t, testOptions(t, "memory"))
	_, err := l.Store().NewLink(t.Context(), guest.LinkOptions{Volume: "refused"})
	if err == nil || !strings.Contains(err.Error(), "this volume is refused: name another") {
		t.Errorf("the error is %v", err)
	}
	if s := l.Status(); s.PID == 0 || s.Restarts != 0 {
		t.Errorf("a refusal has cost the process: %+v", s)
	}
}

func TestCrashInOpen(t *testing.T) {
	l := load(t, testOptions(t, "memory"))
	_, err := l.Store().NewLink(t.Context(), guest.LinkOptions{Volume: "panics"})
	var trap *guest.Trap
	if !errors.As(err, &trap) || !strings.Contains(err.Error(), "panic: no such volume") {
		t.Errorf("the error is %v", err)
	}
}

func TestBadPrograms(t *testing.T) {
	for kind, want := range map[string]string{
		"exits":     "exit status 3",
		"says":      "Unrecognized remote plugin message: hello",
		"elsewhere": "has to listen at a Unix socket in",
		"othername": "1 to 64 letters",
	} {
		t.Run(kind, func(t *testing.T) {
			opt := testOptions(t, kind)
			_, err := Load(t.Context(), opt)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), opt.Path) {
				t.Errorf("the error is %v, and should say %q", err, want)
			}
		})
	}
}
