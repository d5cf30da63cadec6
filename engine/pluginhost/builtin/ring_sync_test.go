package builtin

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// tap stands between a ring and a channel and changes the results of syncs.
type tap struct {
	*fileRing
	results []int32
}

func (x *tap) Reap(c iouring.CQE) {
	if c.UserData == syncEntry && len(x.results) > 0 {
		c.Res, x.results = x.results[0], x.results[1:]
	}
	x.fileRing.Reap(c)
}

// tapSyncs has the next syncs by the ring end with these results.
func tapSyncs(d *disk, results ...int32) {
	x := ringOf(d)
	d.dev.(*reactorDevice).r.Do(func() {
		before := x.user
		x.user, _ = before.Hub().Join(&tap{x, results}, true)
		before.Leave(nil)
	})
}

func flush() *block.Request { return &block.Request{Op: block.OpFlush} }

// TestRingSyncResults: a sync that was interrupted, or that did not begin, is done
// all the same; one that failed is told to all whom it concerns, once.
func TestRingSyncResults(t *testing.T) {
	needRing(t)
	d := openDisk(t, onReactor{File(), ioAuto}, fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20))
	tapSyncs(d, -int32(syscall.EINTR), -int32(syscall.EINTR), 0, -int32(syscall.ECANCELED), -int32(syscall.EIO), 0)
	for i, want := range []block.Status{block.OK, block.OK, block.EIO, block.OK} {
		if st := d.one(flush()); st != want {
			t.Errorf("flush %d: %v, want %v", i, st, want)
		}
	}
	a, b, c := flush(), flush(), flush()
	tapSyncs(d, -int32(syscall.ENOSPC), 0)
	d.c.do(d.ch, a, b, c)
	// The first is alone in the sync that fails; the others were submitted
	// before it did, so their sync owes them the error.
	for i, r := range []*block.Request{a, b, c} {
		if r.Status != block.ENOSPC {
			t.Errorf("flush %d of three: %v", i, r.Status)
		}
	}
	if st := d.one(flush()); st != block.OK {
		t.Errorf("the flush after them: %v", st)
	}
	if s := &d.dev.(*reactorDevice).Device.(*fileDevice).sync; s.running || len(s.waiting) > 0 {
		t.Errorf("running %v, %d wait, and nothing is outstanding", s.running, len(s.waiting))
	}
}

// TestRingSyncIsHandedOver: a channel does not stay open for the syncs of others;
// a worker goes on with them.
func TestRingSyncIsHandedOver(t *testing.T) {
	needRing(t)
	d := openDisk(t, onReactor{File(), ioAuto}, fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20))
	dev := d.dev.(*reactorDevice).Device.(*fileDevice)
	other, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other.Start()
	defer other.Stop()
	far := &disk{t: t, dev: &reactorDevice{dev, other}, c: newCompleter(t)}
	if far.ch, err = far.dev.Channel(far.c); err != nil {
		t.Fatal(err)
	}
	defer func() { far.ch.Close() }()
	calls := 0
	dev.sync.call = func() block.Status { // the worker's
		calls++
		return dev.syncFile()
	}
	mine, theirs := flush(), flush()
	far.ch = submitFunc2{far.ch, func() {
		x := ringOf(d)
		d.dev.(*reactorDevice).r.Do(func() { // both within one turn
			x.sync(job{r: mine, ch: x.ch, written: true})
			if dev.sync.add(job{r: theirs, ch: ringOf(&disk{ch: far.ch.(submitFunc2).Channel}).ch, written: true}) {
				t.Error("two are to sync")
			}
		})
	}}
	d.c.mu.Lock()
	d.c.open[mine] = true
	d.c.mu.Unlock()
	far.c.do(far.ch, theirs)
	far.ch = far.ch.(submitFunc2).Channel
	d.c.do(submitFunc(func([]*block.Request) {}))
	if mine.Status != block.OK || theirs.Status != block.OK || calls != 1 {
		t.Errorf("%v and %v, %d syncs by a worker", mine.Status, theirs.Status, calls)
	}
}

// submitFunc2 is a channel on which something else is done than to submit.
type submitFunc2 struct {
	store.Channel
	do func()
}

func (f submitFunc2) Submit([]*block.Request) { f.do() }

// TestRingSyncAmongChannels: flushes of channels on several reactors, which are
// closed at once when their own is answered, all end.
func TestRingSyncAmongChannels(t *testing.T) {
	needRing(t)
	checkLeaks(t)
	dev, err := File().Open(context.Background(), fileOptions(filepath.Join(t.TempDir(), "disk"), 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error)
	for range 3 {
		r, err := reactor.New(reactor.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r.Start()
		go func() {
			defer r.Stop()
			for range 60 {
				c := newCompleter(t)
				ch, err := (&reactorDevice{dev, r}).Channel(c)
				if err != nil {
					over <- err
					return
				}
				c.do(ch, flush(), &block.Request{Op: block.OpWrite, Length: 4, Data: [][]byte{[]byte("data")}}, flush())
				ch.Close()
			}
			over <- nil
		}()
	}
	for range 3 {
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}
