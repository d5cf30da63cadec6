package nbd

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// disk is a store.Device in memory. What it does besides can be set before it
// is used.
type disk struct {
	info block.Info

	mu    sync.Mutex // guards what follows
	data  []byte
	hold  bool // keep requests until they are let go
	held  []held
	fail  block.Status // of every request, if not OK
	count int          // requests seen
	last  block.Request
}

type held struct {
	ch *diskChannel
	r  *block.Request
}

const allCaps = block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero |
	block.CapBlockStatus | block.CapCache | block.CapFlushCoversAll

func newDisk(size int) *disk {
	return &disk{
		info: block.Info{Size: uint64(size), BlockSize: 1, PreferredBlock: 4096, Caps: allCaps, Identity: "disk"},
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
	c.d.mu.Lock()
	hold := c.d.hold
	c.d.count += len(batch)
	c.d.last = *batch[len(batch)-1]
	if hold {
		for _, r := range batch {
			c.d.held = append(c.d.held, held{c, r})
		}
	}
	c.d.mu.Unlock()
	if hold {
		return
	}
	for _, r := range batch {
		c.d.serve(r)
		c.done.Complete(r)
	}
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

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *disk) seen() (count, held int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count, len(d.held)
}

// content is a copy of n bytes.
func (d *disk) content(at uint64, n int) (b []byte) {
	d.set(func() { b = append(b, d.data[at:at+uint64(n)]...) })
	return b
}

func (d *disk) serve(r *block.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Status = d.fail; r.Status != block.OK {
		return
	}
	at := r.Offset
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
	case block.OpBlockStatus:
		d.extents(r)
	}
}

// extents reports each 4 KiB block that holds zeroes only as a hole.
func (d *disk) extents(r *block.Request) {
	for at, end := r.Offset, r.Offset+r.Length; at < end && len(r.Extents) < cap(r.Extents); {
		n := min(4096-at%4096, end-at)
		st := block.Hole | block.Zero
		for _, b := range d.data[at : at+n] {
			if b != 0 {
				st = 0
				break
			}
		}
		r.Extents = append(r.Extents, block.Extent{Length: n, State: st})
		at += n
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

var (
	serve    = flag.String("nbd.serve", "", "serve 1 GiB of memory at this Unix socket until interrupted, for measurements")
	reactors = flag.Int("nbd.reactors", 1, "reactors to serve with")
	spin     = flag.Duration("nbd.spin", 0, "spin time of these")
)

// TestServe serves until interrupted, for measurements by hand; see -nbd.serve.
func TestServe(t *testing.T) {
	if *serve == "" {
		t.Skip("for measurements only: give -nbd.serve SOCKET")
	}
	rs := newReactors(t, *reactors, *spin)
	s := NewServer(Options{Reactors: rs})
	l, err := s.Listen("unix", filepath.Clean(*serve))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Export{Name: "", Volume: newVolume(t, rs, newDisk(1<<30))}); err != nil {
		t.Fatal(err)
	}
	t.Logf("serving at %s", l.Addr())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	for _, w := range s.workers {
		turns, sleeps := w.r.Load()
		t.Logf("reactor %d: %d turns, %d sleeps", w.r.Index(), turns, sleeps)
	}
	_ = s.Shutdown(t.Context())
}
