package session_test

import (
	"bytes"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

// serve starts a scripted server and a rig on it.
func serve(t *testing.T, so nbdtest.ServerOptions, ro rigOptions) (*nbdtest.Server, *rig) {
	t.Helper()
	s := nbdtest.StartServer(t, so)
	ro.network, ro.addr = s.Network(), s.Addr()
	return s, newRig(t, ro)
}

func TestEveryOperationAgainstEveryDialect(t *testing.T) {
	for name, neg := range map[string]nbdtest.Negotiation{
		"simple":     {NoStructured: true},
		"structured": {ReadChunk: 1000, ReadHoles: true, ShuffleRead: true},
		"extended":   {ExtendedHeaders: true, ReadHoles: true},
		"exportname": {NoGo: true, NoStructured: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := serve(t, nbdtest.ServerOptions{Negotiation: neg}, rigOptions{})
			operations(t, r.open(0))
		})
	}
}

func operations(t *testing.T, c *client) {
	small, large := random(4096, 1), random(3<<20, 2)
	c.write(8192, small)
	c.write(1<<20, large)
	if got := c.read(8192, 4096); !bytes.Equal(got, small) {
		t.Fatal("small read differs")
	}
	if got := c.read(1<<20, len(large)); !bytes.Equal(got, large) {
		t.Fatal("large read differs")
	}
	parts := [][]byte{make([]byte, 512), make([]byte, 100000), make([]byte, len(large)-100512)}
	c.must(block.OpRead, 0, 1<<20, uint64(len(large)), parts...)
	if !bytes.Equal(bytes.Join(parts, nil), large) {
		t.Fatal("scattered read differs")
	}
	if got := c.read(32<<20, 65536); !bytes.Equal(got, make([]byte, 65536)) {
		t.Fatal("a hole is not zeroes")
	}
	c.must(block.OpWriteZeroes, 0, 1<<20, 65536)
	if got := c.read(1<<20, 65536); !bytes.Equal(got, make([]byte, 65536)) {
		t.Fatal("write-zeroes left something")
	}
	c.must(block.OpDiscard, 0, 2<<20, 65536)
	c.must(block.OpWrite, block.FUA, 0, 4096, small)
	c.must(block.OpCache, 0, 0, 4096)
	if st := c.flush(); st != block.OK {
		t.Fatal(st)
	}
	k := c.must(block.OpBlockStatus, 0, 0, 8<<20)
	if len(k.Extents) == 0 {
		t.Fatal("no extents")
	}
	if st := c.start(block.OpRead, 0, 1<<40, 512, make([]byte, 512)).wait(t); st != block.EINVAL {
		t.Fatalf("read beyond the end: %v", st)
	}
}

func TestManyAtOnceOverReconnects(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{Network: "tcp"}, rigOptions{trust: true})
	c := r.open(0)
	stop := time.After(3 * time.Second)
	for i := uint64(0); ; i++ {
		var calls []*call
		for j := uint64(0); j < 32; j++ {
			calls = append(calls, c.start(block.OpWrite, 0, j*8192, 8192, random(8192, i*64+j)))
		}
		if i%7 == 3 {
			s.KillAll(nbdtest.Ending(i % 2))
		}
		for j, k := range calls {
			if st := k.wait(t); st != block.OK {
				t.Fatalf("write: %v", st)
			}
			if got := c.read(k.Offset, 8192); !bytes.Equal(got, random(8192, i*64+uint64(j))) {
				t.Fatalf("round %d block %d differs", i, j)
			}
		}
		select {
		case <-stop:
			if r.sess.Counters().Reconnects+r.sess.Counters().Losses == 0 {
				t.Fatal("nothing was lost")
			}
			return
		default:
		}
	}
}

// Rule 1: the original of a write must not land after its replay.
func TestHeldWriteNeverComesBack(t *testing.T) {
	for name, closeAtOnce := range map[string]bool{"server closes": true, "proxy cuts": false} {
		t.Run(name, func(t *testing.T) {
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
			held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, closeAtOnce, nbdtest.FIN)
			p := nbdtest.StartProxy(t, "unix", s.Network(), s.Addr())
			r := newRig(t, rigOptions{network: p.Network(), addr: p.Addr(), fence: 1500 * time.Millisecond, trust: true})
			c := r.open(0)
			a := c.start(block.OpWrite, 0, 0, 4096, bytes.Repeat([]byte{'A'}, 4096))
			nbdtest.WaitFor(t, "the loss", func() bool {
				if !closeAtOnce && held.Held() == 1 {
					p.Cut(nbdtest.BothSides, nbdtest.FIN)
				}
				return r.sess.Counters().Losses > 0
			})
			// B overlaps A and must wait; C does not and must not.
			b := c.start(block.OpWrite, 0, 2048, 4096, bytes.Repeat([]byte{'B'}, 4096))
			c.write(1<<20, bytes.Repeat([]byte{'C'}, 4096))
			if a.isDone() || b.isDone() {
				t.Fatal("A or B went on before the fence")
			}
			held.Release() // the server executes the original now, its connection gone
			if st := a.wait(t); st != block.OK {
				t.Fatal(st)
			}
			if st := b.wait(t); st != block.OK {
				t.Fatal(st)
			}
			got := c.read(0, 8192)
			want := append(bytes.Repeat([]byte{'A'}, 2048), bytes.Repeat([]byte{'B'}, 4096)...)
			if !bytes.Equal(got[:6144], want) {
				t.Fatal("the original of A came back over B")
			}
			if r.sess.Counters().Fences == 0 || r.sess.Counters().Replays == 0 {
				t.Fatalf("%+v", r.sess.Counters())
			}
		})
	}
}

