package vhostuser

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// disk is a store.Device in memory. What it does besides can be set while it is
// used.
type disk struct {
	info block.Info

	mu   sync.Mutex // guards what follows
	data []byte
	hold bool // keep requests until they are let go
	held []held
	fail block.Status    // of every request, if not OK
	seen []block.Request // without their data
}

type held struct {
	ch *diskChannel
	r  *block.Request
}

const allCaps = block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFlushCoversAll

func newDisk(size int) *disk {
	return &disk{
		info: block.Info{Size: uint64(size), BlockSize: 512, PreferredBlock: 4096, Caps: allCaps, Identity: "disk"},
		data: make([]byte, size),
	}
}

func (d *disk) Info() block.Info { return d.info }
func (d *disk) Close() error     { return nil }
func (d *disk) Channel(done store.Completer) (store.Channel, error) {
	return &diskChannel{d: d, done: done}, nil
}

type diskChannel struct {
	d    *disk
	done store.Completer
}

func (c *diskChannel) Close() {}

func (c *diskChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		if c.d.take(c, r) {
			c.d.serve(r)
			c.done.Complete(r)
		}
	}
}

// take notes a request, and reports whether it is to be served now.
func (d *disk) take(c *diskChannel, r *block.Request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	note := *r
	note.Data, note.Owner, note.Extents = nil, nil, nil
	d.seen = append(d.seen, note)
	if d.hold {
		d.held = append(d.held, held{c, r})
	}
	return !d.hold
}

func (d *disk) setHold(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = on
}

// release lets go what is held, the last first.
func (d *disk) release() {
	d.mu.Lock()
	d.hold = false
	all := d.held
	d.held = nil
	d.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		d.serve(all[i].r)
		all[i].ch.done.Post([]*block.Request{all[i].r})
	}
}

// requests gives what was seen, and forgets it.
func (d *disk) requests() []block.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := d.seen
	d.seen = nil
	return seen
}

func (d *disk) holding() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.held)
}

func (d *disk) content(at, n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.data[at : at+n])
}

func (d *disk) serve(r *block.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Status = d.fail; r.Status != block.OK {
		return
	}
	at := r.Offset
	// As those that the engine brings along do: memory may vanish.
	if err := sys.Guard(func() { d.move(r, at) }); err != nil {
		r.Status = block.EIO
	}
}

func (d *disk) move(r *block.Request, at uint64) {
	switch r.Op {
	case block.OpRead:
		for _, s := range r.Data {
			at += uint64(copy(s, d.data[at:]))
		}
		r.Filled = r.Length
	case block.OpWrite:
		for _, s := range r.Data {
			at += uint64(copy(d.data[at:], s))
		}
	case block.OpWriteZeroes, block.OpDiscard:
		clear(d.data[at : at+r.Length])
	}
}

func newReactors(t testing.TB, n int, spin time.Duration) []*reactor.Reactor {
	t.Helper()
	var rs []*reactor.Reactor
	for i := range n {
		r, err := reactor.New(reactor.Options{Index: i, Spin: spin})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		t.Cleanup(r.Stop)
		rs = append(rs, r)
	}
	return rs
}

func newVolume(t testing.TB, rs []*reactor.Reactor, d *disk) *volume.Volume {
	t.Helper()
	v := volume.New(volume.Options{Name: "v", Reactors: rs, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := v.Attach(volume.Store(d), d.info); err != nil {
		t.Fatal(err)
	}
	return v
}

// logBuffer collects what the server says.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
