package e2e_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// lie is a way in which a server breaks the protocol or its word.
type lie struct {
	op    uint16 // the command that it answers so
	fault nbdtest.Fault
	neg   nbdtest.Negotiation
}

// flip damages n bytes of a reply from byte at on.
func flip(at, n int) func([]byte) []byte {
	return func(b []byte) []byte {
		for i := at; i < min(at+n, len(b)); i++ {
			b[i] ^= 0xff
		}
		return b
	}
}

func prefix(junk []byte) func([]byte) []byte {
	return func(b []byte) []byte { return append(slices.Clone(junk), b...) }
}

// lies are what servers are tried with; each is told a few times.
func lies() map[string]lie {
	simple := nbdtest.Negotiation{NoStructured: true}
	extended := nbdtest.Negotiation{ExtendedHeaders: true}
	const read, write, status = nbdtest.CmdRead, nbdtest.CmdWrite, nbdtest.CmdBlockStatus
	all := map[string]lie{
		"errno":              {op: read, fault: nbdtest.Fault{Errno: nbdtest.ENOMEM}},
		"errno in the midst": {op: read, fault: nbdtest.Fault{Errno: nbdtest.EIO, AtOffset: true, At: 8192}},
		"never answers":      {op: read, fault: nbdtest.Fault{NoReply: true}},
		"wrong cookie":       {op: read, fault: nbdtest.Fault{Cookie: 1 << 33}},
		"wrong cookie write": {op: write, fault: nbdtest.Fault{Cookie: 1}},
		"answers twice":      {op: read, fault: nbdtest.Fault{Duplicate: true}},
		"answers write 2x":   {op: write, fault: nbdtest.Fault{Duplicate: true}},
		"longer":             {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieLength(8)}},
		"shorter":            {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieLength(-8)}},
		"2 GiB":              {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieLength(1 << 31)}},
		"before":             {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieOffset(-4096)}},
		"beyond":             {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieOffset(4096)}},
		"far beyond":         {op: read, fault: nbdtest.Fault{Edit: nbdtest.LieOffset(1 << 40)}},
		"gap at the end":     {op: read, fault: nbdtest.Fault{Edit: nbdtest.ShortRead(512)}},
		"no data":            {op: read, fault: nbdtest.Fault{Edit: nbdtest.DropContent}},
		"overlap":            {op: read, fault: nbdtest.Fault{Edit: nbdtest.Overlap}},
		"no end":             {op: read, fault: nbdtest.Fault{Edit: nbdtest.NoDone}},
		"bad magic":          {op: read, fault: nbdtest.Fault{Bytes: flip(0, 4)}},
		"bad chunk type":     {op: read, fault: nbdtest.Fault{Bytes: flip(6, 2)}},
		"junk first":         {op: read, fault: nbdtest.Fault{Bytes: prefix(bytes.Repeat([]byte("junk"), 100))}},
		"bad extents":        {op: status, fault: nbdtest.Fault{Bytes: flip(20, 12)}},
		"extents cut":        {op: status, fault: nbdtest.Fault{Edit: nbdtest.LieLength(-4)}},
		"chunked errno":      {op: read, fault: nbdtest.Fault{Errno: nbdtest.EIO, AtOffset: true, At: 9000}, neg: nbdtest.Negotiation{ReadChunk: 1000, ShuffleRead: true}},
		"chunked overlap":    {op: read, fault: nbdtest.Fault{Edit: nbdtest.Overlap}, neg: nbdtest.Negotiation{ReadChunk: 1000, ShuffleRead: true}},
	}
	for name, f := range map[string]nbdtest.Fault{
		"cut in the header": {Cut: true, CutAfter: 7}, "cut in the payload": {Cut: true, CutAfter: 5000, CutHow: nbdtest.RST},
		"cut before": {Cut: true}, "cut after": {Cut: true, CutAfter: 1 << 20},
		"cookie": {Cookie: 7}, "twice": {Duplicate: true}, "magic": {Bytes: flip(1, 1)},
	} {
		all[name] = lie{op: read, fault: f}
		all["simple "+name] = lie{op: read, fault: f, neg: simple}
		all["extended "+name] = lie{op: read, fault: f, neg: extended}
	}
	return all
}

