package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/recording"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

// planted is a version of the nbd plugin with a fault in what it does after some
// requests.
type planted struct {
	protocol.Plugin
	what string
}

func (p planted) Manifest() manifest.Manifest {
	m := p.Plugin.Manifest()
	m.Version = p.what
	if p.what == "copies" {
		m.Payload = manifest.Copy
	}
	return m
}

func (p planted) NewConn() protocol.Conn { return &plantedConn{Conn: p.Plugin.NewConn(), what: p.what} }

type plantedConn struct {
	protocol.Conn
	what string
	seen int
}

func (c *plantedConn) Opened(a *protocol.Actions, o *protocol.Opened) {
	if c.what == "refuses" && o.Session == abi.SessionResumed {
		a.Fail(abi.FailConn, block.EINVAL, "I do not know this state")
		return
	}
	c.Conn.Opened(a, o)
}

// hit tells whether the fault is to show now.
func (c *plantedConn) hit() bool { return c.seen > 30 }

func (c *plantedConn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		c.seen++
		r := batch[i]
		switch {
		case !c.hit():
		case c.what == "offset" && r.Op != block.OpFlush:
			r.Offset += 4096
		case c.what == "errno" && r.Op == block.OpFlush:
			a.Complete(r.Tag, block.EIO)
			continue
		case c.what == "early" && r.Op == block.OpFlush:
			a.Complete(r.Tag, block.OK)
		case c.what == "panic":
			panic("planted")
		case c.what == "range" && r.Op == block.OpWrite:
			r.Length -= 512
		case c.what == "few":
			return i
		case c.what == "slow":
			time.Sleep(2 * time.Millisecond)
		}
		if c.Conn.Submit(a, []protocol.Request{r}) == 0 {
			return i
		}
	}
	return len(batch)
}

func (l *live) loadPlanted(what string) {
	l.u.seams.load = func(context.Context, config.Plugin) (*Plugin, error) {
		p := &Plugin{Name: "nbd", Runtime: config.RuntimeWasm, Path: "/" + what}
		p.use(guest.Linked(planted{nbd.Plugin(), what}))
		p.Hash = what
		return p, nil
	}
}

// What differs is found, named, and stops the upgrade; no request fails, and the
// version that runs stays.
func TestShadowFindsWhatDiffers(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	for _, c := range []struct {
		what string
		want []string
	}{
		{"offset", []string{`volume "`, "connection 0", "differ from byte", "4096 bytes at offset", "bytes "}},
		{"errno", []string{"flush of 0 bytes", `connection 0`}},
		{"early", []string{"flush of 0 bytes"}},
		{"panic", []string{"traps", "panic: planted"}},
		{"range", []string{"write of 4096 bytes at offset"}},
		{"refuses", []string{"cannot go on from the saved state", "I do not know this state"}},
		{"copies", []string{"payload", "leave --shadow out"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			l.loadPlanted(c.what)
			err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/" + c.what, Shadow: 20 * time.Second}, l.say)
			if err == nil {
				t.Fatal("the upgrade was not stopped")
			}
			for _, text := range c.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v\nlacks %q", err, text)
				}
			}
			l.want(nbd.Version, nbd.Version)
		})
	}
	list := l.u.Status()[0].History
	if last := list[len(list)-1]; !strings.HasPrefix(last.Ended, "never ran: ") {
		t.Errorf("the history ends with %+v", last)
	}
}

// A version that does the same is taken, and what was compared is told.
func TestShadowThenUpgrade(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.loadPlanted("none")
	l.serve()
	defer l.end()
	var figures []ShadowFigures
	err := l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/none", Shadow: 500 * time.Millisecond, Watch: 100 * time.Millisecond}, func(e Event) {
		l.say(e)
		if e.Shadow != nil {
			figures = append(figures, *e.Shadow)
		}
	})
	l.must(err)
	l.want("none", "none")
	if len(figures) != 2 {
		t.Fatalf("%d figures are told, want a volume's each", len(figures))
	}
	for _, f := range figures {
		if f.Requests < 50 || f.Connections == 0 || f.Dropped > 0 || f.Spent <= 0 || f.Calls < f.Requests/64 {
			t.Errorf("%+v", f)
		}
	}
	list := l.u.Status()[0].History
	if last := list[len(list)-1]; !strings.Contains(last.Shadow, "none differs") || last.Ended != "" {
		t.Errorf("the history ends with %+v", last)
	}
}

// A version that cannot be compared is not held against, but does not pass when
// nothing could be compared; one that costs too much is let go.
func TestShadowThatIsLetGo(t *testing.T) {
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	for what, text := range map[string]string{"few": "fewer requests at a time", "slow": "of a reactor's time"} {
		var said strings.Builder
		l.loadPlanted(what)
		_ = l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: "/" + what, Shadow: 2 * time.Second}, func(e Event) {
			l.say(e)
			if e.Phase == PhaseShadow {
				fmt.Fprintln(&said, e.Text)
			}
		})
		if !strings.Contains(said.String(), text) {
			t.Errorf("%s: %s", what, said.String())
		}
		_ = l.u.Rollback(t.Context(), RollbackRequest{Plugin: "nbd"}, l.say)
		l.want(nbd.Version, nbd.Version)
	}
}

// The nbd plugin's module, of another version, beside the linked-in one.
func TestShadowOfAFile(t *testing.T) {
	if raceEnabled {
		t.Skip("the compiler takes minutes under the race detector")
	}
	l := newLive(t, nbdtest.DefaultFlags)
	l.serve()
	defer l.end()
	l.must(l.u.Upgrade(t.Context(), UpgradeRequest{Plugin: "nbd", Path: builtNBD(t), Shadow: time.Second}, l.say))
	l.want("2.0.0", "2.0.0")

	// And what that one does now is the same as what the linked-in one does.
	var file bytes.Buffer
	if err := l.u.Record(t.Context(), RecordRequest{Plugin: "nbd", Volume: "a", For: 500 * time.Millisecond, Engine: "test"}, &file); err != nil {
		t.Fatal(err)
	}
	res, err := recording.Replay{Module: guest.Linked(nbd.Plugin())}.Run(t.Context(), bytes.NewReader(file.Bytes()))
	if err != nil || res.Difference != nil || res.Requests < 50 || res.Cut != nil || res.Header.Version != "2.0.0" || res.Header.Volume != "a" {
		t.Errorf("%+v, %v", res, err)
	}
	if res != nil && res.Difference != nil {
		t.Error(res.Difference.Err)
	}
	for _, bad := range []RecordRequest{{Plugin: "nbd", For: 1}, {Plugin: "nbd", Volume: "c", For: 1}, {Plugin: "x", For: 1}} {
		file.Reset()
		if err := l.u.Record(t.Context(), bad, &file); err == nil || file.Len() > 0 {
			t.Errorf("%+v: %v, %d bytes", bad, err, file.Len())
		}
	}
}
