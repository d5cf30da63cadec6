package e2e_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// cutover is a way to another version, on a server that bears it.
type cutover struct {
	method string
	flags  uint16
	neg    nbdtest.Negotiation
}

func cutovers() map[string]cutover {
	return map[string]cutover{
		"handover":             {method: "handover", flags: nbdtest.DefaultFlags},
		"handover, one client": {method: "handover", flags: single, neg: oneClient},
		"second session":       {method: "second-session", flags: nbdtest.DefaultFlags},
		"serial":               {method: "serial", flags: nbdtest.DefaultFlags},
		"serial, one client":   {method: "serial", flags: single, neg: oneClient},
	}
}

// TestUpgradeKeepsWhatWasFlushed: writes go through the old version, the flush
// through the new one, and then the server dies with all that was not flushed.
func TestUpgradeKeepsWhatWasFlushed(t *testing.T) {
	t.Parallel()
	for name, c := range cutovers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := onServer(t, "disk", c.flags, c.neg, durable)
			clients := make([]*nbdtest.Client, 4) // some on each reactor
			for i := range clients {
				clients[i] = e.dial("disk", nbdtest.Options{})
				must(t, clients[i].Write(uint64(i)<<20, random(65536, uint64(i)), 0))
			}
			wantMethod(t, e.upgrade(built.nbd2, "--method", c.method), c.method)
			for _, c := range clients {
				must(t, c.Flush())
			}
			must(t, clients[0].Write(8<<20, random(4096, 10), 0)) // not flushed
			s.Disk("disk").Crash()
			s.KillAll(nbdtest.RST)
			e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > 0 })
			for i := range clients {
				mustRead(t, clients[3-i], uint64(i)<<20, random(65536, uint64(i)))
			}
			mustRead(t, clients[0], 8<<20, make([]byte, 4096))
			for _, c := range clients {
				wantErrno(t, c.Flush(), nbdtest.EIO)
				must(t, c.Flush())
			}
		})
	}
}

// TestUpgradeCarriesWhatIsUnflushed: what was written before the cutover is
// still owed to the next flush: if the server is lost first, every client is
// told so, though the version that wrote it is gone.
func TestUpgradeCarriesWhatIsUnflushed(t *testing.T) {
	t.Parallel()
	s, e := onServer(t, "disk", single, oneClient, durable)
	a, b := e.dial("disk", nbdtest.Options{}), e.dial("disk", nbdtest.Options{})
	must(t, a.Write(0, random(4096, 1), 0))
	wantMethod(t, e.upgrade(built.nbd2), "handover")
	if s.Disk("disk").Dirty() == 0 {
		t.Log("the handover flushed")
	}
	lost := s.Disk("disk").Dirty() > 0
	s.Disk("disk").Crash()
	s.KillAll(nbdtest.RST)
	e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > 0 })
	for _, c := range []*nbdtest.Client{a, b} {
		if lost {
			wantErrno(t, c.Flush(), nbdtest.EIO)
		}
		must(t, c.Flush())
	}
}

// TestUpgradeAmongWrites: writes are under way all the time, and the flush comes
// as soon as the new version serves. What had been acknowledged before it is
// there after a crash, whichever version carried it.
func TestUpgradeAmongWrites(t *testing.T) {
	t.Parallel()
	for name, c := range cutovers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := onServer(t, "disk", c.flags, c.neg, durable)
			w := startWriters(t, e, 4)
			defer w.end()
			flusher := e.dial("disk", nbdtest.Options{})
			for i := range 4 {
				nbdtest.WaitFor(t, "writes", w.busy())
				file := []string{built.nbd2, built.nbd}[i%2]
				wantMethod(t, e.upgrade(file, "--method", c.method), c.method)
				acknowledged := w.acknowledged()
				must(t, flusher.Flush())
				w.wantStable(s.Disk("disk"), acknowledged)
			}
			w.end()
			e.unhurt("disk")
		})
	}
}

