package nbd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
)

// patience bounds everything that a test waits for.
const patience = 20 * time.Second

// rig is a server on reactors of its own, with one export called "disk". When
// the test ends it checks that nothing is left: no connection, no memory.
type rig struct {
	t        testing.TB
	s        *Server
	l        *Listener
	reactors []*reactor.Reactor
	disk     *disk
	volume   *volume.Volume
	path     string
	log      *logBuffer
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

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t testing.TB, d *disk, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, disk: d, reactors: newReactors(t, 2, 0), log: &logBuffer{}}
	o := Options{Reactors: r.reactors, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, f := range change {
		f(&o)
	}
	r.s = NewServer(o)
	r.path = filepath.Join(nbdtest.SocketDir(t), "s")
	var err error
	if r.l, err = r.s.Listen("unix", r.path); err != nil {
		t.Fatal(err)
	}
	r.volume = newVolume(t, r.reactors, d)
	r.add(Export{Name: "disk", Description: "a disk", Volume: r.volume})
	t.Cleanup(r.end)
	return r
}

func (r *rig) add(e Export) {
	r.t.Helper()
	if err := r.l.Add(e); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) end() {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	if err := r.s.Shutdown(ctx); err != nil {
		r.t.Errorf("Shutdown: %v", err)
	}
	for i, w := range r.s.workers {
		w.r.Do(func() {
			if w.pool.inUse() != 0 || len(w.conns) != 0 || w.load.Load() != 0 || len(w.waiting) != 0 {
				r.t.Errorf("reactor %d: left over: %d bytes, %d connections, load %d, %d waiting", i, w.pool.inUse(), len(w.conns), w.load.Load(), len(w.waiting))
			}
		})
	}
}

// connect opens "disk".
func (r *rig) connect(o nbdtest.Options) *nbdtest.Client {
	r.t.Helper()
	if o.Export == "" {
		o.Export = "disk"
	}
	return nbdtest.Connect(r.t, "unix", r.path, o)
}

// raw connects without a handshake.
func (r *rig) raw() *nbdtest.Client {
	r.t.Helper()
	c, err := nbdtest.DialRaw("unix", r.path, nbdtest.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// greeted connects and exchanges flags.
func (r *rig) greeted() *nbdtest.Client {
	r.t.Helper()
	c := r.raw()
	if err := c.Greet(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// eventually waits until f is true.
func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not reached: %s", what)
		}
	}
}

func (r *rig) logged(what string) {
	r.t.Helper()
	r.eventually("log says "+what, func() bool { return strings.Contains(r.log.String(), what) })
}

func (r *rig) connections() int { return r.s.conns.count() }

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// framings are the three ways to talk.
var framings = map[string]nbdtest.Options{
	"simple":     {},
	"structured": {Structured: true, MetaContexts: []string{"base:allocation"}},
	"extended":   {Extended: true, MetaContexts: []string{"base:allocation"}},
}

func eachFraming(t *testing.T, f func(t *testing.T, o nbdtest.Options)) {
	for name, o := range framings {
		t.Run(name, func(t *testing.T) { f(t, o) })
	}
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
