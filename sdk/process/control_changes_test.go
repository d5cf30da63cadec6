package process

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/process/control"
	"blockengine/sdk/store"
)

// growing is a disk that grows when it is told to, or looked at.
type growing struct {
	closing
	size    atomic.Uint64
	changed func()
	rescan  func(ctx context.Context) error
}

func (g *growing) Info() block.Info     { return block.Info{Size: g.size.Load(), BlockSize: 512} }
func (g *growing) Watch(changed func()) { g.changed = changed }
func (g *growing) Rescan(ctx context.Context) error {
	if g.rescan != nil {
		return g.rescan(ctx)
	}
	g.size.Add(4096)
	return nil
}

// storeOf opens one disk.
type storeOf struct{ store.Device }

func (storeOf) Manifest() store.Manifest { return store.Manifest{Name: "one", Version: "1"} }
func (s storeOf) Open(context.Context, store.Options) (store.Device, error) {
	return s.Device, nil
}

func openOne(t *testing.T, d store.Device) *server {
	t.Helper()
	s := newServer(Options{Store: storeOf{d}}, newInbox())
	if _, err := s.OpenDevice(context.Background(), &control.OpenDevice{Device: 1}); err != nil {
		t.Fatal(err)
	}
	return s
}

func newGrowing() *growing {
	g := &growing{closing: closing{make(chan struct{})}}
	g.size.Store(4096)
	return g
}

func TestChangesAreTold(t *testing.T) {
	g := newGrowing()
	s := openOne(t, g)
	told := make(chan *control.DeviceChanges, 1)
	ask := func(seen uint64) {
		d, err := s.WatchDevice(context.Background(), &control.WatchDevice{Device: 1, Seen: seen})
		if err != nil {
			t.Error(err)
		}
		told <- d
	}
	go ask(0)
	g.size.Store(8192)
	g.changed()
	if d := <-told; d.Changes != 1 || d.Never {
		t.Fatalf("%+v", d)
	}
	g.changed()
	g.changed()
	if ask(1); (<-told).Changes != 3 { // several are told as one
		t.Error("changes before the question are not told")
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.WatchDevice(over, &control.WatchDevice{Device: 1, Seen: 3}); err == nil {
		t.Error("nothing has changed, and something is told")
	}
	d, err := s.open(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CloseDevice(context.Background(), &control.CloseDevice{Device: 1}); err != nil {
		t.Fatal(err)
	}
	g.changed() // it does nothing any more
	if last, err := d.changes.await(context.Background(), 3); err != nil || !last.Never || last.Changes != 3 {
		t.Errorf("a disk that is closed tells %+v, %v", last, err)
	}
}

func TestDiskThatNeverTells(t *testing.T) {
	s := openOne(t, &closing{make(chan struct{})})
	d, err := s.WatchDevice(context.Background(), &control.WatchDevice{Device: 1})
	if err != nil || !d.Never {
		t.Errorf("%+v, %v", d, err)
	}
	info, err := s.DeviceInfo(context.Background(), &control.DeviceInfo{Device: 1, Rescan: true})
	if err != nil || info.Size != 4096 {
		t.Errorf("a disk that cannot look: %+v, %v", info, err)
	}
}

func TestDiskLooksWhenItIsTold(t *testing.T) {
	g := newGrowing()
	s := openOne(t, g)
	for _, want := range []struct {
		rescan bool
		size   uint64
	}{{false, 4096}, {true, 8192}, {false, 8192}} {
		info, err := s.DeviceInfo(context.Background(), &control.DeviceInfo{Device: 1, Rescan: want.rescan})
		if err != nil || info.Size != want.size {
			t.Errorf("rescan %t: %+v, %v, want %d bytes", want.rescan, info, err, want.size)
		}
	}
	g.rescan = func(context.Context) error { return errors.New("the server does not say") }
	if _, err := s.DeviceInfo(context.Background(), &control.DeviceInfo{Device: 1, Rescan: true}); err == nil || !strings.Contains(err.Error(), "does not say") {
		t.Errorf("a look that fails: %v", err)
	}
	if _, err := s.DeviceInfo(context.Background(), &control.DeviceInfo{Device: 2}); err == nil {
		t.Error("a disk that is not open is described")
	}
}

func TestCloseEndsALook(t *testing.T) {
	g := newGrowing()
	s := openOne(t, g)
	looking := make(chan struct{})
	g.rescan = func(ctx context.Context) error {
		close(looking)
		<-ctx.Done()
		return ctx.Err()
	}
	failed := make(chan error, 1)
	go func() {
		_, err := s.DeviceInfo(context.Background(), &control.DeviceInfo{Device: 1, Rescan: true})
		failed <- err
	}()
	wait(t, looking, "it does not look")
	if _, err := s.CloseDevice(context.Background(), &control.CloseDevice{Device: 1}); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("the look ends with %v", err)
	}
	wait(t, g.closed, "the disk is not closed")
}