// A server that stalls is given up by half-closing; its EOF is the fence.
func TestStallIsFencedByEOF(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{timeout: 400 * time.Millisecond, fence: time.Hour, trust: true})
	c := r.open(0)
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	a := c.start(block.OpWrite, 0, 0, 4096, random(4096, 1))
	held.Wait(t, 1)
	nbdtest.WaitFor(t, "the deadline", func() bool { return r.sess.Counters().Losses > 0 })
	if a.isDone() {
		t.Fatal("a write of unknown outcome failed before its fence")
	}
	held.Release()
	if st := a.wait(t); st != block.ETIMEDOUT {
		t.Fatalf("expired write: %v", st)
	}
	b := random(4096, 2)
	c.write(0, b)
	if !bytes.Equal(c.read(0, 4096), b) {
		t.Fatal("differs")
	}
}

func TestReadsExpireWhileTheServerStalls(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{timeout: 400 * time.Millisecond, fence: time.Second})
	c := r.open(0)
	release := s.StallReplies()
	k := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
	if st := k.wait(t); st != block.ETIMEDOUT {
		t.Fatalf("stalled read: %v", st)
	}
	release()
	c.read(0, 4096)
}

func TestServerAwayThenBack(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{timeout: time.Second, fence: 0, trust: true})
	c := r.open(0)
	s.StopListening()
	s.KillAll(nbdtest.RST)
	r.waitState(volume.Away)
	k := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
	if st := k.wait(t); st != block.ETIMEDOUT {
		t.Fatalf("read without a server: %v", st)
	}
	k = c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
	s.Listen()
	if st := k.wait(t); st != block.OK {
		t.Fatalf("read when the server is back: %v", st)
	}
	r.waitState(volume.Online)
}

// Rule 3.
func TestFlushFailures(t *testing.T) {
	t.Run("failed once", func(t *testing.T) {
		s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
		a, b := r.open(0), r.open(0)
		s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdFlush), Times: 1, Fault: nbdtest.Fault{Errno: 28}})
		a.write(0, random(4096, 1))
		if st := a.flush(); st != block.ENOSPC {
			t.Fatal(st)
		}
		if st := a.flush(); st != block.OK {
			t.Fatalf("told twice: %v", st)
		}
		if st := b.flush(); st != block.ENOSPC {
			t.Fatalf("the other queue was not told: %v", st)
		}
	})
	t.Run("lost cache", func(t *testing.T) {
		s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
		c := r.open(0)
		c.write(0, random(4096, 1))
		s.KillAll(nbdtest.RST)
		nbdtest.WaitFor(t, "loss", func() bool { return r.sess.Counters().LostCaches == 1 })
		if st := c.flush(); st != block.EIO {
			t.Fatalf("flush after a lost cache: %v", st)
		}
		if st := c.flush(); st != block.OK {
			t.Fatal(st)
		}
		c.write(0, random(4096, 1))
		c.flush()
		s.KillAll(nbdtest.RST)
		nbdtest.WaitFor(t, "second loss", func() bool { return r.sess.Counters().Losses == 2 })
		if st := c.flush(); st != block.OK {
			t.Fatalf("nothing was unflushed: %v", st)
		}
	})
	t.Run("trusted", func(t *testing.T) {
		s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{trust: true})
		c := r.open(0)
		c.write(0, random(4096, 1))
		s.KillAll(nbdtest.RST)
		nbdtest.WaitFor(t, "loss", func() bool { return r.sess.Counters().LostCaches == 1 })
		if st := c.flush(); st != block.OK {
			t.Fatal(st)
		}
	})
}

// Rule 4.
func TestAnotherDiskStopsTheVolume(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(8 << 20)}}}, rigOptions{})
	c := r.open(0)
	c.read(0, 4096)
	s.SetExports(nbdtest.Export{Disk: nbdtest.NewDisk(4 << 20)})
	s.KillAll(nbdtest.FIN)
	r.waitState(volume.Stopped)
	if st := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096)).wait(t); st != block.EIO {
		t.Fatal(st)
	}
}