// writers write numbered blocks, each client in a region of its own.
type writers struct {
	t    *testing.T
	stop atomic.Bool
	done sync.WaitGroup
	acks []atomic.Uint64 // by client: the number of the last write acknowledged
}

const (
	writerBlock  = 4096
	writerRegion = 1 << 20
	writerBlocks = writerRegion / writerBlock
)

func startWriters(t *testing.T, e *engine, clients int) *writers {
	w := &writers{t: t, acks: make([]atomic.Uint64, clients)}
	for i := range clients {
		c := e.dial("disk", nbdtest.Options{})
		w.done.Go(func() {
			for n := uint64(1); !w.stop.Load(); n++ {
				if err := c.Write(w.place(i, n), w.data(i, n), 0); err != nil {
					t.Errorf("write %d of client %d: %v", n, i, err)
					return
				}
				w.acks[i].Store(n)
			}
		})
	}
	return w
}

func (w *writers) end() {
	w.stop.Store(true)
	w.done.Wait()
}

func (w *writers) place(client int, n uint64) uint64 {
	return uint64(client)*writerRegion + n%writerBlocks*writerBlock
}

// data begins with the number, so that a later write of the same block can be
// told from an earlier one.
func (w *writers) data(client int, n uint64) []byte {
	return bytes.Repeat([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), byte(client), 1, 2, 3}, writerBlock/8)
}

func (w *writers) acknowledged() []uint64 {
	all := make([]uint64, len(w.acks))
	for i := range all {
		all[i] = w.acks[i].Load()
	}
	return all
}

// busy gives a condition that holds when every client has written more.
func (w *writers) busy() func() bool {
	from := w.acknowledged()
	return func() bool {
		for i := range w.acks {
			if w.acks[i].Load() < from[i]+20 && !w.t.Failed() {
				return false
			}
		}
		return true
	}
}

// wantStable wants the last blocks that had been acknowledged before a flush to
// survive a crash, or to have been written anew.
func (w *writers) wantStable(d *nbdtest.Disk, acknowledged []uint64) {
	w.t.Helper()
	got := make([]byte, writerBlock)
	for i, last := range acknowledged {
		for n := last; n > 0 && n+writerBlocks/2 > last; n-- {
			d.ReadStable(got, w.place(i, n))
			number := uint64(got[0])<<24 | uint64(got[1])<<16 | uint64(got[2])<<8 | uint64(got[3])
			if number < n || !bytes.Equal(got, w.data(i, number)) {
				w.t.Errorf("write %d of client %d, acknowledged and flushed, is not stable: there is %d", n, i, number)
				return
			}
		}
	}
}

// TestInternalFlushFails: the flush with which a version takes leave fails. It
// is the clients who are told so, each of them once.
func TestInternalFlushFails(t *testing.T) {
	t.Parallel()
	for name, c := range cutovers() {
		if c.method == "handover" {
			continue // it needs no flush
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := onServer(t, "disk", c.flags, c.neg, durable)
			clients := make([]*nbdtest.Client, 3)
			for i := range clients {
				clients[i] = e.dial("disk", nbdtest.Options{})
				must(t, clients[i].Write(uint64(i)<<20, random(4096, uint64(i)), 0))
			}
			failing := s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdFlush), Times: 1,
				Fault: nbdtest.Fault{Errno: nbdtest.EIO, DropCache: true}})
			_, err := e.tryUpgrade(built.nbd2, "--method", c.method)
			t.Logf("upgrade: %v; version %s", err, e.volume("disk").Version)
			if failing.Hits() == 0 {
				t.Fatal("nothing was flushed")
			}
			for i, c := range clients {
				wantErrno(t, c.Flush(), nbdtest.EIO)
				must(t, c.Flush())
				mustRead(t, c, uint64(i)<<20, make([]byte, 4096))
				must(t, c.Write(uint64(i)<<20, random(4096, uint64(i)), 0))
			}
			must(t, clients[0].Flush())
			wantStable(t, s.Disk("disk"), 0, random(4096, 0))
			must(t, clients[0].Flush())
		})
	}
}
