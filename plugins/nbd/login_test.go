package nbd

import (
	"strings"
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// connect logs in to a server in memory.
func connect(t testing.TB, r *responder, values map[string]string) *sdktest.Executor {
	t.Helper()
	server := r.dial()
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), server,
		sdktest.Options{Manifest: Plugin().Manifest(), Values: values})
	x.Open()
	for _, v := range x.Violations {
		t.Errorf("contract: %s", v)
	}
	return x
}

func TestLoginRefusals(t *testing.T) {
	answer := func(option, kind uint32, text string) map[uint32]func() []byte {
		return map[uint32]func() []byte{option: func() []byte { return optReply(option, kind, []byte(text)) }}
	}
	manyExports := newResponder(1)
	manyExports.exports = []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	for _, c := range []struct {
		name   string
		server *responder
		raw    string // what the server sends in place of all else
		values map[string]string
		scope  uint32
		status block.Status
		text   string
	}{
		{name: "unknown export", server: newResponder(1), values: map[string]string{"export": "disk9"},
			scope: abi.FailConn, status: block.ENOENT,
			text: `has no export "disk9" (it says "never heard of it"); set volume.options.export to one of: "", "disk0"`},
		{name: "many exports", server: manyExports, values: map[string]string{"export": "z"},
			scope: abi.FailConn, status: block.ENOENT, text: `"h", …`},
		{name: "TLS wanted", server: with(func(r *responder) { r.answerOpt = answer(7, 1<<31+5, "go away") }),
			scope: abi.FailConn, status: block.EACCES, text: `wants TLS (it says "go away"); set volume.path.address to tls:`},
		{name: "TLS wanted at once", server: with(func(r *responder) { r.answerOpt = answer(11, 1<<31+5, "") }),
			scope: abi.FailConn, status: block.EACCES, text: "wants TLS"},
		{name: "shutting down", server: with(func(r *responder) { r.answerOpt = answer(8, 1<<31+7, "") }),
			scope: abi.FailConn, status: block.ESHUTDOWN, text: "is shutting down"},
		{name: "policy", server: with(func(r *responder) { r.answerOpt = answer(7, 1<<31+2, "not you") }),
			scope: abi.FailConn, status: block.EACCES, text: `refuses export "": its policy forbids it (it says "not you")`},
		{name: "ack without size", server: with(func(r *responder) { r.answerOpt = answer(7, 1, "") }),
			scope: abi.FailConn, status: block.EPROTO, text: "without telling the export's size"},
		{name: "strange reply", server: with(func(r *responder) { r.answerOpt = answer(8, 9, "") }),
			scope: abi.FailConn, status: block.EPROTO, text: "answers STRUCTURED_REPLY with a reply of type 9"},
		{name: "wrong option", server: with(func(r *responder) {
			r.answerOpt = map[uint32]func() []byte{8: func() []byte { return optReply(10, 1, nil) }}
		}), scope: abi.FailConn, status: block.EPROTO, text: "answers option 10 where STRUCTURED_REPLY was sent"},
		{name: "huge reply", server: with(func(r *responder) {
			r.answerOpt = map[uint32]func() []byte{8: func() []byte { b := optReply(8, 1, nil); be.PutUint32(b[16:], 1<<31); return b }}
		}), scope: abi.FailConn, status: block.EPROTO, text: "is said to be 2147483648 bytes long"},
		{name: "bad magic", server: with(func(r *responder) {
			r.answerOpt = map[uint32]func() []byte{8: func() []byte { return make([]byte, 20) }}
		}), scope: abi.FailConn, status: block.EPROTO, text: "an option reply has the wrong magic number"},
		{name: "bad block size", server: with(func(r *responder) { r.answerOpt = goWith(3, 3, 4096, 1<<20) }),
			scope: abi.FailConn, status: block.EINVAL, text: "its minimum block size is 3, no power of two"},
		{name: "payload below block", server: with(func(r *responder) { r.answerOpt = goWith(3, 4096, 4096, 512) }),
			scope: abi.FailConn, status: block.EINVAL, text: "maximum payload of 512 bytes is smaller"},
		{name: "oldstyle", raw: "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + strings.Repeat("\x00", 136),
			scope: abi.FailConn, status: block.EPROTO, text: "oldstyle"},
		{name: "not NBD", raw: "SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
			scope: abi.FailConn, status: block.EPROTO, text: `it greets with "SSH-2.0-"; check the address`},
		{name: "connections", server: newResponder(1), values: map[string]string{"connections": "-1"},
			scope: abi.FailForever, status: block.EINVAL, text: "volume.options.connections is not a number"},
		{name: "long export", server: newResponder(1), values: map[string]string{"export": strings.Repeat("x", 4097)},
			scope: abi.FailForever, status: block.EINVAL, text: "volume.options.export is longer than the 4096 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.raw != "" {
				c.server = newResponder(0)
				c.server.phase, c.server.started = 9, true
			}
			x := connectRaw(t, c.server, c.raw, c.values)
			if x.Failed == nil {
				t.Fatal("the login did not fail")
			}
			if f := x.Failed; f.Scope != c.scope || f.Status != c.status || !strings.Contains(f.Text, c.text) {
				t.Fatalf("scope %d, %v: %s\nwant scope %d, %v: …%s…", f.Scope, f.Status, f.Text, c.scope, c.status, c.text)
			}
		})
	}
}

