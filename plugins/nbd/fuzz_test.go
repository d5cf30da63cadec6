package nbd

import (
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// FuzzReplies plays a server that says anything: after a login in one of the
// three forms come raw bytes, cut in a random way, while requests of all kinds
// are outstanding. In the bytes, the cookies of those requests stand in for
// the values 0xc00k. The executor checks that no foreign request is named,
// none completed twice and no range filled twice or outside its request.
func FuzzReplies(f *testing.F) {
	for form := range uint8(3) {
		r := newResponderOf(int(form), 64<<10)
		r.agreed = int(form)
		for _, seed := range seeds(r) {
			f.Add(form, uint64(1), seed)
		}
	}
	f.Fuzz(func(t *testing.T, form uint8, seed uint64, raw []byte) {
		if len(raw) > 8<<10 {
			return
		}
		r := newResponderOf(int(form%3), 64<<10)
		script := &scripted{responder: r, raw: raw}
		x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(script.serve),
			sdktest.Options{Manifest: Plugin().Manifest(), Cut: sdktest.Cut(seed % 4), Seed: seed})
		x.Open()
		if x.Limits == nil {
			t.Fatalf("no login: %+v", x.Failed)
		}
		var all []*sdktest.Request
		for i, op := range []block.Op{block.OpRead, block.OpWrite, block.OpFlush, block.OpDiscard,
			block.OpWriteZeroes, block.OpBlockStatus, block.OpCache, block.OpRead} {
			q := &sdktest.Request{Op: op, Offset: uint64(i) * 4096, Length: 4096}
			if op == block.OpWrite {
				q.Data = make([]byte, 4096)
			} else if op == block.OpFlush {
				q.Offset, q.Length = 0, 0
			} else if op == block.OpBlockStatus && i == 5 && !x.Limits.Has(block.CapBlockStatus) {
				continue
			}
			all = append(all, q)
		}
		script.hold = len(all)
		x.Submit(all...)
		x.Run(func() bool { return false })
		for _, v := range x.Violations {
			t.Errorf("contract: %s", v)
		}
	})
}

// scripted logs in as a responder does, then collects cookies and says raw.
type scripted struct {
	responder *responder
	raw       []byte
	hold      int
	cookies   [][]byte
}

func (s *scripted) serve(b []byte) ([]byte, bool) {
	if s.responder.fault == nil {
		s.responder.fault = func(_ uint16, cookie []byte, _, _ uint64) []byte {
			s.cookies = append(s.cookies, append([]byte(nil), cookie...))
			return []byte{}
		}
	}
	out, closed := s.responder.serve(b)
	if s.hold > 0 && len(s.cookies) == s.hold {
		s.hold = 0
		out = s.substitute()
	}
	return out, closed
}

// substitute puts the cookies that came in place of the bytes 0xc0 0x0k …, so
// that the fuzzer need not guess 64 bits.
func (s *scripted) substitute() []byte {
	out := append([]byte(nil), s.raw...)
	for i := 0; i+8 <= len(out); i++ {
		if out[i] == 0xc0 && out[i+1] == 0x0c && int(out[i+2]) < len(s.cookies) {
			copy(out[i:], s.cookies[out[i+2]])
			i += 7
		}
	}
	return out
}

// seeds are replies of all kinds to the requests of FuzzReplies.
func seeds(r *responder) (all [][]byte) {
	cookie := func(k byte) []byte { return []byte{0xc0, 0x0c, k, 0, 0, 0, 0, 0} }
	var whole []byte
	add := func(b []byte) {
		all = append(all, b)
		whole = append(whole, b...)
	}
	commands := []uint16{0, 1, 3, 4, 6, 7, 5}
	for k, cmd := range commands {
		if cmd == 7 && r.agreed == 0 {
			continue
		}
		length := uint64(4096)
		offset := uint64(k) * 4096
		if cmd == 3 {
			offset, length = 0, 0
		}
		add(r.execute(cmd, 0, cookie(byte(k)), offset, length, make([]byte, length)))
		all = append(all, r.error(cookie(byte(k)), 5, offset))
	}
	if r.agreed > 0 {
		all = append(all, r.chunk(cookie(0), 0, 1, 0, append(be.AppendUint64(nil, 512), make([]byte, 512)...)),
			r.chunk(cookie(0), 0, 2, 0, be.AppendUint32(be.AppendUint64(nil, 0), 512)))
	}
	return append(all, whole)
}

