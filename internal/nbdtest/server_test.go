package nbdtest

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEveryStyle(t *testing.T) {
	CheckLeaks(t)
	for name, o := range allStyles {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Negotiation{ExtendedHeaders: true, ReadChunk: 1500, ShuffleRead: true, ReadHoles: true})
			c := dial(t, s, o)
			if c.Structured != o.Structured || c.Extended != o.Extended {
				t.Fatalf("negotiated structured %v extended %v", c.Structured, c.Extended)
			}
			everyCommand(t, c)
			if o.MetaContexts != nil {
				everyStatus(t, c)
			}
			mustDo(t, c.Disconnect())
		})
	}
}

func everyCommand(t *testing.T, c *Client) {
	t.Helper()
	mustRead(t, c, 0, pattern(64<<10, 1))
	data := pattern(10000, 5)
	mustDo(t, c.Write(70001, data, CmdFlagFUA))
	mustRead(t, c, 70001, data)
	mustDo(t, c.Flush())
	mustDo(t, c.Cache(0, 4096, 0))
	mustDo(t, c.WriteZeroes(72000, 5000, CmdFlagNoHole|CmdFlagFastZero))
	clear(data[72000-70001:][:5000])
	mustRead(t, c, 70001, data)
	mustDo(t, c.Trim(65536, 32768, 0))
	mustRead(t, c, 65536, make([]byte, 32768))
}

func everyStatus(t *testing.T, c *Client) {
	t.Helper()
	got, err := c.BlockStatus(32768, 65536, 0)
	want := []Extent{{32768, 0}, {32768, StateHole | StateZero}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("block status %v %v, want %v", got, err, want)
	}
	if got, err = c.BlockStatus(32768, 65536, CmdFlagReqOne); err != nil || len(got) != 1 {
		t.Errorf("block status with REQ_ONE %v %v", got, err)
	}
	rep, err := c.Do(Request{Op: CmdRead, Flags: CmdFlagDF, Offset: 60000, Length: 10000})
	if err != nil || len(rep.Chunks) != 1 {
		t.Errorf("DF: %d chunks, %v", len(rep.Chunks), err)
	}
	rep, err = c.Do(Request{Op: CmdRead, Offset: 60000, Length: 10000})
	mustDo(t, err)
	if all, err := c.Do(Request{Op: CmdRead, Length: 65536}); err != nil || slices.IsSortedFunc(all.Chunks, func(a, b ChunkInfo) int {
		return cmp.Compare(a.Offset, b.Offset)
	}) {
		t.Errorf("chunks came in order though they are shuffled (%v)", err)
	}
	types := map[uint16]int{}
	for _, c := range rep.Chunks {
		types[c.Type]++
	}
	if types[ReplyOffsetData] < 2 || types[ReplyOffsetHole] != 1 {
		t.Errorf("chunks by type %v, want several of data and a hole", types)
	}
}

func TestHandshakeVariants(t *testing.T) {
	disk := NewDisk(1 << 20)
	sizes := BlockSize{512, 4096, 1 << 20}
	exports := []Export{{Name: "a", Description: "first", Disk: disk, BlockSize: &sizes}, {Name: "b", Disk: disk, Flags: FlagHasFlags | FlagReadOnly}}
	start := func(neg Negotiation) *Server {
		return StartServer(t, ServerOptions{Exports: exports, Negotiation: neg})
	}
	dialErr := func(neg Negotiation, o Options) error {
		s := start(neg)
		c, err := Dial(s.Network(), s.Addr(), o)
		if err == nil {
			c.Close()
		}
		return err
	}
	mustDo(t, dialErr(Negotiation{NoGo: true}, Options{Export: "a"}))
	mustDo(t, dialErr(Negotiation{NotFixed: true}, Options{Export: "a", ExportName: true}))
	mustDo(t, dialErr(Negotiation{KeepZeroes: true, NoGo: true}, Options{Export: "a"}))
	mustDo(t, dialErr(Negotiation{AnyName: true}, Options{Export: "nonsense"}))
	mustDo(t, dialErr(Negotiation{NoStructured: true, NoMeta: true}, Options{Export: "a", Structured: true}))
	wantReply := func(err error, typ uint32) {
		t.Helper()
		var refused *OptionError
		if !errors.As(err, &refused) || refused.Reply != typ {
			t.Errorf("got %v, want reply %#x", err, typ)
		}
	}
	wantReply(dialErr(Negotiation{NoGo: true}, Options{Export: "a", NoFallback: true}), RepErrUnsup)
	wantReply(dialErr(Negotiation{}, Options{Export: "nonsense"}), RepErrUnknown)
	wantReply(dialErr(Negotiation{NeedBlockSize: true}, Options{Export: "a", NoBlockSize: true}), RepErrBlockSizeReqd)
	wantReply(dialErr(Negotiation{Refuse: map[uint32]uint32{OptGo: RepErrPolicy}}, Options{Export: "a"}), RepErrPolicy)
	if err := dialErr(Negotiation{Oldstyle: true}, Options{}); err == nil || !strings.Contains(err.Error(), "oldstyle") {
		t.Errorf("oldstyle: %v", err)
	}
	if err := dialErr(Negotiation{}, Options{Export: "nonsense", ExportName: true}); !errors.Is(err, io.EOF) {
		t.Errorf("EXPORT_NAME of no export: %v, want the end of the connection", err)
	}
	testInfos(t, start(Negotiation{}), sizes)
}