// TestServersThatLie: whatever a server answers, a client sees an error or the
// right data; the volume goes on with a new connection; and a volume beside it
// notices nothing.
func TestServersThatLie(t *testing.T) {
	all := lies()
	names := slices.Sorted(maps.Keys(all))
	c := config{engine: "reactors = 2", volumes: []volume{{name: "healthy", plugin: "memory", options: "size = \"8MiB\""}}}
	servers := map[string]*nbdtest.Server{}
	for i, name := range names {
		s := nbdtest.StartServer(t, nbdtest.ServerOptions{Negotiation: all[name].neg, Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(1 << 20)}}})
		servers[name] = s
		c.volumes = append(c.volumes, nbdVolume(fmt.Sprintf("liar%d", i), s.Addr(), trusting("1s", "100ms")))
	}
	e := startEngine(t, c)
	healthy := startModel(t, e, "healthy", 2, loadOptions{own: true, pause: gentle})
	t.Run("lies", func(t *testing.T) {
		for i, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				bearsLie(t, e, fmt.Sprintf("liar%d", i), servers[name], all[name])
			})
		}
	})
	healthy.end()
	if n := healthy.failures.Load(); n != 0 {
		t.Errorf("%d requests of the healthy volume failed", n)
	}
}

// bearsLie has a server lie three times to requests whose right answer is known.
func bearsLie(t *testing.T, e *engine, name string, s *nbdtest.Server, l lie) {
	e.waitUp(name)
	c := e.dial(name, nbdtest.Options{Structured: true, MetaContexts: []string{nbdtest.BaseAllocation}})
	data := random(16384, 1)
	must(t, c.Write(4096, data, 0))
	rule := s.AddRule(nbdtest.Rule{Match: nbdtest.Op(l.op), Times: 3, Fault: l.fault})
	told := 0
	for i := range 20 {
		var err error
		switch l.op {
		case nbdtest.CmdWrite:
			data = random(16384, uint64(i))
			err = c.Write(4096, data, 0)
		case nbdtest.CmdBlockStatus:
			_, err = c.BlockStatus(0, 1<<20, 0)
		default:
			var got []byte
			if got, err = c.Read(4096, len(data), 0); err == nil && !bytes.Equal(got, data) {
				t.Fatalf("read %d gave wrong data from byte %d on as if it were right", i, differ(got, data))
			}
		}
		if err != nil && !isErrno(err) {
			t.Fatalf("request %d: the client's own connection suffered: %v", i, err)
		}
		if told = rule.Hits(); told == 3 && err == nil {
			break
		}
	}
	if told == 0 {
		t.Fatal("the server has not lied")
	}
	rule.Remove()
	goodAgain(t, func() error { return c.Write(4096, data, 0) })
	goodAgain(t, func() error { return reads(c, 4096, data) })
	goodAgain(t, func() error { return reads(c, 0, make([]byte, 4096)) })
	e.waitState(name, "online")
}

// goodAgain wants a request to succeed in the end. It may fail at first: with a
// short time limit, if the volume comes back slowly.
func goodAgain(t *testing.T, do func() error) {
	t.Helper()
	nbdtest.WaitFor(t, "a request to succeed", func() bool {
		err := do()
		if err != nil && !isErrno(err) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// reads gives an error unless a client reads what it should.
func reads(c *nbdtest.Client, off uint64, want []byte) error {
	got, err := c.Read(off, len(want), 0)
	if err == nil && !bytes.Equal(got, want) {
		return fmt.Errorf("read of %d at %d: byte %d is not what it should be", len(want), off, differ(got, want))
	}
	return err
}

// TestServerStalls: for longer than requests may wait. Reads fail in time, and
// all goes on when the server does.
func TestServerStalls(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
	e := startEngine(t, config{volumes: []volume{nbdVolume("disk", s.Addr(), trusting("300ms", "100ms"))}})
	c := e.dial("disk", nbdtest.Options{})
	goodAgain(t, func() error { return c.Write(0, random(4096, 1), 0) })
	for _, stall := range []func() func(){s.StallReplies, s.StallReads} {
		release := stall()
		_, err := c.Read(0, 4096, 0)
		if err == nil { // the server was reading already when it was told to stall
			_, err = c.Read(0, 4096, 0)
		}
		release()
		wantErrno(t, err, nbdtest.EIO)
		goodAgain(t, func() error { return reads(c, 0, random(4096, 1)) })
	}
	if n := e.volume("disk").Session.Expired; n < 2 {
		t.Errorf("%d expired requests are counted", n)
	}
}

// TestAnotherDiskStops: a server that comes back with another disk stops the
// volume, visibly and for good, and no other one.
func TestAnotherDiskStops(t *testing.T) {
	t.Parallel()
	was := nbdtest.Export{Disk: nbdtest.NewDisk(8 << 20), BlockSize: &nbdtest.BlockSize{Min: 512, Preferred: 4096, MaxPayload: 1 << 20}}
	smaller, blocks, readOnly := was, was, was
	smaller.Disk = nbdtest.NewDisk(4 << 20)
	blocks.BlockSize = &nbdtest.BlockSize{Min: 4096, Preferred: 4096, MaxPayload: 1 << 20}
	readOnly.Flags = nbdtest.DefaultFlags | nbdtest.FlagReadOnly
	for name, now := range map[string]nbdtest.Export{"smaller": smaller, "block size": blocks, "read only": readOnly} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{was}})
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{
				nbdVolume("disk", s.Addr(), trusting("5s", "100ms")),
				{name: "healthy", plugin: "memory", options: "size = \"1MiB\""}}})
			c, healthy := e.dial("disk", nbdtest.Options{}), e.dial("healthy", nbdtest.Options{})
			must(t, c.Write(0, random(4096, 1), 0))
			writes := s.Count(nbdtest.Op(nbdtest.CmdWrite))
			s.SetExports(now)
			s.KillAll(nbdtest.FIN)
			e.waitState("disk", "stopped")
			wantErrno(t, c.Write(0, random(4096, 2), 0), nbdtest.EIO)
			_, err := c.Read(0, 4096, 0)
			wantErrno(t, err, nbdtest.EIO)
			if v := e.volume("disk"); v.Reason == "" {
				t.Errorf("no reason is given: %+v", v)
			} else {
				t.Log(v.Reason)
			}
			if s.Count(nbdtest.Op(nbdtest.CmdWrite)) != writes {
				t.Error("the other disk was written to")
			}
			must(t, healthy.Write(0, random(4096, 3), 0))
			mustRead(t, healthy, 0, random(4096, 3))
		})
	}
}

