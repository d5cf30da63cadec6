package vhostuser

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/internal/vhosttest"
)

// patience bounds everything that a test waits for.
const patience = 20 * time.Second

// rig is a server on two reactors with one export. When the test ends it checks
// that nothing is left: no connection, no descriptor, no load.
type rig struct {
	t        testing.TB
	s        *Server
	l        *Listener
	reactors []*reactor.Reactor
	disk     *disk
	volume   *volume.Volume
	path     string
	log      *logBuffer
	fds      int
	options  Options
	export   Export
	client   bool // client mode
}

// newRig serves a disk; change may alter anything before.
func newRig(t testing.TB, change ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, disk: newDisk(16 << 20), log: &logBuffer{}, path: filepath.Join(socketDir(t), "s")}
	r.reactors = newReactors(t, 2, 20*time.Microsecond)
	r.options = Options{Reactors: r.reactors, Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		RedialEvery: 5 * time.Millisecond}
	r.export = Export{Name: "vm1", Queues: 2, Serial: "disk-1"}
	for _, f := range change {
		f(r)
	}
	r.fds = openFiles(t)
	if r.volume = r.export.Volume; r.volume == nil {
		r.volume = newVolume(t, r.reactors, r.disk)
		r.export.Volume = r.volume
	}
	r.up()
	t.Cleanup(r.end)
	return r
}

// up starts a server, as an engine that starts does.
func (r *rig) up() {
	r.t.Helper()
	r.s = NewServer(r.options)
	var err error
	if r.client {
		r.l, err = r.s.Connect(r.path)
	} else {
		r.l, err = r.s.Listen(r.path)
	}
	if err == nil {
		err = r.l.Start(r.export)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) end() {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	r.disk.release()
	if err := r.s.Shutdown(ctx); err != nil {
		r.t.Errorf("Shutdown: %v", err)
	}
	for i, w := range r.s.workers {
		if n := w.load.Load(); n != 0 {
			r.t.Errorf("reactor %d: %d queues left over", i, n)
		}
		w.r.Do(func() {
			if len(w.tallies) != 0 {
				r.t.Errorf("reactor %d: %d tallies left over", i, len(w.tallies))
			}
		})
	}
	if _, err := os.Lstat(r.path); err == nil && !r.client {
		r.t.Error("the socket is left over")
	}
	r.eventually("as many descriptors as before", func() bool { return openFiles(r.t) <= r.fds })
}

// open boots a machine.
func (r *rig) open(change ...func(*vhosttest.Options)) *vhosttest.Frontend {
	r.t.Helper()
	o := vhosttest.Options{Socket: r.path, Queues: 2, Redial: 5 * time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	f, err := vhosttest.Open(ctx, o)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
	r.t.Cleanup(f.Close)
	return f
}

func (r *rig) driver(f *vhosttest.Frontend, queue int) *vhosttest.Driver {
	d := f.Driver(queue)
	r.t.Cleanup(d.Close)
	return d
}

func (r *rig) redial(f *vhosttest.Frontend) {
	r.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	if err := f.Redial(ctx); err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
}

// eventually waits until f is true.
func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not reached: %s\n%s", what, r.log)
		}
	}
}

func (r *rig) logged(what string) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("the log says %q", what), func() bool { return strings.Contains(r.log.String(), what) })
}

func (r *rig) stats() ExportStats { return r.s.Stats().Exports[0] }

// check ends a test that has failed, with what the server said.
func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
}

func lost(t testing.TB, f *vhosttest.Frontend) {
	t.Helper()
	select {
	case <-f.Lost():
	case <-time.After(patience):
		t.Fatal("the connection has not ended")
	}
}

func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhu") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// pattern gives n bytes that tell where they belong.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*2862933555777941757 + 3037000493
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}
