package builtin

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// patience bounds every wait of the tests.
const patience = 20 * time.Second

// completer is a store.Completer for tests. It fails the test when a request
// completes that is not outstanding, or twice.
type completer struct {
	t       testing.TB
	mu      sync.Mutex
	changed sync.Cond
	open    map[*block.Request]bool
	inline  int // completed within Submit
	posted  int // posted by workers
}

func newCompleter(t testing.TB) *completer {
	c := &completer{t: t, open: map[*block.Request]bool{}}
	c.changed.L = &c.mu
	return c
}

func (c *completer) Complete(r *block.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inline++
	c.take(r)
	c.changed.Broadcast() // a reactor's ring completes after Submit, too
}

func (c *completer) Post(batch []*block.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.posted += len(batch)
	for _, r := range batch {
		c.take(r)
	}
	c.changed.Broadcast()
}

func (c *completer) take(r *block.Request) {
	if !c.open[r] {
		c.t.Errorf("%v at %d completed though it is not outstanding", r.Op, r.Offset)
	}
	delete(c.open, r)
	if r.Op == block.OpRead && r.Status == block.OK && r.Filled != r.Length {
		c.t.Errorf("read at %d: %d of %d bytes filled", r.Offset, r.Filled, r.Length)
	}
}

// do submits a batch and waits for all of it.
func (c *completer) do(ch store.Channel, batch ...*block.Request) {
	c.mu.Lock()
	for _, r := range batch {
		c.open[r] = true
	}
	c.mu.Unlock()
	ch.Submit(batch)
	late := time.AfterFunc(patience, c.changed.Broadcast)
	defer late.Stop()
	for end := time.Now().Add(patience); ; {
		c.mu.Lock()
		if len(c.open) > 0 && time.Now().Before(end) {
			c.changed.Wait()
		}
		left := len(c.open)
		c.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%d requests never completed", left)
		}
	}
}

// disk is an open device with one channel.
type disk struct {
	t    testing.TB
	dev  store.Device
	ch   store.Channel
	c    *completer
	info block.Info
}

// openDisk opens a disk that is closed, and checked for leaks, at the end.
func openDisk(t testing.TB, p store.Plugin, o store.Options) *disk {
	t.Helper()
	checkLeaks(t)
	dev, err := p.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, dev: dev, c: newCompleter(t), info: dev.Info()}
	if d.ch, err = dev.Channel(d.c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

func (d *disk) close() {
	if d.dev == nil {
		return
	}
	d.ch.Close()
	if err := d.dev.Close(); err != nil {
		d.t.Error(err)
	}
	d.dev = nil
}

// one does one request and gives its status.
func (d *disk) one(r *block.Request) block.Status {
	d.t.Helper()
	d.c.do(d.ch, r)
	return r.Status
}

// must does one request that has to succeed.
func (d *disk) must(r *block.Request) {
	d.t.Helper()
	if st := d.one(r); st != block.OK {
		d.t.Fatalf("%v of %d bytes at %d: %v", r.Op, r.Length, r.Offset, st)
	}
}

func (d *disk) write(off uint64, data []byte, flags block.Flags) block.Status {
	d.t.Helper()
	return d.one(&block.Request{Op: block.OpWrite, Flags: flags, Offset: off, Length: uint64(len(data)), Data: [][]byte{data}})
}

func (d *disk) read(off, n uint64) []byte {
	d.t.Helper()
	buf := make([]byte, n)
	for i := range buf {
		buf[i] = 0xA5
	}
	d.must(&block.Request{Op: block.OpRead, Offset: off, Length: n, Data: [][]byte{buf}})
	return buf
}

func (d *disk) extents(off, n uint64, room int, flags block.Flags) []block.Extent {
	d.t.Helper()
	r := &block.Request{Op: block.OpBlockStatus, Flags: flags, Offset: off, Length: n, Extents: make([]block.Extent, 0, room)}
	d.must(r)
	return r.Extents
}

// checkLeaks fails the test if it ends with more goroutines or descriptors
// than it began with.
func checkLeaks(t testing.TB) {
	t.Helper()
	fds, goroutines := countFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > goroutines && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines leaked", n-goroutines)
		}
		if n := countFDs(t); n > fds {
			t.Errorf("%d descriptors leaked", n-fds)
		}
	})
}

func countFDs(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// mountAt mounts a small file system for the test, or skips it.
func mountAt(t testing.TB, kind, data string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("mounting a %s needs root", kind)
	}
	dir := filepath.Join(t.TempDir(), kind)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, kind, 0, data); err != nil {
		t.Skipf("cannot mount a %s here: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func fileOptions(path string, size uint64) store.Options {
	o := store.Options{Volume: "test", Strings: map[string]string{"path": path}, Sizes: map[string]uint64{}, Bools: map[string]bool{}}
	if size > 0 {
		o.Sizes["size"] = size
	}
	return o
}

func sizeOptions(size uint64) store.Options {
	return store.Options{Volume: "test", Sizes: map[string]uint64{"size": size}}
}
