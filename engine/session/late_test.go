package session_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
)

// lateEnv has every plugin of this test binary answer later, as one in another
// process does.
const lateEnv = "SESSION_TEST_LATE"

// modules gives what tests run: m, or m answering late.
func modules(m guest.Module) guest.Module {
	if os.Getenv(lateEnv) == "" {
		return m
	}
	return &lateModule{m}
}

type lateModule struct{ guest.Module }

func (m *lateModule) NewInstance(ctx context.Context) (guest.Instance, error) {
	inst, err := m.Module.NewInstance(ctx)
	if err != nil {
		return nil, err
	}
	return &late{Instance: inst}, nil
}

// late is an instance whose answers come from another goroutine, after a while
// that is different each time.
type late struct {
	guest.Instance
	r        *reactor.Reactor
	answered func()
	busy     atomic.Bool
	closed   bool // on the reactor
	actions  []byte
	more     bool
	err      error
}

func (l *late) Attach(r *reactor.Reactor, answered func()) error {
	l.r, l.answered = r, answered
	return nil
}

func (l *late) Begin(n int, budget int64) {
	if l.busy.Swap(true) || l.closed {
		panic("begun before the answer, or after the end")
	}
	go func() {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
		}
		l.actions, l.more, l.err = l.Instance.Call(n, budget)
		l.r.Post(reactor.MailFunc(func() {
			l.busy.Store(false)
			if !l.closed {
				l.answered()
			}
		}))
	}()
}

func (l *late) Answer() ([]byte, bool, error) { return l.actions, l.more, l.err }

func (l *late) Call(n int, budget int64) ([]byte, bool, error) {
	if l.busy.Load() {
		panic("called before the answer")
	}
	return l.Instance.Call(n, budget)
}

func (l *late) Close() { l.closed = true }

// TestLatePlugins runs the other tests of this package with plugins that answer
// later: sessions must not tell the difference.
func TestLatePlugins(t *testing.T) {
	if os.Getenv(lateEnv) != "" {
		t.Skip("they do")
	}
	t.Parallel()
	args := []string{"-test.run=" + os.Getenv("SESSION_TEST_RUN"), "-test.count=1"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), lateEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}