func testInfos(t *testing.T, s *Server, sizes BlockSize) {
	t.Helper()
	c, err := DialRaw(s.Network(), s.Addr(), Options{})
	mustDo(t, err)
	defer c.Close()
	mustDo(t, c.Greet())
	list, err := c.List()
	if err != nil || !slices.Equal(list, []ListedExport{{"a", "first"}, {"b", ""}}) {
		t.Errorf("list %v %v", list, err)
	}
	info, err := c.QueryInfo("a", InfoName, InfoDescription, InfoBlockSize)
	if err != nil || info.Name != "a" || info.Description != "first" || *info.BlockSize != sizes || info.Size != 1<<20 {
		t.Errorf("info %+v %v", info, err)
	}
	if info, err = c.QueryInfo("b"); err != nil || info.Flags != FlagHasFlags|FlagReadOnly {
		t.Errorf("info of b %+v %v", info, err)
	}
	mustDo(t, c.AskStructuredReply())
	for _, queries := range [][]string{nil, {"base:"}, {"x-other:", BaseAllocation}} {
		if names, err := c.ListMetaContext("a", queries...); err != nil || !slices.Equal(names, []string{BaseAllocation}) {
			t.Errorf("contexts for %q: %q %v", queries, names, err)
		}
	}
	mustDo(t, c.Abort())
}

func TestSizes(t *testing.T) {
	for _, e := range []Export{{Disk: NewDisk(0)}, {Disk: NewDisk(1 << 20), TellZero: true}, {Disk: NewDisk(1 << 62)}, {Disk: NewDisk(4096), Size: 1 << 40}} {
		s := StartServer(t, ServerOptions{Exports: []Export{e}, BadClients: true})
		c := dial(t, s, Options{Structured: true})
		if c.Info.Size != e.size() {
			t.Errorf("told %d, want %d", c.Info.Size, e.size())
		}
		wantErrno(t, c.Write(c.Info.Size, []byte{1}, 0), ENOSPC)
		_, err := c.Read(c.Info.Size, 1, 0)
		wantErrno(t, err, EINVAL)
		if e.size() > 1<<40 {
			mustDo(t, c.Write(e.size()-3, []byte("end"), 0))
			mustRead(t, c, e.size()-3, []byte("end"))
		}
	}
}

func TestCrashKeepsWhatWasFlushed(t *testing.T) {
	s := StartServer(t, ServerOptions{Exports: []Export{{Disk: NewDisk(1 << 20)}}})
	c := dial(t, s, Options{})
	a, b := pattern(4096, 1), pattern(4096, 2)
	mustDo(t, c.Write(0, a, 0))
	mustDo(t, c.Flush())
	mustDo(t, c.Write(0, b, 0))
	mustDo(t, c.Write(8192, b, CmdFlagFUA))
	mustDo(t, c.Write(16384, b, 0))
	mustDo(t, c.Trim(8192, 4096, 0))
	mustRead(t, c, 0, b)
	if d := s.Disk("").Dirty(); d != 3 {
		t.Errorf("%d dirty pages, want 3", d)
	}
	s.Disk("").Crash()
	mustRead(t, c, 0, a)
	mustRead(t, c, 8192, b)
	mustRead(t, c, 16384, make([]byte, 4096))
}

