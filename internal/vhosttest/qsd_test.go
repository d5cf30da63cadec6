package vhosttest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

func fileNode(image string) string {
	return "driver=file,discard=unmap,filename=" + image
}

func random(n int, seed uint64) []byte {
	b, r := make([]byte, n), rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestPersonalities: each front-end gets through its own order of messages with
// a stock back-end, does every operation, stops and goes on.
func TestPersonalities(t *testing.T) {
	for _, p := range Personalities() {
		t.Run(p.Name, func(t *testing.T) {
			image := nbdtest.Image(t, 32*mib, random(mib, 7))
			q := startQSD(t, fileNode(image), "")
			if p.Name == "spdk" {
				p.ConfigSize = 60 // qemu-storage-daemon answers 256 with nothing
			}
			f := open(t, Options{Socket: q.socket, Personality: p, Queues: min(2, p.MaxQueues), QueueSize: 128, Trace: t.Logf})
			if f.Sectors() != 32*mib/SectorSize {
				t.Fatalf("capacity %d sectors", f.Sectors())
			}
			for i := range f.Queues() {
				d := f.Driver(i)
				defer d.Close()
				exercise(t, f, d, uint64(i))
			}
			if p.stop == nil {
				return
			}
			must(t, f.Stop())
			must(t, f.Start())
			d := f.Driver(0)
			defer d.Close()
			exercise(t, f, d, 5)
		})
	}
}

// exercise does each operation once, at a place of its own.
func exercise(t *testing.T, f *Frontend, d *Driver, place uint64) {
	t.Helper()
	at, want := 2048*(2+place), random(64<<10, place)
	must(t, d.Write(at, want))
	must(t, d.Flush())
	got, err := d.Read(at, len(want))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("what was written is not what is read")
	}
	if f.Features()&FWriteZeroes != 0 {
		must(t, d.WriteZeroes(Range{at, 8, 0}))
		clear(want[:8*SectorSize])
	}
	if f.Features()&FDiscard != 0 {
		must(t, d.Discard(Range{at + 64, 8, 0}))
	}
	got, err = d.Read(at, 64*SectorSize)
	must(t, err)
	if !bytes.Equal(got, want[:len(got)]) {
		t.Fatal("zeroes were not written, or more than was asked for")
	}
	id, err := d.ID()
	must(t, err)
	if len(id) != IDSize {
		t.Fatalf("ID %q", id)
	}
	if _, err := d.Read(f.Sectors(), SectorSize); !errors.Is(err, ErrIO) {
		t.Fatalf("a read behind the end: %v, want an error of the device", err)
	}
}

// TestLayouts: the device must not care how a request is cut.
func TestLayouts(t *testing.T) {
	q := startQSD(t, fileNode(nbdtest.Image(t, 8*mib, nil)), "")
	f := open(t, Options{Socket: q.socket, QueueSize: 256})
	d := f.Driver(0)
	defer d.Close()
	for i, l := range []Layout{
		{}, {Indirect: true}, {Piece: 512}, {Piece: 1000, Indirect: true},
		{Readable: []int{1, 7, 8}},
		{Readable: []int{16, 512, 1024}, Writable: []int{512, 4096}},
		{Readable: []int{}, Writable: []int{}}, // header with data, data with status
		{Readable: []int{10}, Writable: []int{4096, 4095}, Indirect: true},
	} {
		t.Run(fmt.Sprintf("%d", i), func(t *testing.T) {
			want, got := random(8192, uint64(i)), make([]byte, 8192)
			out := l
			out.Writable = nil
			must(t, d.Do(&IO{Op: OpOut, Sector: 64, Data: want, Layout: &out}))
			in := l
			if len(in.Readable) > 0 {
				in.Readable = []int{5, 11}
			}
			must(t, d.Do(&IO{Op: OpIn, Sector: 64, Data: got, Layout: &in}))
			if !bytes.Equal(got, want) {
				t.Fatalf("layout %+v: what was written is not what is read", l)
			}
		})
	}
}

