package nbdtest

import (
	"errors"
	"io"
	"testing"
	"time"
)

// TestLiesAreSeen shows each lie on the wire, by the strict client's refusal of
// it; without the lie the same reads succeed (TestEveryStyle).
func TestLiesAreSeen(t *testing.T) {
	split := Negotiation{ExtendedHeaders: true, ReadChunk: 4096}
	cases := []struct {
		name  string
		fault Fault
		want  string
	}{
		{"wrong cookie", Fault{Cookie: 1 << 40}, "belongs to no outstanding request"},
		{"duplicate reply", Fault{Duplicate: true}, "belongs to no outstanding request"},
		{"chunk longer than told", Fault{Edit: LieLength(-100)}, "magic"},
		{"chunk shorter than told", Fault{Edit: LieLength(16 << 10)}, "length"},
		{"offset before the request", Fault{Edit: LieOffset(-8192)}, "outside the request"},
		{"offset into the next chunk", Fault{Edit: LieOffset(512)}, "overlaps"},
		{"chunk twice", Fault{Edit: Overlap}, "overlaps"},
		{"chunk missing", Fault{Edit: DropContent}, "gap"},
		{"short chunk", Fault{Edit: ShortRead(512)}, "gap"},
		{"bad magic", Fault{Bytes: func(b []byte) []byte { b[0] ^= 0xff; return b }}, "magic"},
	}
	for _, style := range []string{"structured", "extended"} {
		for _, tc := range cases {
			t.Run(style+"/"+tc.name, func(t *testing.T) {
				s := serve(t, split)
				rule := s.AddRule(Rule{Match: Op(CmdRead), Fault: tc.fault})
				c := dial(t, s, allStyles[style])
				_, err := c.Read(4096, 8192, 0)
				if err == nil { // a duplicate shows only when more is read
					_, err = c.Read(4096, 8192, 0)
				}
				wantViolation(t, err, tc.want)
				if rule.Hits() == 0 {
					t.Error("the rule counted no hit")
				}
				if _, again := c.Recv(); again != err {
					t.Errorf("the client is not poisoned: %v", again)
				}
			})
		}
	}
}

func TestSimpleLies(t *testing.T) {
	for name, f := range map[string]Fault{"wrong cookie": {Cookie: 3}, "duplicate": {Duplicate: true}} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Negotiation{})
			s.AddRule(Rule{Fault: f, Match: Op(CmdWrite), Times: 1})
			c := dial(t, s, Options{})
			err := c.Write(0, pattern(512, 3), 0)
			if err == nil {
				err = c.Flush()
			}
			wantViolation(t, err, "belongs to no outstanding request")
		})
	}
}

func TestStructuredRepliesMustBeUsed(t *testing.T) {
	s := serve(t, Negotiation{})
	simple := be.AppendUint64(be.AppendUint32(be.AppendUint32(nil, MagicSimple), 0), 0xc0c0_1e00<<32|1)
	s.AddRule(Rule{Match: Op(CmdRead), Fault: Fault{Bytes: func([]byte) []byte { return simple }}})
	_, err := dial(t, s, Options{Structured: true}).Read(0, 512, 0)
	wantViolation(t, err, "simple reply to a read")
}

func TestMissingDone(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Op(CmdRead), Fault: Fault{Edit: NoDone}})
	c := dial(t, s, Options{Structured: true, Timeout: 500 * time.Millisecond})
	if _, err := c.Read(0, 512, 0); !isTimeout(err) {
		t.Errorf("got %v, want a timeout: all data came but no DONE", err)
	}
	s.AddRule(Rule{Match: Op(CmdFlush), Fault: Fault{Edit: NoDone}})
	wantViolation(t, dial(t, s, Options{Structured: true}).Flush(), "NONE chunk without DONE")
}

func TestStatusLies(t *testing.T) {
	edit := func(f func(b []byte) []byte) Fault {
		return Fault{Edit: func(c []Chunk) []Chunk { c[0].Payload = f(c[0].Payload); return c }}
	}
	twice := Fault{Edit: func(c []Chunk) []Chunk { first := c[0]; first.Flags = 0; return []Chunk{first, c[0]} }}
	cases := map[string]struct {
		fault Fault
		want  string
	}{
		"unselected context": {edit(func(b []byte) []byte { b[0] ^= 1; return b }), "not selected"},
		"zero extent":        {edit(func(b []byte) []byte { clear(b[4:8]); return b }), "length 0"},
		"beyond the export":  {edit(func(b []byte) []byte { b[4] = 0x7f; return b }), "beyond the export"},
		"reserved bits":      {edit(func(b []byte) []byte { b[8] = 1; return b }), "reserved status bits"},
		"ragged length":      {edit(func(b []byte) []byte { return b[:len(b)-1] }), "length 11"},
		"context twice":      {twice, "second status chunk"},
		"no status":          {Fault{Edit: func(c []Chunk) []Chunk { c[0].Type, c[0].Payload = ReplyNone, nil; return c }}, "0 of 1 contexts"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Negotiation{})
			s.AddRule(Rule{Match: Op(CmdBlockStatus), Fault: tc.fault})
			c := dial(t, s, allStyles["structured"])
			_, err := c.BlockStatus(0, 64<<10, 0)
			wantViolation(t, err, tc.want)
		})
	}
}

