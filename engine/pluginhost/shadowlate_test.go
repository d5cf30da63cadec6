package pluginhost

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
)

// lateModule answers as a plugin in a process does: later, from elsewhere.
type lateModule struct {
	guest.Module
	mute atomic.Bool  // it answers no more
	each atomic.Int64 // ns that an answer takes
}

func (m *lateModule) NewInstance(ctx context.Context) (guest.Instance, error) {
	inst, err := m.Module.NewInstance(ctx)
	if err != nil {
		return nil, err
	}
	return &lateInstance{Instance: inst, m: m}, nil
}

type lateInstance struct {
	guest.Instance
	m        *lateModule
	r        *reactor.Reactor
	answered func()
	busy     atomic.Bool
	closed   bool // on the reactor
	actions  []byte
	more     bool
	err      error
}

func (l *lateInstance) Attach(r *reactor.Reactor, answered func()) error {
	l.r, l.answered = r, answered
	return nil
}

func (l *lateInstance) Begin(n int, budget int64) {
	if l.busy.Swap(true) || l.closed {
		panic("begun before the answer, or after the end")
	}
	if l.m.mute.Load() {
		return
	}
	go func() {
		time.Sleep(time.Duration(l.m.each.Load()))
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

func (l *lateInstance) Answer() ([]byte, bool, error) { return l.actions, l.more, l.err }

func (l *lateInstance) Close() { l.closed = true }

// loadLate stands in for a program with a fault.
func (l *live) loadLate(what string) *lateModule {
	m := &lateModule{Module: guest.Linked(planted{nbd.Plugin(), what})}
	l.u.seams.load = func(context.Context, config.Plugin) (*Plugin, error) {
		p := &Plugin{Name: "nbd", Runtime: config.RuntimeProcess, Path: "/" + what}
		p.use(m)
		p.Hash = what
		return p, nil
	}
	return m
}

// A version whose answers come later is compared as well: what differs stops the
// upgrade, and is named.
func TestShadowThatAnswersLater(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	for what, want := range map[string]string{
		"offset": "differ from byte", "errno": "flush of 0 bytes", "early": "flush of 0 bytes", "panic": "panic: planted",
		"range": "write of 4096 bytes at offset", "refuses": "I do not know this state", "copies": "leave --shadow out",
	} {
		t.Run(what, func(t *testing.T) {
			l.loadLate(what)
			err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/" + what, Shadow: 20 * time.Second}, l.say)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nlacks %q", err, want)
			}
			l.want(nbd.Version, nbd.Version)
		})
	}
}

// One that does the same is taken; one that comes after only with many calls at a
// time, too.
func TestLateShadowThenUpgrade(t *testing.T) {
	for _, each := range []time.Duration{0, 3 * time.Millisecond} {
		t.Run(each.String(), func(t *testing.T) {
			l := newLive(t, nbdtest.DefaultFlags)
			l.loadLate("none").each.Store(int64(each))
			l.serve()
			defer l.end()
			var figures []ShadowFigures
			l.must(l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/none", Shadow: 500 * time.Millisecond, Method: "serial"}, func(e Event) {
				l.say(e)
				if e.Shadow != nil {
					figures = append(figures, *e.Shadow)
				}
			}))
			l.want("none", "none")
			for _, f := range figures {
				if f.Requests < 50 || f.Connections == 0 || f.Dropped > 0 || f.Spent <= 0 {
					t.Errorf("%+v", f)
				}
			}
			if len(figures) != 2 {
				t.Errorf("%d figures are told, want a volume's each", len(figures))
			}
		})
	}
}

// One that is behind when the time is over is let go: what it did until then was
// right.
func TestLateShadowThatIsBehind(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	m := l.loadLate("none")
	l.serve()
	defer l.end()
	var figures *ShadowFigures
	said := ""
	l.must(l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/none", Volumes: []string{"a"}, Shadow: 2 * time.Second, Method: "serial"}, func(e Event) {
		l.say(e)
		switch {
		case e.Phase == PhaseShadow && e.Volume == "": // a call has 200 requests at most
			time.AfterFunc(200*time.Millisecond, func() { m.each.Store(int64(1500 * time.Millisecond)) })
		case e.Shadow != nil:
			m.each.Store(0)
			figures = e.Shadow
		case e.Phase == PhaseShadow:
			said += e.Text
		}
	}))
	if figures == nil || figures.Requests == 0 || figures.Dropped != 1 || !strings.Contains(said, "does not come after in its process") {
		t.Errorf("%+v, said: %s", figures, said)
	}
	l.want("none", nbd.Version)
}

// One that stops answering is not taken, even if what it did until then was
// right; the version that runs notices nothing.
func TestLateShadowThatHangs(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	m := l.loadLate("none")
	l.serve()
	defer l.end()
	err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/none", Shadow: 500 * time.Millisecond}, func(e Event) {
		l.say(e)
		if e.Phase == PhaseShadow && e.Volume == "" {
			time.AfterFunc(200*time.Millisecond, func() { m.mute.Store(true) })
		}
	})
	if err == nil || !strings.Contains(err.Error(), "has not answered for") {
		t.Errorf("got %v", err)
	}
	l.want(nbd.Version, nbd.Version)
}

// An order that is given up does not wait for a process that hangs.
func TestLateShadowIsGivenUp(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	m := l.loadLate("none")
	l.serve()
	defer l.end()
	err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/none", Shadow: time.Hour}, func(e Event) {
		l.say(e)
		if e.Phase == PhaseShadow && e.Volume == "" {
			m.mute.Store(true)
			time.AfterFunc(200*time.Millisecond, func() { _ = l.u.Rollback(context.Background(), RollbackRequest{Plugin: "nbd"}, nil) })
		}
	})
	if err == nil || !strings.Contains(err.Error(), "given up before anything was changed") {
		t.Errorf("got %v", err)
	}
	l.want(nbd.Version, nbd.Version)
}