func TestCrashPartly(t *testing.T) {
	d := NewDisk(1 << 20)
	for i := range uint64(64) {
		d.WriteAt([]byte{1}, i*pageSize, false)
	}
	d.CrashPartly(7)
	if kept := len(d.Extents(0, 1<<20, 1000)); kept < 3 || d.Dirty() != 0 {
		t.Errorf("%d extents, %d dirty: want some kept and some lost", kept, d.Dirty())
	}
}

func TestReorder(t *testing.T) {
	for _, interleave := range []bool{false, true} {
		s := serve(t, Negotiation{ReadChunk: 512})
		s.SetOutput(Output{Batch: 8, Interleave: interleave, Seed: 3})
		c := dial(t, s, Options{Structured: true})
		for i := range uint64(8) {
			_, err := c.Send(Request{Op: CmdRead, Offset: i * 4096, Length: 4096})
			mustDo(t, err)
		}
		var order []uint64
		for range 8 {
			rep, err := c.Recv()
			mustDo(t, err)
			order = append(order, rep.Request.Offset)
		}
		if slices.IsSorted(order) {
			t.Errorf("interleave %v: replies came in order", interleave)
		}
	}
}

// TestInterleave looks at the wire: chunks of different replies take turns.
func TestInterleave(t *testing.T) {
	s := serve(t, Negotiation{ReadChunk: 512})
	s.SetOutput(Output{Batch: 2, Interleave: true, Seed: 1})
	c := dial(t, s, Options{Structured: true})
	two := append(EncodeRequest(false, 0, CmdRead, 1, 0, 4096, nil), EncodeRequest(false, 0, CmdRead, 2, 4096, 4096, nil)...)
	mustDo(t, c.WriteRaw(two))
	turns, last := 0, uint64(0)
	for range 16 {
		b, err := c.ReadRaw(sizeChunk + 8 + 512)
		mustDo(t, err)
		if cookie := be.Uint64(b[8:]); cookie != last {
			turns, last = turns+1, cookie
		}
	}
	if turns < 3 {
		t.Errorf("the replies took %d turns, want them mixed", turns)
	}
}

func TestFragments(t *testing.T) {
	s := serve(t, Negotiation{})
	s.SetOutput(Output{Fragment: 40, Pause: 50 * time.Microsecond, Seed: 5})
	c := dial(t, s, Options{})
	mustDo(t, c.WriteRaw(EncodeRequest(false, 0, CmdRead, 1, 0, 1000, nil)))
	reads, got := 0, 0
	for buf := make([]byte, 4096); got < 1016; reads++ {
		n, err := c.Conn().Read(buf)
		mustDo(t, err)
		got += n
	}
	if reads < 3 {
		t.Errorf("the reply came in %d pieces, want many", reads)
	}
	mustRead(t, dial(t, s, Options{Structured: true}), 0, pattern(4096, 1))
}

func TestOneClient(t *testing.T) {
	for _, excess := range []bool{false, true} {
		s := serve(t, Negotiation{MaxClients: 1, CloseExcess: excess})
		first := dial(t, s, Options{})
		_, err := Dial(s.Network(), s.Addr(), Options{Timeout: 500 * time.Millisecond})
		if excess == isTimeout(err) || err == nil {
			t.Errorf("second client, closing %v: %v", excess, err)
		}
		mustDo(t, first.Disconnect())
		WaitFor(t, "the slot", func() bool { return s.Conns() == 0 })
		if excess {
			mustDo(t, dial(t, s, Options{}).Flush())
		}
	}
}

func TestSecondClientGetsItsTurn(t *testing.T) {
	s := serve(t, Negotiation{MaxClients: 1})
	first := dial(t, s, Options{})
	second, err := DialRaw(s.Network(), s.Addr(), Options{})
	mustDo(t, err)
	defer second.Close()
	first.Close()
	mustDo(t, second.Greet())
	mustDo(t, second.Go(""))
}

func TestComesBackWithAnotherDisk(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		s := StartServer(t, ServerOptions{Network: network, Exports: []Export{{Name: "x", Disk: NewDisk(1 << 20)}}})
		addr := s.Addr()
		c := dial(t, s, Options{Export: "x"})
		s.Kill(RST)
		if err := c.ExpectClosed(); err != nil {
			t.Error(err)
		}
		if _, err := Dial(network, addr, Options{Export: "x"}); err == nil {
			t.Error("a dead server accepts")
		}
		s.SetExports(Export{Name: "x", Disk: NewDisk(1 << 19)})
		s.Listen()
		if c = dial(t, s, Options{Export: "x"}); s.Addr() != addr || c.Info.Size != 1<<19 {
			t.Errorf("address %s and size %d after the return", s.Addr(), c.Info.Size)
		}
	}
}

