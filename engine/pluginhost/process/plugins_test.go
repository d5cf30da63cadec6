package process

import (
	"sync"
	"sync/atomic"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// testSize is that of a testDevice.
const testSize = 1 << 20

// testDevice is a store plugin's disk: "null" reads as zeroes, "memory" has bytes,
// "post" too, and finishes its requests on a goroutine of its own, "never" finishes
// them when neverEnds says so.
type testDevice struct {
	kind string
	mu   sync.Mutex // guards data
	data []byte
}

func (d *testDevice) Info() block.Info {
	return block.Info{Size: testSize, BlockSize: 1, PreferredBlock: 4096, Caps: block.CapFlush | block.CapBlockStatus, Identity: "test"}
}

func (d *testDevice) Close() error { return nil }

func (d *testDevice) Channel(done store.Completer) (store.Channel, error) {
	c := &testChannel{d: d, done: done}
	if d.kind == "null" {
		return c, nil
	}
	d.data = make([]byte, testSize)
	if d.kind == "post" || d.kind == "never" {
		c.later = make(chan *block.Request, 1024)
		go c.post()
	}
	return c, nil
}

// neverEnds ends what the disk "never" holds.
var neverEnds atomic.Bool

type testChannel struct {
	d     *testDevice
	done  store.Completer
	later chan *block.Request
}

func (c *testChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		if c.later != nil {
			c.later <- r
			continue
		}
		c.d.serve(r)
		c.done.Complete(r)
	}
}

// post finishes requests in other batches and another order.
func (c *testChannel) post() {
	var batch []*block.Request
	for r := range c.later {
		for c.d.kind == "never" && !neverEnds.Load() {
			time.Sleep(time.Millisecond)
		}
		c.d.serve(r)
		batch = append([]*block.Request{r}, batch...)
		if len(c.later) == 0 || len(batch) == 5 {
			c.done.Post(batch)
			batch = batch[:0]
		}
	}
}

func (c *testChannel) Close() {
	if c.later != nil {
		close(c.later)
	}
}

func (d *testDevice) serve(r *block.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.Op {
	case block.OpRead:
		at := r.Offset
		for _, b := range r.Data {
			if d.data == nil {
				clear(b)
			} else {
				at += uint64(copy(b, d.data[at:]))
			}
		}
		r.Filled = r.Length
	case block.OpWrite:
		at := r.Offset
		for _, b := range r.Data {
			if d.data != nil {
				at += uint64(copy(d.data[at:], b))
			}
		}
	case block.OpBlockStatus:
		half := r.Length / 2
		r.Extents = append(r.Extents, block.Extent{Length: half}, block.Extent{Length: r.Length - half, State: block.Hole | block.Zero})
	case block.OpCache:
		r.Status = block.ENOTSUP
	}
}

// echoPlugin answers each request at once; see echoConn.
type echoPlugin struct{}

func (echoPlugin) Manifest() manifest.Manifest { return manifest.Manifest{Name: "echo", Version: "1"} }
func (echoPlugin) NewConn() protocol.Conn      { return &echoConn{} }

// echoConn completes request T with status T, and panics on request 666.
type echoConn struct{ protocol.Base }

func (*echoConn) Opened(a *protocol.Actions, _ *protocol.Opened) { a.Ready(1) }
func (*echoConn) Received(*protocol.Actions, []byte) int         { return 0 }

func (*echoConn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		switch batch[i].Tag {
		case 666:
			panic("the number")
		case 667:
			select {} // never answers
		}
		a.Complete(batch[i].Tag, block.Status(batch[i].Tag))
	}
	return len(batch)
}