func TestErrnoReplies(t *testing.T) {
	for name, o := range allStyles {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Negotiation{ExtendedHeaders: true})
			s.AddRule(Rule{Match: Match{Ops: []uint16{CmdWrite}, From: 8192, To: 12288}, Times: 1, Fault: Fault{Errno: ENOSPC}})
			c := dial(t, s, o)
			mustDo(t, c.Write(0, pattern(4096, 2), 0))
			wantErrno(t, c.Write(8192, pattern(4096, 2), 0), ENOSPC)
			mustRead(t, c, 8192, pattern(64<<10, 1)[8192:12288]) // not carried out
			mustDo(t, c.Write(8192, pattern(4096, 2), 0))        // once only
		})
	}
}

func TestErrorOffset(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Op(CmdRead), Fault: Fault{Errno: EIO, AtOffset: true, At: 6144}})
	c := dial(t, s, Options{Structured: true})
	rep, err := c.Do(Request{Op: CmdRead, Offset: 4096, Length: 8192})
	wantErrno(t, err, EIO)
	if len(rep.Errors) != 1 || !rep.Errors[0].HasOffset || rep.Errors[0].Offset != 6144 {
		t.Errorf("error chunks %+v, want one at 6144", rep.Errors)
	}
	if len(rep.Chunks) != 2 || rep.Chunks[0].Size != 2048 {
		t.Errorf("chunks %+v, want 2048 bytes of data before the error", rep.Chunks)
	}
}

func TestUnknownErrnoIsAViolation(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Fault: Fault{Errno: 122}})
	wantViolation(t, dial(t, s, Options{}).Flush(), "error value 122")
	wantErrno(t, dial(t, s, Options{AnyErrno: true}).Flush(), 122)
}

func TestFailedFlush(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Op(CmdFlush), Times: 1, Fault: Fault{Errno: EIO, DropCache: true}})
	c := dial(t, s, Options{})
	mustDo(t, c.Write(0, pattern(4096, 9), 0))
	wantErrno(t, c.Flush(), EIO)
	mustDo(t, c.Flush())
	mustRead(t, c, 0, pattern(64<<10, 1)[:4096]) // the write is lost, as DropCache says
}

func TestCutMidReply(t *testing.T) {
	for name, how := range map[string]Ending{"FIN": FIN, "RST": RST} {
		for _, after := range []int{0, 7, 16, 1000} {
			t.Run(name, func(t *testing.T) {
				s := serve(t, Negotiation{})
				s.AddRule(Rule{Match: Op(CmdRead), Fault: Fault{Cut: true, CutAfter: after, CutHow: how}})
				c := dial(t, s, Options{})
				mustDo(t, c.WriteRaw(EncodeRequest(false, 0, CmdRead, 1, 0, 4096, nil)))
				got, err := io.ReadAll(c.Conn())
				if err != nil || len(got) != after {
					t.Fatalf("got %d bytes and %v, want %d and the end", len(got), err, after)
				}
				WaitFor(t, "the connection to be gone", func() bool { return s.Conns() == 0 })
			})
		}
	}
}

func TestDelays(t *testing.T) {
	s := serve(t, Negotiation{})
	exec, reply := make(chan struct{}), make(chan struct{})
	s.AddRule(Rule{Match: Match{Ops: []uint16{CmdWrite}, To: 512}, Fault: Fault{DelayExec: exec}})
	s.AddRule(Rule{Match: Match{Ops: []uint16{CmdWrite}, From: 512, To: 1024}, Fault: Fault{DelayReply: reply}})
	c := dial(t, s, Options{})
	for off := range uint64(3) {
		_, err := c.Send(Request{Op: CmdWrite, Offset: off * 512, Data: pattern(512, 77)})
		mustDo(t, err)
	}
	var order []uint64
	for _, next := range []chan struct{}{reply, exec, nil} {
		rep, err := c.Recv()
		mustDo(t, err)
		order = append(order, rep.Request.Offset)
		if next != nil {
			close(next)
		}
	}
	if order[0] != 1024 || order[1] != 512 || order[2] != 0 {
		t.Errorf("replies in the order %v, want the delayed ones last", order)
	}
	if log := s.Log(); log[0].Done != 3 || log[1].Done != 1 {
		t.Errorf("carried out in the wrong order: %v", log)
	}
}