func TestKillFINAndRST(t *testing.T) {
	for how, want := range map[Ending]error{FIN: io.EOF, RST: syscall.ECONNRESET} {
		s := StartServer(t, ServerOptions{Network: "tcp"})
		c := dial(t, s, Options{})
		s.KillAll(how)
		c.Conn().SetReadDeadline(time.Now().Add(endTimeout))
		if _, err := c.Conn().Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("ending %d: got %v, want %v", how, err, want)
		}
	}
}

func TestViolationsByClients(t *testing.T) {
	raw := func(extended bool, flags, op uint16, cookie, off, n uint64) []byte {
		return EncodeRequest(extended, flags, op, cookie, off, n, nil)
	}
	sizes := &BlockSize{512, 4096, 65536}
	cases := map[string]struct {
		send []byte
		want string
	}{
		"garbage":           {bytes.Repeat([]byte("x"), 28), "request magic"},
		"unknown command":   {raw(false, 0, 99, 1, 0, 0), "unknown command"},
		"foreign flag":      {raw(false, CmdFlagDF, CmdFlush, 1, 0, 0), "do not belong"},
		"payload flag":      {EncodeRequest(false, CmdFlagPayloadLen, CmdWrite, 1, 0, 512, make([]byte, 512)), "PAYLOAD_LEN"},
		"unoffered command": {raw(false, 0, CmdCache, 1, 0, 512), "not offered"},
		"unaligned":         {raw(false, 0, CmdRead, 1, 1, 512), "not aligned"},
		"beyond":            {raw(false, 0, CmdRead, 1, 1<<20, 512), "beyond the end"},
		"too long":          {raw(false, 0, CmdWrite, 1, 0, 1<<20), "payload of"},
		"no context":        {raw(false, 0, CmdBlockStatus, 1, 0, 512), "no metadata context"},
		"cookie in flight":  {append(raw(false, 0, CmdTrim, 1, 0, 512), raw(false, 0, CmdTrim, 1, 512, 512)...), "is in flight"},
		"bad DISC":          {raw(false, 0, CmdDisc, 1, 0, 512), "DISC"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := StartServer(t, ServerOptions{BadClients: true, Exports: []Export{{Disk: NewDisk(1 << 20), BlockSize: sizes, Flags: DefaultFlags &^ FlagSendCache}}})
			release := s.StallReplies()
			defer release()
			mustDo(t, dial(t, s, Options{Structured: true}).WriteRaw(tc.send))
			WaitFor(t, "the violation", func() bool { return len(s.Violations()) > 0 })
			if v := s.Violations(); !strings.Contains(v[0], tc.want) {
				t.Errorf("noted %q, want %q", v, tc.want)
			}
		})
	}
}

func TestReadOnlyExport(t *testing.T) {
	s := StartServer(t, ServerOptions{BadClients: true, Exports: []Export{{Disk: NewDisk(4096), Flags: DefaultFlags | FlagReadOnly}}})
	wantErrno(t, dial(t, s, Options{}).Write(0, []byte{1}, 0), EPERM)
}

func TestDiscDrains(t *testing.T) {
	s := serve(t, Negotiation{})
	later := make(chan struct{})
	s.AddRule(Rule{Match: Op(CmdFlush), Fault: Fault{DelayReply: later}})
	c := dial(t, s, Options{})
	_, err := c.Send(Request{Op: CmdFlush})
	mustDo(t, err)
	_, err = c.Send(Request{Op: CmdDisc})
	mustDo(t, err)
	WaitFor(t, "DISC to arrive", func() bool { return s.Count(Op(CmdDisc)) == 1 })
	close(later)
	_, err = c.Recv()
	mustDo(t, err)
	mustDo(t, c.ExpectClosed())
}

func TestServerSurvivesGarbage(t *testing.T) {
	s := StartServer(t, ServerOptions{BadClients: true})
	for _, b := range [][]byte{{}, []byte("GET / HTTP/1.0\r\n\r\n"), bytes.Repeat([]byte{0xff}, 64),
		append(be.AppendUint32(nil, 3), EncodeOption(OptGo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0})...)} {
		conn, err := net.Dial(s.Network(), s.Addr())
		mustDo(t, err)
		conn.Write(b)
		conn.Close()
	}
	mustDo(t, dial(t, s, Options{}).Flush())
}