// connectRaw logs in to a server, or to something that only says raw.
func connectRaw(t *testing.T, r *responder, raw string, values map[string]string) *sdktest.Executor {
	if raw == "" {
		return connect(t, r, values)
	}
	said := false
	server := sdktest.Answers(func([]byte) ([]byte, bool) {
		if said {
			return nil, false
		}
		said = true
		return []byte(raw), false
	})
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), server, sdktest.Options{Manifest: Plugin().Manifest()})
	x.Open()
	return x
}

func with(change func(*responder)) *responder {
	r := newResponder(1)
	change(r)
	return r
}

// goWith answers GO with block sizes.
func goWith(kind uint16, sizes ...uint32) map[uint32]func() []byte {
	return map[uint32]func() []byte{7: func() []byte {
		export := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, 0), 1<<20), 1)
		info := be.AppendUint16(nil, kind)
		for _, s := range sizes {
			info = be.AppendUint32(info, s)
		}
		b := append(optReply(7, 3, export), optReply(7, 3, info)...)
		return append(b, optReply(7, ack, nil)...)
	}}
}

func TestLimits(t *testing.T) {
	x := connect(t, newResponder(2), nil)
	want := block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero |
		block.CapBlockStatus | block.CapCache | block.CapFlushCoversAll
	l := x.Limits
	if l.Caps != want || l.MaxConns < 2 || l.BlockSize != 1 || l.PreferredBlock != 4096 ||
		l.MaxTransfer != 32<<20 || l.MaxZeroes != 0 || l.MaxDiscard != 0 || l.Size != 8<<20 || l.Identity != "" {
		t.Errorf("extended: %+v", l)
	}

	l = connect(t, newResponder(1), map[string]string{"connections": "3", "export": "disk0"}).Limits
	if l.MaxConns != 3 || l.MaxZeroes != 1<<32-1 || l.MaxDiscard != 1<<32-1 || l.Identity != "disk0" {
		t.Errorf("structured: %+v", l)
	}

	r := newResponder(0)
	r.flags, r.canonical, r.noSizes = 1|1<<1|1<<4, "the disk", true
	l = connect(t, r, nil).Limits
	if l.MaxConns != 1 || l.Caps != block.CapReadOnly|block.CapRotational || l.BlockSize != 512 || l.Identity != "the disk" {
		t.Errorf("simple: %+v", l)
	}

	r.disk = r.disk[:1000]
	if l = connect(t, r, nil).Limits; l.BlockSize != 1 || l.Size != 1000 {
		t.Errorf("a size of 1000 bytes: %+v", l)
	}

	r.answerOpt = goWith(3, 4096, 4096, 1<<20+5)
	r.disk = make([]byte, 10000)
	if l = connect(t, r, nil).Limits; l.BlockSize != 4096 || l.Size != 1<<20 || l.MaxTransfer != 1<<20 {
		t.Errorf("block sizes: %+v", l)
	}
}

// A server that was refused by the login is taken leave of.
func TestLoginAborts(t *testing.T) {
	r := newResponder(1)
	var c *responder
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(func(b []byte) ([]byte, bool) {
		if c == nil {
			cc := *r
			c = &cc
		}
		return c.serve(b)
	}), sdktest.Options{Manifest: Plugin().Manifest(), Values: map[string]string{"export": "nope"}})
	x.Open()
	if x.Failed == nil || !c.aborted {
		t.Fatalf("failed %v, aborted %v", x.Failed, c.aborted)
	}
}

// Huge option replies that are legal are thrown away.
func TestLoginDiscards(t *testing.T) {
	r := newResponder(1)
	ok := r.goReply([]byte{0, 0, 0, 0, 0, 0})
	r.phase = 0
	r.answerOpt = map[uint32]func() []byte{7: func() []byte {
		return append(optReply(7, 3, make([]byte, 100<<10)), ok...)
	}}
	if x := connect(t, r, nil); x.Limits == nil {
		t.Fatalf("login did not end: %+v", x.Failed)
	}
}

func TestClosedExplains(t *testing.T) {
	r := newResponder(0)
	r.noGo, r.exports = true, []string{"other"}
	x := connect(t, r, nil)
	x.Closed(abi.ClosedEOF)
	if len(x.Logs) != 1 || !strings.Contains(x.Logs[0], "volume.options.export") {
		t.Fatalf("logs: %q", x.Logs)
	}
}