func TestNoReply(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Op(CmdWrite), Times: 1, Fault: Fault{NoReply: true}})
	c := dial(t, s, Options{})
	_, err := c.Send(Request{Op: CmdWrite, Data: pattern(512, 5)})
	mustDo(t, err)
	_, err = c.Send(Request{Op: CmdFlush})
	mustDo(t, err)
	if rep, err := c.Recv(); err != nil || rep.Request.Op != CmdFlush {
		t.Fatalf("got %+v, %v, want the flush's reply alone", rep, err)
	}
	if c.Outstanding() != 1 {
		t.Errorf("%d outstanding, want the write", c.Outstanding())
	}
}

func TestStopReading(t *testing.T) {
	s := serve(t, Negotiation{})
	on := make(chan struct{})
	s.AddRule(Rule{Match: Op(CmdFlush), Times: 1, Fault: Fault{StopReading: on}})
	c := dial(t, s, Options{})
	mustDo(t, c.Flush()) // answered, but nothing is read after it
	_, err := c.Send(Request{Op: CmdCache, Length: 512})
	mustDo(t, err)
	time.Sleep(20 * time.Millisecond)
	if n := s.Count(Op(CmdCache)); n != 0 {
		t.Fatalf("%d requests were read though reading is stopped", n)
	}
	close(on)
	_, err = c.Recv()
	mustDo(t, err)
}

func TestStalls(t *testing.T) {
	s := serve(t, Negotiation{})
	c := dial(t, s, Options{Timeout: 500 * time.Millisecond})
	release := s.StallReplies()
	_, err := c.Send(Request{Op: CmdFlush})
	mustDo(t, err)
	WaitFor(t, "the flush to be read", func() bool { return s.Count(Op(CmdFlush)) == 1 })
	if _, err := c.Recv(); !isTimeout(err) {
		t.Fatalf("got %v, want silence", err)
	}
	release()
	c2 := dial(t, s, Options{})
	mustDo(t, c2.Flush())
	release = s.StallReads()
	defer release()
	c3 := dial(t, s, Options{})
	_, err = c3.Send(Request{Op: CmdFlush})
	mustDo(t, err)
	time.Sleep(20 * time.Millisecond)
	if s.Count(Match{Conn: 3}) != 0 {
		t.Error("a request was read though reads are stalled")
	}
}

func TestForCloses(t *testing.T) {
	select {
	case <-For(time.Millisecond):
	case <-time.After(endTimeout):
		t.Error("the channel did not close")
	}
}

func TestRuleSkipAndRemove(t *testing.T) {
	s := serve(t, Negotiation{})
	rule := s.AddRule(Rule{Match: Op(CmdFlush), Skip: 1, Fault: Fault{Errno: EIO}})
	c := dial(t, s, Options{})
	mustDo(t, c.Flush())
	wantErrno(t, c.Flush(), EIO)
	rule.Remove()
	mustDo(t, c.Flush())
	if _, err := c.Do(Request{Op: CmdFlush, Offset: 4096}); !errors.Is(err, Errno(EINVAL)) {
		t.Errorf("flush with an offset: %v, want EINVAL", err)
	}
	if v := s.Violations(); len(v) != 1 {
		t.Errorf("violations %v, want the flush with an offset", v)
	}
	s.lenient = true
}

func TestContentAfterItsErrorIsRefused(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Op(CmdRead), Fault: Fault{Errno: EIO, AtOffset: true, At: 0, Edit: func(c []Chunk) []Chunk {
		late := dataChunk(0, make([]byte, 512))
		late.Cookie, late.Flags = c[0].Cookie, ReplyFlagDone
		c[0].Flags = 0
		return append(c, late)
	}}})
	_, err := dial(t, s, Options{Structured: true}).Read(0, 512, 0)
	wantViolation(t, err, "after an error chunk")
}

func TestTwoChunksDespiteDFAreRefused(t *testing.T) {
	s := serve(t, Negotiation{})
	s.AddRule(Rule{Match: Match{Flags: CmdFlagDF}, Fault: Fault{Edit: func(c []Chunk) []Chunk {
		head, tail := c[0], dataChunk(256, make([]byte, 256))
		head.Payload, head.Flags = head.Payload[:8+256], 0
		tail.Cookie, tail.Flags = head.Cookie, ReplyFlagDone
		return []Chunk{head, tail}
	}}})
	c := dial(t, s, Options{Structured: true})
	_, err := c.Read(0, 512, 0)
	mustDo(t, err)
	_, err = c.Read(0, 512, CmdFlagDF)
	wantViolation(t, err, "though DF was set")
}