// TestLoads runs the load in its ways against a file, with every read checked.
func TestLoads(t *testing.T) {
	q := startQSD(t, fileNode(nbdtest.Image(t, 16*mib, nil)), "")
	for name, o := range map[string]LoadOptions{
		"called":     {Depth: 16, ReadPercent: 50, FlushEvery: 50},
		"polling":    {Depth: 16, ReadPercent: 50, Poll: true},
		"batches":    {Depth: 32, Batch: 16, ReadPercent: 70, BlockSize: 512},
		"one":        {Depth: 1, ReadPercent: 50},
		"sequential": {Depth: 8, ReadPercent: 50, Sequential: true, BlockSize: 16384},
		"indirect":   {Depth: 64, ReadPercent: 50, Layout: Layout{Indirect: true, Piece: 1024}},
		"noEventIdx": {Depth: 16, ReadPercent: 50, Options: Options{Without: FEventIdx}},
		"pieces":     {Depth: 4, ReadPercent: 50, Layout: Layout{Piece: 700}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Options.Socket, o.Options.Queues, o.Options.Redial = q.socket, 2, 5*time.Millisecond
			o.Verify, o.Run, o.Length = true, 300*time.Millisecond, 8*mib
			r, err := Run(testContext(t), o)
			must(t, err)
			must(t, r.Bad())
			if r.Reads == 0 || r.Writes == 0 || r.Latency.Count != r.Completed() || r.Latency.P50 > r.Latency.Max || o.FlushEvery > 0 && r.Flushes == 0 {
				t.Fatalf("a load of %+v", r)
			}
		})
	}
}

// TestWrongContentIsFound: the disk changes behind the load's back.
func TestWrongContentIsFound(t *testing.T) {
	// null-co gives zeroes, whatever was written.
	q := startQSD(t, "driver=null-co,read-zeroes=on,size=16777216", "")
	r, err := Run(testContext(t), LoadOptions{Options: Options{Socket: q.socket}, Verify: true, ReadPercent: 50, Run: 50 * time.Millisecond})
	must(t, err)
	if r.Mismatched != r.Reads || r.Reads == 0 || r.Bad() == nil {
		t.Fatalf("%d of %d reads of what cannot be there were found: %v", r.Mismatched, r.Reads, r.Bad())
	}
}

// TestHistory has a linearisable history of overlapping requests. A file is no
// disk for it: a page cache moves bytes under a read that is on its way.
func TestHistory(t *testing.T) {
	dev := newDevice(t)
	dev.listen()
	h := &history{nbdtest.NewRecorder(4096, 1)}
	r, err := Run(testContext(t), LoadOptions{Options: Options{Socket: dev.socket, Queues: 2, Redial: 5 * time.Millisecond},
		History: h, Depth: 4, ReadPercent: 50, Length: 256 << 10, Run: 100 * time.Millisecond})
	must(t, err)
	must(t, r.Bad())
	must(t, h.r.Check(30*time.Second))
}

// TestHistoryOfUnfilledReads: a read that the device does not fill is found, also
// where its buffer held what it is to give.
func TestHistoryOfUnfilledReads(t *testing.T) {
	dev := newDevice(t)
	dev.lazy = true
	dev.listen()
	h := &history{nbdtest.NewRecorder(4096, 1)}
	r, err := Run(testContext(t), LoadOptions{Options: Options{Socket: dev.socket, Queues: 1, Redial: 5 * time.Millisecond},
		History: h, Depth: 1, ReadPercent: 50, Length: 4096, Run: 20 * time.Millisecond})
	must(t, err)
	if err := h.r.Check(30 * time.Second); r.Reads == 0 || err == nil || strings.Count(err.Error(), "garbage") != int(r.Reads) {
		t.Errorf("of %d reads were found: %v", r.Reads, err)
	}
}

// history adapts a Recorder.
type history struct{ r *nbdtest.Recorder }

type historyOp struct {
	*nbdtest.HistoryOp
	read bool
}

func (h *history) BeginRead(client int, block uint64) HistoryOp {
	return historyOp{h.r.BeginRead(client, block, 1), true}
}