// FuzzLogin plays a server that says anything from its first byte on.
func FuzzLogin(f *testing.F) {
	for form := range 3 {
		r := newResponder(form)
		var said []byte
		x := sdktest.NewExecutor(f, sdktest.NewLinked(Plugin()), sdktest.Answers(func(b []byte) ([]byte, bool) {
			out, closed := r.serve(b)
			said = append(said, out...)
			return out, closed
		}), sdktest.Options{Manifest: Plugin().Manifest()})
		x.Open()
		f.Add(uint64(form), said)
	}
	f.Fuzz(func(t *testing.T, seed uint64, raw []byte) {
		said := false
		x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(func([]byte) ([]byte, bool) {
			if said {
				return nil, false
			}
			said = true
			return raw, true
		}), sdktest.Options{Manifest: Plugin().Manifest(), Cut: sdktest.Cut(seed % 4), Seed: seed})
		x.Open()
		for _, v := range x.Violations {
			t.Errorf("contract: %s", v)
		}
	})
}

// FuzzResume resumes from any state, and then plays a server that says anything
// while requests are outstanding. Whatever state is accepted is one that is
// saved again and gives the same limits.
func FuzzResume(f *testing.F) {
	for form := range 3 {
		r := newResponderOf(form, 64<<10)
		r.canonical = "the disk"
		x := sdktest.NewExecutor(f, sdktest.NewLinked(Plugin()), r.dial(), sdktest.Options{Manifest: Plugin().Manifest()})
		x.Open()
		x.Save()
		f.Add(uint64(form), x.Saved, []byte{})
		f.Add(uint64(form), x.Saved[:20], []byte{})
		r.agreed = form
		for _, seed := range seeds(r) {
			f.Add(uint64(form), x.Saved, seed)
		}
	}
	f.Fuzz(func(t *testing.T, seed uint64, state, raw []byte) {
		if len(state) > abi.MaxState || len(raw) > 8<<10 {
			return
		}
		script := &talker{raw: raw}
		x := resumed(t, script.serve, state, seed)
		if x.Limits != nil {
			again := resumed(t, script.serve, savedBy(t, x), seed)
			if again.Limits == nil || *again.Limits != *x.Limits {
				t.Errorf("resumed again: failed %+v, limits %+v, first %+v", again.Failed, again.Limits, x.Limits)
			}
			script.ready = true
			for op := block.OpRead; op <= block.MaxOp; op++ {
				q := &sdktest.Request{Op: op, Length: uint64(x.Limits.BlockSize)}
				if op == block.OpWrite {
					q.Data = make([]byte, q.Length)
				}
				x.Submit(q)
			}
			x.Run(func() bool { return false })
		} else if x.Failed == nil {
			t.Error("neither limits nor a failure")
		}
		for _, v := range x.Violations {
			t.Errorf("contract: %s", v)
		}
	})
}

// resumed opens an instance with a state.
func resumed(t *testing.T, serve func([]byte) ([]byte, bool), state []byte, seed uint64) *sdktest.Executor {
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(serve), sdktest.Options{
		Manifest: Plugin().Manifest(), Begins: abi.SessionResumed, State: state, Cut: sdktest.Cut(seed % 4), Seed: seed,
	})
	x.Open()
	if x.Sent > 0 {
		t.Errorf("%d bytes were sent for a state", x.Sent)
	}
	return x
}

func savedBy(t *testing.T, x *sdktest.Executor) []byte {
	if x.Save(); !x.HasSaved {
		t.Error("what has just been resumed gives no state")
	}
	return x.Saved
}

// talker says raw once it has been spoken to; in it, the cookie of the first
// request stands in for 0xc0 0x0c.
type talker struct {
	raw   []byte
	ready bool
}

func (s *talker) serve(b []byte) ([]byte, bool) {
	if !s.ready || len(b) < 16 {
		return nil, false
	}
	s.ready = false
	return (&scripted{raw: s.raw, cookies: [][]byte{append([]byte(nil), b[8:16]...)}}).substitute(), true
}
