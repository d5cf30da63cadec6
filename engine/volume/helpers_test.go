package volume_test

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// allCaps is all that a disk can do by itself.
const allCaps = block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero |
	block.CapBlockStatus | block.CapCache | block.CapFlushCoversAll

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// patience is the time after which a test that waits has failed.
const patience = 20 * time.Second

func newReactors(t testing.TB, n int) []*reactor.Reactor {
	t.Helper()
	var rs []*reactor.Reactor
	for i := range n {
		r, err := reactor.New(reactor.Options{Index: i})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		t.Cleanup(r.Stop)
		rs = append(rs, r)
	}
	return rs
}

// rig is a volume on a manual fake with a client on each reactor.
type rig struct {
	t       testing.TB
	rs      []*reactor.Reactor
	f       *fake
	v       *volume.Volume
	clients []*client
}

func newRig(t testing.TB, reactors int, info block.Info) *rig {
	t.Helper()
	g := &rig{t: t, rs: newReactors(t, reactors)}
	g.f = newFake(t, info, rand.New(rand.NewPCG(1, 2)))
	g.f.manual = true
	g.v = volume.New(volume.Options{Name: "vol", Reactors: g.rs, Log: quiet})
	if err := g.v.Attach(g.f, info); err != nil {
		t.Fatal(err)
	}
	for i := range g.rs {
		g.clients = append(g.clients, g.open(i, volume.QueueOptions{}))
	}
	return g
}

// on runs f on a reactor.
func (g *rig) on(i int, f func()) {
	g.t.Helper()
	if !g.rs[i].Do(f) {
		g.t.Fatal("the reactor has stopped")
	}
}

func (g *rig) open(i int, o volume.QueueOptions) *client {
	g.t.Helper()
	c := &client{g: g, i: i, back: make(chan *volume.IO, 256)}
	var err error
	g.on(i, func() { c.q, err = g.v.Open(g.rs[i], c, o) })
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// heldOn gives the number of requests that the device holds on reactor i.
func (g *rig) heldOn(i int) (n int) {
	g.t.Helper()
	g.on(i, func() { n = len(g.f.chans[i].held) })
	return n
}

// awaitHeld waits until the device holds n requests on reactor i.
func (g *rig) awaitHeld(i, n int) {
	g.t.Helper()
	for end := time.Now().Add(patience); g.heldOn(i) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("the device holds %d requests on reactor %d, want %d", g.heldOn(i), i, n)
		}
	}
}

// finish answers the first held request on reactor i.
func (g *rig) finish(i int, st block.Status) {
	g.t.Helper()
	g.on(i, func() {
		if len(g.f.chans[i].held) == 0 {
			g.t.Errorf("the device holds nothing on reactor %d", i)
			return
		}
		g.f.chans[i].finish(0, st)
	})
}

// client is a frontend that hands what completes to the test.
type client struct {
	g    *rig
	i    int
	q    *volume.Queue
	back chan *volume.IO
}

func (c *client) Completed(batch []*volume.IO) {
	for _, io := range batch {
		c.back <- io
	}
}

func (c *client) submit(ios ...*volume.IO) {
	c.g.t.Helper()
	c.g.on(c.i, func() { c.q.Submit(ios) })
}

// wait gives the next request that has completed.
func (c *client) wait() *volume.IO {
	c.g.t.Helper()
	select {
	case io := <-c.back:
		return io
	case <-time.After(patience):
		c.g.t.Fatal("no request has come back")
		return nil
	}
}

// none fails the test if a request has come back, when all that the reactor
// was given before has been done.
func (c *client) none() {
	c.g.t.Helper()
	c.g.on(c.i, func() {}) // the turn in which it would have come back
	c.g.on(c.i, func() {})
	select {
	case io := <-c.back:
		c.g.t.Fatalf("%v has come back with %v, too early", io.Op, io.Status)
	default:
	}
}

// ask submits one request and waits for it, whatever the device does with it.
func (c *client) ask(io *volume.IO) block.Status {
	c.g.t.Helper()
	c.submit(io)
	if got := c.wait(); got != io {
		c.g.t.Fatal("another request came back")
	}
	return io.Status
}

func request(op block.Op, flags block.Flags, offset, length uint64) *volume.IO {
	io := &volume.IO{Request: block.Request{Op: op, Flags: flags, Offset: offset, Length: length}}
	if op.HasPayload() {
		io.Data = [][]byte{make([]byte, length)}
	}
	if op == block.OpBlockStatus {
		io.Extents = make([]block.Extent, 0, 8)
	}
	return io
}