func TestLyingServers(t *testing.T) {
	lies := map[string]nbdtest.Fault{
		"wrong cookie":     {Cookie: 1},
		"duplicate":        {Duplicate: true},
		"longer":           {Edit: nbdtest.LieLength(8)},
		"elsewhere":        {Edit: nbdtest.LieOffset(1 << 30)},
		"overlap":          {Edit: nbdtest.Overlap},
		"gap":              {Edit: nbdtest.DropContent},
		"short":            {Edit: nbdtest.ShortRead(100)},
		"cut in the reply": {Cut: true, CutAfter: 700, CutHow: nbdtest.FIN},
	}
	for name, f := range lies {
		t.Run(name, func(t *testing.T) {
			s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{})
			c := r.open(0)
			data := random(4096, 3)
			c.write(0, data)
			s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdRead), Times: 1, Fault: f})
			k := c.start(block.OpRead, 0, 0, 4096, make([]byte, 4096))
			if st := k.wait(t); st == block.OK && !bytes.Equal(k.Data[0], data) {
				t.Fatal("wrong data was passed on as right")
			}
			if !bytes.Equal(c.read(0, 4096), data) {
				t.Fatal("the volume did not recover")
			}
		})
	}
}

func TestSeveralConnections(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{reactors: 3})
	for i := range 3 {
		c := r.open(i)
		d := random(65536, uint64(i))
		c.write(uint64(i)<<20, d)
		if !bytes.Equal(r.open((i+1)%3).read(uint64(i)<<20, 65536), d) {
			t.Fatal("differs over another connection")
		}
	}
	if s.Conns() != 3 {
		t.Fatalf("%d connections", s.Conns())
	}
	s2, r2 := serve(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(1 << 20),
		Flags: nbdtest.FlagHasFlags | nbdtest.FlagSendFlush}}}, rigOptions{reactors: 2})
	r2.open(0).write(0, random(4096, 1))
	if r2.vol.Home() != r2.reactors[0] || s2.Conns() != 1 {
		t.Fatal("a server without multi-conn got more than one")
	}
}

// A server that promises several connections and admits one.
func TestPromiseOfConnectionsThatIsNotKept(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{Negotiation: nbdtest.Negotiation{MaxClients: 1, CloseExcess: true}},
		rigOptions{reactors: 2, trust: true})
	a, b := r.open(0), r.open(1)
	for i := range uint64(20) {
		d := random(65536, i)
		b.write(i<<16, d)
		if !bytes.Equal(a.read(i<<16, 65536), d) || !bytes.Equal(b.read(i<<16, 65536), d) {
			t.Fatal("differs")
		}
		if i%5 == 4 {
			s.KillAll(nbdtest.FIN)
		}
	}
	if st := b.flush(); st != block.OK {
		t.Fatal(st)
	}
}

// A flush over one of several connections does not vouch for what was
// acknowledged on another, which may have led to a server that has crashed since.
func TestFlushVisitsEveryConnection(t *testing.T) {
	s, r := serve(t, nbdtest.ServerOptions{}, rigOptions{reactors: 2})
	a, b := r.open(0), r.open(1)
	b.write(0, random(4096, 1))
	if st := a.flush(); st != block.OK {
		t.Fatal(st)
	}
	if n := s.Count(nbdtest.Op(nbdtest.CmdFlush)); n != 2 {
		t.Fatalf("%d flushes reached the server, want one on each connection", n)
	}
	b.write(0, random(4096, 2))
	s.KillAll(nbdtest.RST)
	if st := a.flush(); st != block.EIO {
		t.Fatalf("flush over A after B's writes became unknown: %v", st)
	}
}

// Rule 1 over the death of an engine: what it had in flight is sent again when
// the fence is over, and what overlaps that waits, because the server may still
// hold the dead engine's copy.
func TestWritesOfADeadEngine(t *testing.T) {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true})
	held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, false, nbdtest.FIN)
	dead := nbdtest.Connect(t, s.Network(), s.Addr(), nbdtest.Options{})
	a := bytes.Repeat([]byte{'A'}, 4096)
	if _, err := dead.Send(nbdtest.Request{Op: nbdtest.CmdWrite, Offset: 0, Data: a}); err != nil {
		t.Fatal(err)
	}
	held.Wait(t, 1)
	dead.Close()

	r := newRig(t, rigOptions{network: s.Network(), addr: s.Addr(), fence: 1500 * time.Millisecond, timeout: time.Second})
	c := r.open(0)
	again := c.make(block.OpWrite, 0, 0, 4096, a)
	again.Again = true
	c.submit(again)
	b := c.start(block.OpWrite, 0, 2048, 4096, bytes.Repeat([]byte{'B'}, 4096))
	c.write(1<<20, random(4096, 1)) // others do not wait
	if !bytes.Equal(c.read(0, 4096), make([]byte, 4096)) || again.isDone() || b.isDone() {
		t.Fatal("A or B went on before the fence")
	}
	held.Release() // the dead engine's copy lands
	if st := again.wait(t); st != block.OK {
		t.Fatal(st)
	}
	if st := b.wait(t); st != block.OK {
		t.Fatal(st)
	}
	want := append(bytes.Repeat([]byte{'A'}, 2048), bytes.Repeat([]byte{'B'}, 4096)...)
	if !bytes.Equal(c.read(0, 8192)[:6144], want) {
		t.Fatal("the dead engine's copy of A has come over B")
	}
}
