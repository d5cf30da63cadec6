package compare

import (
	"errors"
	"strings"
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// pair is an instance that another one follows.
type pair struct {
	sdktest.Instance
	next  sdktest.Instance
	f     *Follower
	start func(opened []byte) Start
}

func (p *pair) Call(n int, budget int64) ([]byte, bool, error) {
	in := p.Input()[:n]
	if p.f == nil {
		var err error
		if p.f, err = Follow(p.next, p.start(append([]byte(nil), in...))); err != nil {
			return nil, false, err
		}
	}
	p.f.Events(in)
	actions, more, err := p.Instance.Call(n, budget)
	p.f.Actions(actions, more, err)
	return actions, more, err
}

func plain(opened []byte) Start { return Start{Opened: opened} }

// A version differs in nothing from itself: whatever the conformance suite does
// with it, with the stream cut in all ways.
func TestNothingDiffersFromItself(t *testing.T) {
	for _, c := range []struct {
		name, features string
		plugin         protocol.Plugin
		disk           *server.Disk
	}{
		{"plain", "", tiny.Plugin(), &server.Disk{}},
		{"all", "digest,hash,credits,keepalive,session", tiny.Plugin(), &server.Disk{Credits: 7, Pieces: true}},
		{"transforming", "credits,session", tiny.Transforming(), &server.Disk{Credits: 5, Pieces: true, Transformed: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.disk.Fill(4 << 20)
			requests := uint64(0)
			t.Cleanup(func() { // the last one
				if requests < 1000 {
					t.Errorf("only %d requests were compared", requests)
				}
			})
			sdktest.Run(t, sdktest.Harness{
				Manifest: c.plugin.Manifest(), Values: map[string]string{"features": c.features},
				Open: func(tb sdktest.TB) sdktest.Instance {
					p := &pair{Instance: sdktest.NewLinked(c.plugin), next: sdktest.NewLinked(c.plugin), start: plain}
					t.Cleanup(func() {
						if p.f == nil {
							return
						}
						requests += p.f.Requests()
						if err := p.f.Err(); err != nil {
							t.Errorf("a version differs from itself: %v", err)
						}
					})
					return p
				},
				Dial: func(sdktest.TB) sdktest.Server { return sdktest.Answers(c.disk.Connect().Answer) },
			})
		})
	}
}

// odd is a version that does something else with a request.
type odd struct {
	*tiny.Conn
	seen int
	at   int
	what string
}

type oddPlugin struct{ what string }

func (o oddPlugin) Manifest() manifest.Manifest { return tiny.Plugin().Manifest() }
func (o oddPlugin) NewConn() protocol.Conn {
	return &odd{Conn: tiny.NewConn(false), at: 20, what: o.what}
}

func (c *odd) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		c.seen++
		r := batch[i]
		hit := c.seen >= c.at
		switch {
		case hit && c.what == "offset":
			r.Offset ^= 1 << 12
		case hit && c.what == "early" && r.Op == block.OpFlush:
			a.Complete(r.Tag, block.OK)
			continue
		case hit && c.what == "panic":
			panic("odd")
		case hit && c.what == "twice" && r.Op == block.OpFlush:
			a.Complete(r.Tag, block.OK)
			a.Complete(r.Tag, block.OK)
			continue
		case hit && c.what == "more":
			c.at = 1 << 30
			c.Conn.Submit(a, []protocol.Request{r})
			a.Send([]byte("more"))
			continue
		case hit && c.what == "timer":
			c.at = 1 << 30
			a.SetTimer(3, 1e9)
		case hit && c.what == "fail":
			c.at = 1 << 30
			a.Fail(abi.FailConn, block.EIO, "odd")
		case hit && c.what == "silent" && r.Op == block.OpRead:
			continue
		case hit && c.what == "refuses":
			return i
		}
		c.Conn.Submit(a, []protocol.Request{r})
	}
	return len(batch)
}

func (c *odd) Received(a *protocol.Actions, b []byte) int {
	if c.seen < c.at {
		return c.Conn.Received(a, b)
	}
	if c.what == "stuck" && len(b) < 1<<14 {
		a.Want(1<<14, 1<<14)
		return 0
	}
	if c.what == "errno" && len(b) >= tiny.SizeReply {
		b = append([]byte(nil), b...)
		if b[2] != tiny.ReplyData {
			b[0] = byte(block.ENOSPC)
		}
	}
	return c.Conn.Received(a, b)
}

func TestPlantedDifferences(t *testing.T) {
	for _, c := range []struct {
		what  string
		class Class // "": a Limit
		text  string
	}{
		{"offset", Sent, "they differ from byte"},
		{"early", Sent, "they differ from byte"},
		{"panic", Trapped, "panic: odd"},
		{"twice", Contract, "does not hold"},
		{"more", Sent, "bytes 6d6f7265"},
		{"timer", Timers, "timer 3"},
		{"fail", End, `"odd"`},
		{"silent", Sent, "of what is sent"},
		{"errno", Result, "ENOSPC"},
		{"refuses", "", "fewer requests"},
		{"stuck", Sent, "they differ from byte"}, // its slots are not free again
	} {
		t.Run(c.what, func(t *testing.T) {
			f := load(t, oddPlugin{c.what}, plain)
			err := f.Err()
			var d *Difference
			var l *Limit
			switch {
			case c.class == "":
				if !errors.As(err, &l) || !strings.Contains(l.Text, c.text) {
					t.Fatalf("got %v, want a limit: %s", err, c.text)
				}
			case !errors.As(err, &d) || d.Class != c.class || !strings.Contains(err.Error(), c.text):
				t.Fatalf("got %v (%T), want %s: %s", err, err, c.class, c.text)
			case d.Of == 0 && c.class != Timers && c.class != End:
				t.Errorf("no request is named: %v", err)
			}
		})
	}
}

// load runs requests of all kinds with a version that follows.
func load(t *testing.T, next protocol.Plugin, start func([]byte) Start) *Follower {
	t.Helper()
	d := server.NewDisk(1 << 20)
	p := &pair{Instance: sdktest.NewLinked(tiny.Plugin()), next: sdktest.NewLinked(next), start: start}
	x := sdktest.NewExecutor(t, p, sdktest.Answers(d.Connect().Answer), sdktest.Options{Manifest: tiny.Plugin().Manifest()})
	x.Open()
	for i := range uint64(60) {
		var batch []*sdktest.Request
		for j := range uint64(4) {
			switch (i + j) % 3 {
			case 0:
				batch = append(batch, &sdktest.Request{Op: block.OpRead, Offset: i << 12, Length: 4096})
			case 1:
				batch = append(batch, &sdktest.Request{Op: block.OpWrite, Offset: i << 12, Length: 4096, Data: make([]byte, 4096)})
			default:
				batch = append(batch, &sdktest.Request{Op: block.OpFlush})
			}
		}
		x.Do(batch...)
	}
	if len(x.Violations) > 0 || x.Failed != nil {
		t.Fatalf("%v, %v", x.Violations, x.Failed)
	}
	return p.f
}

// What is tolerated is noted, and the comparison goes on.
func TestToleratedDifferences(t *testing.T) {
	f := load(t, oddPlugin{"timer"}, func(o []byte) Start { return Start{Opened: o, Tolerate: []Class{Timers}} })
	if f.Err() != nil || len(f.Notes()) != 1 || f.Requests() != 240 {
		t.Fatalf("%v, notes %v, %d requests", f.Err(), f.Notes(), f.Requests())
	}
}
