package pluginhost

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/recording"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
)

// nbdProgram builds version 2.0.0 of the nbd plugin as a program, once.
var nbdProgram = sync.OnceValues(func() (string, error) { return build200("nbd-process", nil, "blockengine/plugins/nbd/process") })

func builtProgram(t *testing.T) string {
	t.Helper()
	path, err := nbdProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// processes gives the process of what was loaded last.
func (l *live) processes() (pid func() int) {
	load := l.u.seams.load
	var last atomic.Pointer[Plugin]
	l.u.seams.load = func(ctx context.Context, c config.Plugin) (*Plugin, error) {
		p, err := load(ctx, c)
		if err == nil {
			last.Store(p)
		}
		return p, err
	}
	return func() int {
		s, _ := last.Load().Process()
		return s.PID
	}
}

// A program runs as a shadow of what is linked in and takes over; then it runs,
// and what is linked in is its shadow, and what it does can be recorded.
func TestShadowOfAProgram(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	r := UpgradeRequest{Plugin: "nbd", Path: builtProgram(t), Shadow: time.Second}
	var next *Plugin // while it is a shadow
	l.must(l.u.Upgrade(t.Context(), r, func(e Event) {
		if l.say(e); e.Phase == PhaseShadow && next == nil {
			next = l.u.Status()[0].Next
		}
	}))
	l.want("2.0.0", "2.0.0")
	if next == nil || next.Version != "2.0.0" || next != l.u.Status()[0].Current {
		t.Errorf("while it was a shadow the next version was %+v", next)
	}
	if next := l.u.Status()[0].Next; next != nil {
		t.Errorf("nothing is under way, and %s is to come", describe(next))
	}

	var file bytes.Buffer
	l.must(l.u.Record(t.Context(), RecordRequest{Plugin: "nbd", Volume: "a", For: 500 * time.Millisecond, Engine: "test"}, &file))
	res, err := recording.Replay{Module: guest.Linked(nbd.Plugin())}.Run(t.Context(), bytes.NewReader(file.Bytes()))
	if err != nil || res.Difference != nil || res.Requests < 50 || res.Cut != nil || res.Header.Runtime != "process" {
		t.Errorf("%+v, %v", res, err)
	}

	r.Path = ""
	l.must(l.u.Upgrade(t.Context(), r, l.say))
	l.want(nbd.Version, nbd.Version)
	for _, h := range l.u.Status()[0].History {
		if h.Generation > 1 && (!strings.Contains(h.Shadow, "none differs") || strings.Contains(h.Shadow, "of its process's") && h.Generation != 2) {
			t.Errorf("the history has %+v", h)
		}
	}
}

// A version that differs is found beside one that runs in a process, too.
func TestShadowBesideAProgram(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	l.must(l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: builtProgram(t)}, l.say))
	for what, text := range map[string]string{"offset": "differ from byte", "errno": "flush of 0 bytes"} {
		l.loadPlanted(what)
		err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/" + what, Shadow: 20 * time.Second}, l.say)
		wantError(t, err, text)
		l.loadLate(what)
		err = l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/" + what, Shadow: 20 * time.Second}, l.say)
		wantError(t, err, text)
	}
	l.want("2.0.0", "2.0.0")
}

// A shadow's process that ends or stops ends the upgrade, with that as the
// reason; the version that runs notices nothing.
func TestShadowsProcessEnds(t *testing.T) {
	for s, text := range map[syscall.Signal]string{syscall.SIGKILL: "exit", syscall.SIGSTOP: "hang"} {
		t.Run(s.String(), func(t *testing.T) {
			l := newLive(t, nbdtest.DefaultFlags)
			pid := l.processes()
			l.serve()
			defer l.end()
			err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: builtProgram(t), Shadow: time.Minute}, func(e Event) {
				l.say(e)
				if e.Phase == PhaseShadow && e.Volume == "" {
					time.AfterFunc(500*time.Millisecond, func() { _ = syscall.Kill(pid(), s) })
				}
			})
			wantError(t, err, "was run as a shadow and is not taken", "traps", text)
			l.want(nbd.Version, nbd.Version)
			if list := l.u.Status()[0].History; !strings.HasPrefix(list[len(list)-1].Ended, "never ran: ") {
				t.Errorf("the history ends with %+v", list[len(list)-1])
			}
		})
	}
}
