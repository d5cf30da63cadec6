package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"blockengine/engine/config"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fakeStore fails to open as often as it is told, and counts what is open.
type fakeStore struct {
	mu       sync.Mutex
	failures int
	opens    int
	closes   int
	info     block.Info
	hang     bool // until ctx ends
}

func (f *fakeStore) Manifest() store.Manifest { return store.Manifest{Name: "memory", Version: "7"} }

func (f *fakeStore) Open(ctx context.Context, _ store.Options) (store.Device, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("the disk is not plugged in")
	}
	f.opens++
	return f, nil
}

func (f *fakeStore) Info() block.Info { return f.info }
func (f *fakeStore) Channel(store.Completer) (store.Channel, error) {
	return nil, errors.New("not here")
}

func (f *fakeStore) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closes++
	return nil
}

func (f *fakeStore) counts() (opens, closes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opens, f.closes
}

func newTestDisk(t *testing.T, f *fakeStore) *Disk {
	t.Helper()
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return NewDisk(DiskOptions{Config: config.Volume{Name: "v"}, Plugin: &Plugin{Name: "fake", Kind: Store, store: f},
		Identity: id, Reactors: []*reactor.Reactor{r}, Home: r, Log: slog.New(slog.DiscardHandler)})
}

// waitState waits for a state for as long as a test may take.
func waitState(t *testing.T, v *volume.Volume, want volume.State) string {
	t.Helper()
	changed := make(chan struct{}, 1)
	defer v.Watch(func(*volume.Volume) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	limit := time.After(30 * time.Second)
	for {
		st, reason := v.State()
		if st == want {
			return reason
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("the volume is %v (%s), want %v", st, reason, want)
		}
	}
}

func closeDisk(t *testing.T, d *Disk) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestStoreIsOpenedAgain(t *testing.T) {
	f := &fakeStore{failures: 1, info: block.Info{Size: 4096, BlockSize: 512}}
	d := newTestDisk(t, f)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	waitState(t, d.Volume, volume.Online)
	closeDisk(t, d)
	if opens, closes := f.counts(); opens != 1 || closes != 1 {
		t.Errorf("opened %d times, closed %d times", opens, closes)
	}
}

func TestCloseWhileOpening(t *testing.T) {
	d := newTestDisk(t, &fakeStore{hang: true})
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	closeDisk(t, d)
	if st, _ := d.Volume.State(); st != volume.Stopped {
		t.Errorf("the volume is %v", st)
	}
}

func TestSenselessDeviceStopsVolume(t *testing.T) {
	f := &fakeStore{info: block.Info{Size: 4096, BlockSize: 3}}
	d := newTestDisk(t, f)
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if reason := waitState(t, d.Volume, volume.Stopped); reason == "" {
		t.Error("the volume does not say why it has stopped")
	}
	<-d.opened
	if _, closes := f.counts(); closes != 1 {
		t.Errorf("the device was closed %d times", closes)
	}
	closeDisk(t, d)
}

func TestIdentityStays(t *testing.T) {
	dir := t.TempDir()
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := id.Session("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := id.Session("b")
	if err != nil {
		t.Fatal(err)
	}
	if a == b || a == [16]byte{} {
		t.Errorf("sessions %x and %x", a, b)
	}
	again, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a2, err := again.Session("a"); err != nil || a2 != a || again.Host() != id.Host() || id.Host() == [16]byte{} {
		t.Errorf("session %x after %x, host %x after %x, %v", a2, a, again.Host(), id.Host(), err)
	}
	for _, damaged := range []string{"", "xyz", "00112233445566778899aabbccddeeff0", "0011"} {
		writeFile(t, filepath.Join(dir, "sessions", "a"), damaged)
		if _, err := again.Session("a"); err == nil {
			t.Errorf("a file with %q is taken for an identifier", damaged)
		}
	}
}
