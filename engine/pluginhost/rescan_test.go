package pluginhost

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// growingStore is a linked store whose disk changes, and says so or is looked at.
type growingStore struct {
	fakeStore
	changed func()
	next    uint64 // bytes that a look finds; 0: it fails
}

func (g *growingStore) Open(context.Context, store.Options) (store.Device, error) { return g, nil }
func (g *growingStore) Watch(changed func())                                      { g.changed = changed }

func (g *growingStore) Info() block.Info {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.info
}

func (g *growingStore) set(size uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.info.Size = size
}

func (g *growingStore) Rescan(context.Context) error {
	if g.next == 0 {
		return errors.New("the drawer is locked")
	}
	g.set(g.next)
	return nil
}

func openGrowing(t *testing.T) (*growingStore, *Disk) {
	t.Helper()
	g := &growingStore{}
	g.info = block.Info{Size: 4096, BlockSize: 512, Identity: "one"}
	d := newTestDisk(t, &g.fakeStore)
	d.plugin.store = g
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	waitState(t, d.Volume, volume.Online)
	<-d.opened
	return g, d
}

func TestLinkedDiskSaysThatItHasGrown(t *testing.T) {
	g, d := openGrowing(t)
	seen := make(chan uint64, 16)
	defer d.Volume.Watch(func(v *volume.Volume) {
		info, _ := v.Info()
		seen <- info.Size
	})()
	for _, size := range []uint64{8192, 16384} {
		g.set(size)
		g.changed()
		select {
		case got := <-seen:
			if got != size {
				t.Errorf("frontends see %d bytes, want %d", got, size)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nobody is told that the disk has grown")
		}
	}
	closeDisk(t, d)
	g.changed() // it does nothing any more
}

func TestRescan(t *testing.T) {
	g, d := openGrowing(t)
	if _, err := d.Rescan(t.Context()); err == nil || !strings.Contains(err.Error(), "the drawer is locked") {
		t.Errorf("a look that fails: %v", err)
	}
	g.next = 8192
	if info, err := d.Rescan(t.Context()); err != nil || info.Size != 8192 {
		t.Errorf("%+v, %v", info, err)
	}
	g.next = 512
	if _, err := d.Rescan(t.Context()); err == nil || !strings.Contains(err.Error(), "shrunk from 8192 to 512") {
		t.Errorf("a disk that has shrunk: %v", err)
	}
	waitState(t, d.Volume, volume.Stopped)
	if _, err := d.Rescan(t.Context()); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("a look at a volume that is stopped: %v", err)
	}
	closeDisk(t, d)
}