func (h *history) BeginWrite(client int, block uint64, payload []byte) HistoryOp {
	op := h.r.BeginWrite(client, block, 1)
	copy(payload, op.Payload())
	return historyOp{op, false}
}

func (o historyOp) End(data []byte, err error) {
	switch {
	case err != nil:
		o.Fail()
	case o.read:
		o.Data(data)
	default:
		o.OK()
	}
}

// TestKilledBackend: qemu-storage-daemon 7.2 has no in-flight region, so what is
// outstanding when it is killed can be found again by the ring alone, and with
// one request at a time that is enough: the used index says which it was. It owes
// the call for what it finished just before it was killed, so this load polls.
func TestKilledBackend(t *testing.T) {
	q := startQSD(t, fileNode(nbdtest.Image(t, 8*mib, nil)), "")
	p := QEMU()
	p.KicksLost = false // it looks at its rings when it is kicked, and not before
	l, err := StartLoad(testContext(t), LoadOptions{Options: Options{Socket: q.socket, Personality: p, Redial: 5 * time.Millisecond},
		Depth: 1, Poll: true, ReadPercent: 50, Verify: true, Reconnect: true, Run: time.Minute, Timeout: 20 * time.Second})
	must(t, err)
	for range 3 {
		before := l.Progress().Completed
		waitFor(t, l, func() bool { return l.Progress().Completed > before+100 })
		q.restart()
		before = l.Progress().Completed
		kickUntil(t, l, func() bool { return l.Progress().Completed > before })
	}
	r, err := l.Stop()
	must(t, err)
	must(t, r.Bad())
	if len(r.Outages) != 3 {
		t.Fatalf("%d outages, want 3", len(r.Outages))
	}
	for _, o := range r.Outages {
		if g := r.LongestGap(o.From, o.To); g.Length() == 0 {
			t.Errorf("no gap around the outage %v", o)
		}
	}
}

func waitFor(t *testing.T, l *Load, ok func() bool) {
	t.Helper()
	kickWhile(t, l, ok, func() {})
}

// kickUntil kicks all queues while it waits.
func kickUntil(t *testing.T, l *Load, ok func() bool) {
	t.Helper()
	kickWhile(t, l, ok, func() {
		for i := range l.f.Queues() {
			l.f.Ring(i).Kick()
		}
	})
}

func kickWhile(t *testing.T, l *Load, ok func() bool, kick func()) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r, err := l.Stop()
			t.Fatalf("the load does not go on: %v, %v", err, r.Bad())
		}
		kick()
	}
}

// TestLostBackend: without Reconnect the end of the back-end is the load's, and
// what was outstanding is named.
func TestLostBackend(t *testing.T) {
	q := startQSD(t, "driver=null-co,read-zeroes=on,size=16777216,latency-ns=500000000", "")
	l, err := StartLoad(testContext(t), LoadOptions{Options: Options{Socket: q.socket}, Depth: 4, ReadPercent: 100, Run: time.Minute})
	must(t, err)
	waitFor(t, l, func() bool { return l.Progress().Completed > 4 })
	q.Kill()
	<-l.Done()
	r, err := l.Stop()
	if !errors.Is(err, ErrLost) || r.Hung != 4 || !strings.Contains(err.Error(), "head ") {
		t.Fatalf("%d hung, %v", r.Hung, err)
	}
}

// TestHungRequestsAreFound: a device that is slower than the timeout.
func TestHungRequestsAreFound(t *testing.T) {
	q := startQSD(t, "driver=null-co,read-zeroes=on,size=16777216,latency-ns=1500000000", "")
	p := QEMU()
	p.FirmwareFirst = false
	r, err := Run(testContext(t), LoadOptions{Options: Options{Socket: q.socket, Personality: p, Redial: time.Millisecond}, Depth: 3, ReadPercent: 100,
		Run: 10 * time.Millisecond, Timeout: 200 * time.Millisecond})
	if !errors.Is(err, ErrHung) || r == nil || r.Hung != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
}