// TestDiskGrows: a larger disk is the same disk.
func TestDiskGrows(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(4 << 20)}}})
	e := startEngine(t, config{volumes: []volume{nbdVolume("disk", s.Addr(), trusting("5s", "100ms"))}})
	e.waitUp("disk")
	s.SetExports(nbdtest.Export{Disk: nbdtest.NewDisk(8 << 20)})
	s.KillAll(nbdtest.FIN)
	e.waitVolume("disk", "grown", func(v admin.Volume) bool { return v.Size == 8<<20 })
	c := e.dial("disk", nbdtest.Options{})
	must(t, c.Write(6<<20, random(4096, 1), 0))
	mustRead(t, c, 6<<20, random(4096, 1))
}

// TestServersThatLieAtLogin: what no volume can stand on leaves it closed, with
// a reason; when the server mends its ways the volume comes up.
func TestServersThatLieAtLogin(t *testing.T) {
	t.Parallel()
	disk := nbdtest.NewDisk(1 << 20)
	for name, o := range map[string]nbdtest.ServerOptions{
		"oldstyle":         {Negotiation: nbdtest.Negotiation{Oldstyle: true}},
		"not fixed":        {Negotiation: nbdtest.Negotiation{NotFixed: true}, Exports: []nbdtest.Export{{Name: "other", Disk: disk}}},
		"no such export":   {Exports: []nbdtest.Export{{Name: "other", Disk: disk}}},
		"policy":           {Negotiation: nbdtest.Negotiation{Refuse: map[uint32]uint32{nbdtest.OptGo: nbdtest.RepErrPolicy}}},
		"TLS wanted":       {Negotiation: nbdtest.Negotiation{Refuse: map[uint32]uint32{nbdtest.OptGo: nbdtest.RepErrTLSReqd}}},
		"block size 3":     {Exports: []nbdtest.Export{{Disk: disk, BlockSize: &nbdtest.BlockSize{Min: 3, Preferred: 4096, MaxPayload: 1 << 20}}}},
		"block size 1 GiB": {Exports: []nbdtest.Export{{Disk: disk, BlockSize: &nbdtest.BlockSize{Min: 1 << 30, Preferred: 1 << 30, MaxPayload: 1 << 30}}}},
		"16 EiB":           {Exports: []nbdtest.Export{{Disk: disk, Size: 1<<64 - 512}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.BadClients = true // who gives up a login may leave without a word
			s := nbdtest.StartServer(t, o)
			e := startEngine(t, config{volumes: []volume{nbdVolume("disk", s.Addr(), trusting("1s", "100ms"))}})
			v := e.volume("disk")
			if v.State == "online" || v.Reason == "" {
				t.Errorf("state %q, reason %q", v.State, v.Reason)
			}
			t.Logf("%s: %s", v.State, v.Reason)
			if v.State == "stopped" {
				return
			}
			s.SetExports(nbdtest.Export{Disk: disk})
			s.SetNegotiation(func(n *nbdtest.Negotiation) { *n = nbdtest.Negotiation{} })
			e.waitUp("disk")
			mustRead(t, e.dial("disk", nbdtest.Options{}), 0, make([]byte, 512))
		})
	}
}
