package volume_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// workers is a store that answers some requests at once and hands the others to
// goroutines, which post them back alone and in batches.
type workers struct {
	wg      sync.WaitGroup
	openErr error
	closed  bool
	gone    bool
}

func (w *workers) Info() block.Info { return block.Info{Size: 1 << 30, BlockSize: 512} }

func (w *workers) Channel(done store.Completer) (store.Channel, error) {
	if w.openErr != nil {
		return nil, w.openErr
	}
	return &workerChannel{w: w, done: done, rng: rand.New(rand.NewPCG(1, 9))}, nil
}

func (w *workers) Close() error {
	w.gone = w.closed
	return nil
}

type workerChannel struct {
	w    *workers
	done store.Completer
	rng  *rand.Rand
}

func (c *workerChannel) Close() {
	c.w.wg.Wait()
	c.w.closed = true
}

func (c *workerChannel) Submit(batch []*block.Request) {
	var later []*block.Request
	for _, r := range batch {
		r.Filled = r.Length
		r.Data[0][0] = byte(r.Offset >> 9)
		if c.rng.IntN(3) == 0 {
			c.done.Complete(r)
			continue
		}
		later = append(later, r)
	}
	for len(later) > 0 {
		n := 1 + c.rng.IntN(len(later))
		some := later[:n:n]
		later = later[n:]
		c.w.wg.Go(func() { c.done.Post(some); clear(some) })
	}
}

// asker reads n times, several at a time, and counts what comes back.
type asker struct {
	t    *testing.T
	q    *volume.Queue
	left int
	out  map[*volume.IO]bool
	done chan struct{}
}

func (a *asker) more() {
	var batch []*volume.IO
	for range min(a.left, 5) {
		a.left--
		io := request(block.OpRead, 0, uint64(a.left)*512, 512)
		a.out[io] = true
		batch = append(batch, io)
	}
	a.q.Submit(batch)
}

func (a *asker) Completed(batch []*volume.IO) {
	for _, io := range batch {
		if !a.out[io] || io.Status != block.OK || io.Data[0][0] != byte(io.Offset>>9) {
			a.t.Errorf("offset %d: ended with %v, or twice", io.Offset, io.Status)
		}
		delete(a.out, io)
	}
	switch {
	case a.left > 0 && len(a.out) < 20:
		a.more()
	case a.left == 0 && len(a.out) == 0:
		close(a.done)
	}
}

// A store plugin's goroutines hand requests back to the reactor, each once.
func TestStoreDevice(t *testing.T) {
	rs := newReactors(t, 2)
	v := volume.New(volume.Options{Name: "v", Reactors: rs, Log: quiet})
	w := &workers{openErr: errors.New("no room")}
	if err := v.Attach(volume.Store(w), w.Info()); err != nil {
		t.Fatal(err)
	}
	rs[0].Do(func() {
		if _, err := v.Open(rs[0], nil, volume.QueueOptions{}); !errors.Is(err, w.openErr) {
			t.Errorf("a channel that cannot be opened: %v", err)
		}
	})
	w.openErr = nil
	var all []*asker
	for _, r := range rs {
		a := &asker{t: t, left: 3000, out: map[*volume.IO]bool{}, done: make(chan struct{})}
		all = append(all, a)
		r.Do(func() {
			var err error
			if a.q, err = v.Open(r, a, volume.QueueOptions{}); err != nil {
				t.Error(err)
				close(a.done)
				return
			}
			for range 3 {
				a.more()
			}
		})
	}
	for i, a := range all {
		select {
		case <-a.done:
		case <-time.After(patience):
			t.Fatal("requests are missing")
		}
		rs[i].Do(a.q.Close)
	}
	if err := v.Close(t.Context()); err != nil || !w.gone {
		t.Errorf("close: %v; the device was closed behind its channels: %v", err, w.gone)
	}
}
