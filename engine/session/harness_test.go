package session_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"
	"unsafe"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/engine/session"
	"blockengine/engine/transport"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/block"
)

// rig is a volume on a session with a server, and a client of that volume.
type rig struct {
	t        *testing.T
	reactors []*reactor.Reactor
	vol      *volume.Volume
	sess     *session.Session
}

type rigOptions struct {
	network, addr string
	reactors      int
	module        guest.Module
	store         guest.Store // instead of a module
	options       string
	timeout       time.Duration
	fence         time.Duration
	trust         bool
	connections   int
}

// newRig opens a session. It does not wait for the server.
func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	if o.reactors == 0 {
		o.reactors = 1
	}
	if o.module == nil {
		o.module = guest.Linked(nbd.Plugin())
	}
	if o.timeout == 0 {
		o.timeout = 20 * time.Second
	}
	var w io.Writer = io.Discard
	if testing.Verbose() {
		w = os.Stderr
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r := &rig{t: t}
	for i := range o.reactors {
		re, err := reactor.New(reactor.Options{Index: i})
		if err != nil {
			t.Fatal(err)
		}
		re.Start()
		r.reactors = append(r.reactors, re)
	}
	r.vol = volume.New(volume.Options{Name: "vol", Reactors: r.reactors, Log: log})
	gen := session.NewGeneration(1, modules(o.module), []byte(o.options), o.reactors)
	paths := []transport.Address{{Network: o.network, Addr: o.addr}}
	if o.store != nil {
		gen, paths = session.NewStoreGeneration(1, o.store, []byte(o.options), o.reactors), nil
	}
	var err error
	r.sess, err = session.Open(session.Options{
		Volume: r.vol, Generation: gen, Reactors: r.reactors, Home: r.reactors[0], Paths: paths,
		Timeout: o.timeout, Fence: o.fence, TrustCache: o.trust, Connections: o.connections, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = r.vol.Close(ctx)
	_ = r.sess.Close()
	for _, re := range r.reactors {
		re.Stop()
	}
}

// waitState waits for the volume to reach a state.
func (r *rig) waitState(want volume.State) {
	r.t.Helper()
	nbdtest.WaitFor(r.t, "volume "+want.String(), func() bool {
		s, _ := r.vol.State()
		return s == want
	})
}

// client is a queue of the volume whose calls wait.
type client struct {
	rig *rig
	r   *reactor.Reactor
	q   *volume.Queue
}

// open waits until the volume is online and opens a queue on reactor n.
func (r *rig) open(n int) *client {
	r.t.Helper()
	r.waitState(volume.Online)
	c := &client{rig: r, r: r.reactors[n]}
	var err error
	c.r.Do(func() { c.q, err = r.vol.Open(c.r, c, volume.QueueOptions{}) })
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

type call struct {
	volume.IO
	done chan struct{}
}

func (c *client) Completed(batch []*volume.IO) {
	for _, io := range batch {
		close(pending(io).done)
	}
}

func (c *client) start(op block.Op, flags block.Flags, off, n uint64, data ...[]byte) *call {
	return c.submit(c.make(op, flags, off, n, data...))
}

func (c *client) make(op block.Op, flags block.Flags, off, n uint64, data ...[]byte) *call {
	k := &call{done: make(chan struct{})}
	k.Op, k.Flags, k.Offset, k.Length, k.Data = op, flags, off, n, data
	if op == block.OpBlockStatus {
		k.Extents = make([]block.Extent, 0, 64)
	}
	remember(k)
	return k
}

func (c *client) submit(k *call) *call {
	c.r.Post(reactor.MailFunc(func() { c.q.Submit([]*volume.IO{&k.IO}) }))
	return k
}

// wait gives the status of a request, or fails the test if it hangs.
func (k *call) wait(t *testing.T) block.Status {
	t.Helper()
	select {
	case <-k.done:
		return k.Status
	case <-time.After(60 * time.Second):
		t.Fatalf("%v at %d hangs", k.Op, k.Offset)
		return 0
	}
}

func (k *call) isDone() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

func (c *client) must(op block.Op, flags block.Flags, off, n uint64, data ...[]byte) *call {
	c.rig.t.Helper()
	k := c.start(op, flags, off, n, data...)
	if st := k.wait(c.rig.t); st != block.OK {
		c.rig.t.Fatalf("%v at %d+%d: %v", op, off, n, st)
	}
	return k
}

func (c *client) write(off uint64, b []byte) { c.must(block.OpWrite, 0, off, uint64(len(b)), b) }

func (c *client) read(off uint64, n int) []byte {
	b := bytes.Repeat([]byte{0xEE}, n)
	c.must(block.OpRead, 0, off, uint64(n), b)
	return b
}

func (c *client) flush() block.Status {
	return c.start(block.OpFlush, 0, 0, 0).wait(c.rig.t)
}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// pending finds the call that an IO belongs to.
func pending(io *volume.IO) *call { return (*call)(unsafe.Pointer(io)) }

// remember keeps the layout that pending relies on honest.
func remember(k *call) {
	if unsafe.Pointer(k) != unsafe.Pointer(&k.IO) {
		panic("IO is not the first field of call")
	}
}
