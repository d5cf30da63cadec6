package e2e_test

import (
	"bytes"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// cached starts a server whose disk has a volatile cache, and an engine on it
// that must not trust it.
func cached(t *testing.T, flags uint16, lostCache string) (*nbdtest.Server, *nbdtest.Disk, *engine) {
	t.Helper()
	d := nbdtest.NewDisk(8 << 20)
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: d, Flags: flags}}})
	more := "timeout = \"20s\"\nfence = \"200ms\"\non_lost_cache = \"" + lostCache + "\"\n"
	return s, d, startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.Addr(), more)}})
}

// wantStable looks at what a crash would leave.
func wantStable(t *testing.T, d *nbdtest.Disk, off uint64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	d.ReadStable(got, off)
	if !bytes.Equal(got, want) {
		t.Errorf("what was made durable at %d is not there after a crash", off)
	}
}

// TestFlushMakesDurable: what a client wrote and flushed is there after the
// server has lost power, over whichever reactor it went.
func TestFlushMakesDurable(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]uint16{
		"several connections": nbdtest.DefaultFlags, "one connection": nbdtest.DefaultFlags &^ nbdtest.FlagMultiConn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d, e := cached(t, flags, "error")
			clients := make([]*nbdtest.Client, 4)
			for i := range clients {
				clients[i] = e.dial("disk", nbdtest.Options{})
				must(t, clients[i].Write(uint64(i)<<20, random(300_000/512*512, uint64(i)), 0))
			}
			must(t, clients[1].Flush())
			must(t, clients[0].Write(4<<20, random(4096, 10), 0)) // not flushed
			d.Crash()
			s.KillAll(nbdtest.RST)
			e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > 0 })
			for i := range clients {
				mustRead(t, clients[3-i], uint64(i)<<20, random(300_000/512*512, uint64(i)))
			}
			// What was not flushed is gone, and every client is told so, once.
			mustRead(t, clients[0], 4<<20, make([]byte, 4096))
			for _, c := range clients {
				wantErrno(t, c.Flush(), nbdtest.EIO)
				must(t, c.Flush())
			}
		})
	}
}

// TestFUAMakesDurable: also where the server does not know FUA.
func TestFUAMakesDurable(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]uint16{
		"server's own": nbdtest.DefaultFlags, "emulated": nbdtest.DefaultFlags &^ nbdtest.FlagSendFUA,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d, e := cached(t, flags, "error")
			c := e.dial("disk", nbdtest.Options{})
			if c.Info.Flags&nbdtest.FlagSendFUA == 0 {
				t.Error("FUA is not offered")
			}
			must(t, c.Write(0, random(8192, 1), nbdtest.CmdFlagFUA))
			wantStable(t, d, 0, random(8192, 1))
			must(t, c.Write(1<<20, random(65536, 2), 0))
			must(t, c.WriteZeroes(1<<20, 4096, nbdtest.CmdFlagFUA))
			wantStable(t, d, 1<<20, make([]byte, 4096))
			sent := s.Count(nbdtest.Match{Flags: nbdtest.CmdFlagFUA})
			if know := flags&nbdtest.FlagSendFUA != 0; know != (sent > 0) {
				t.Errorf("the server knows FUA: %v, and saw it %d times", know, sent)
			}
		})
	}
}

// TestFUAEmulationFails: the flush behind an emulated FUA fails, so must the
// write.
func TestFUAEmulationFails(t *testing.T) {
	t.Parallel()
	s, _, e := cached(t, nbdtest.DefaultFlags&^nbdtest.FlagSendFUA, "error")
	c := e.dial("disk", nbdtest.Options{})
	s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdFlush), Times: 1,
		Fault: nbdtest.Fault{Errno: nbdtest.ENOSPC, DropCache: true}})
	wantErrno(t, c.Write(0, random(4096, 1), nbdtest.CmdFlagFUA), nbdtest.ENOSPC)
	wantErrno(t, c.Flush(), nbdtest.ENOSPC) // the disk may have lost more than that write
	must(t, c.Flush())
}

// TestFlushFailsOnce: a failed flush is reported to each client once, with the
// server's errno, and never retried into success.
func TestFlushFailsOnce(t *testing.T) {
	t.Parallel()
	s, d, e := cached(t, nbdtest.DefaultFlags, "trust")
	a, b, c := e.dial("disk", nbdtest.Options{}), e.dial("disk", nbdtest.Options{}), e.dial("disk", nbdtest.Options{})
	s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdFlush), Times: 1,
		Fault: nbdtest.Fault{Errno: nbdtest.ENOSPC, DropCache: true}})
	must(t, a.Write(0, random(4096, 1), 0))
	must(t, b.Write(4096, random(4096, 2), 0))
	wantErrno(t, b.Flush(), nbdtest.ENOSPC)
	wantErrno(t, a.Flush(), nbdtest.ENOSPC)
	must(t, a.Flush())
	must(t, b.Flush())
	wantErrno(t, c.Flush(), nbdtest.ENOSPC)
	must(t, e.dial("disk", nbdtest.Options{}).Flush()) // a client that comes later wrote nothing
	mustRead(t, a, 0, make([]byte, 4096))
	must(t, a.Write(0, random(4096, 1), 0))
	must(t, a.Flush())
	wantStable(t, d, 0, random(4096, 1))
}

// TestLostCache: a connection ends with writes that no flush has covered.
func TestLostCache(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"error", "trust"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s, d, e := cached(t, nbdtest.DefaultFlags, policy)
			c := e.dial("disk", nbdtest.Options{})
			lose := func(n uint64) {
				t.Helper()
				s.KillAll(nbdtest.RST)
				e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses >= n })
			}
			must(t, c.Write(0, random(4096, 1), 0))
			must(t, c.Flush())
			lose(1)
			must(t, c.Flush()) // nothing was at stake
			must(t, c.Write(0, random(4096, 2), 0))
			lose(2)
			if err := c.Flush(); policy == "trust" {
				must(t, err)
				wantStable(t, d, 0, random(4096, 2))
			} else {
				wantErrno(t, err, nbdtest.EIO)
			}
			must(t, c.Flush())
			if n := e.volume("disk").Session.LostCaches; n != 1 {
				t.Errorf("%d lost caches are counted, want 1", n)
			}
		})
	}
}

// TestLostCacheAtTheLastReply: the reply to a write is the last that comes over a
// connection, and its end is there at the same time.
func TestLostCacheAtTheLastReply(t *testing.T) {
	t.Parallel()
	s, d, e := cached(t, nbdtest.DefaultFlags, "error")
	c := e.dial("disk", nbdtest.Options{})
	for i := range uint64(10) {
		s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdWrite), Times: 1,
			Fault: nbdtest.Fault{Cut: true, CutAfter: 1 << 10, CutHow: nbdtest.FIN}})
		must(t, c.Write(0, random(4096, i), 0))
		e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > i })
		d.Crash()
		wantErrno(t, c.Flush(), nbdtest.EIO)
		must(t, c.Flush())
	}
}

// TestTerminateFlushes: SIGTERM leaves nothing in the server's cache.
func TestTerminateFlushes(t *testing.T) {
	t.Parallel()
	_, d, e := cached(t, nbdtest.DefaultFlags, "error")
	c := e.dial("disk", nbdtest.Options{})
	for i := range uint64(8) {
		must(t, c.Write(i*8192, random(4096, i), 0))
	}
	must(t, e.terminate(endLimit))
	for i := range uint64(8) {
		wantStable(t, d, i*8192, random(4096, i))
	}
}
