package nbd

import (
	"encoding/hex"
	"strings"
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// version makes instances of the plugin that call themselves another version.
func version(t *testing.T, v string) sdktest.Instance {
	t.Helper()
	was := Version
	Version = v
	defer func() { Version = was }()
	return sdktest.NewLinked(Plugin())
}

// savedState gives the state of a connection that is at rest.
func savedState(t *testing.T, x *sdktest.Executor) []byte {
	t.Helper()
	x.Save()
	if !x.HasSaved || len(x.Violations) > 0 {
		t.Fatalf("saved %v, violations %q", x.HasSaved, x.Violations)
	}
	return x.Saved
}

// The layout of the state is a promise to the versions to come.
func TestStateLayout(t *testing.T) {
	r := newResponder(2)
	r.answerOpt = goWith(3, 512, 8192, 1<<20)
	x := connect(t, r, map[string]string{"export": "disk0"})
	const mask = "ccc60dfda83c2559"                                            // of cookies of version 1.0.0
	const want = "6e6264" + "01" + "02" + "01" + "0100" + "0000100000000000" + // goWith's export: 1 MiB, flags 1
		"00020000" + "00200000" + "00001000" + "4d000000" + "0500" + "0000" + "6469736b30" + mask
	if got := hex.EncodeToString(savedState(t, x)); got != want {
		t.Errorf("the state is\n%s, want\n%s", got, want)
	}

	r = newResponder(0)
	r.canonical, r.noSizes = "xy", true
	x = connect(t, r, nil)
	const simple = "6e6264" + "01" + "00" + "02" + "6d0d" + "0000800000000000" +
		"00020000" + "00100000" + "00000002" + "00000000" + "0000" + "0200" + "7879" + mask
	if got := hex.EncodeToString(savedState(t, x)); got != simple {
		t.Errorf("the state is\n%s, want\n%s", got, simple)
	}
}

// What a later version adds behind the fields does not keep an older one from
// resuming.
func TestResumeLaterState(t *testing.T) {
	x := connect(t, newResponder(1), nil)
	state := append(savedState(t, x), "something new"...)
	y := x.Resume(sdktest.NewLinked(Plugin()), state, 1)
	r := &sdktest.Request{Op: block.OpRead, Length: 4096}
	y.Do(r)
	if y.Failed != nil || len(y.Violations) > 0 || r.Status != block.OK {
		t.Fatalf("failed %+v, violations %q, read %v", y.Failed, y.Violations, r.Status)
	}
}

func TestResumeRefusals(t *testing.T) {
	put := func(at int, b ...byte) func([]byte) []byte {
		return func(s []byte) []byte { copy(s[at:], b); return s }
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		export string
		text   string
	}{
		{"nothing", func([]byte) []byte { return nil }, "disk0", "what it saved, 0 bytes, is no state of this plugin"},
		{"short", func(s []byte) []byte { return s[:35] }, "disk0", "what it saved, 35 bytes, is no state"},
		{"another plugin's", put(0, 't', 'i', 'n', 'y'), "disk0", "is no state of this plugin"},
		{"later format", put(3, 2), "disk0", "its state has format 2; this version reads format 1"},
		{"format 0", put(3, 0), "disk0", "format 0"},
		{"form", put(4, 3), "disk0", "unknown form of replies 3"},
		{"unknown feature", put(5, 4), "disk0", "the features 4"},
		{"context without chunks", put(4, 0, 1), "disk0", "the features 1, which do not fit"},
		{"size", put(8, 0, 0, 0, 0, 0, 0, 0, 0x80), "disk0", "a size of 9223372036854775808 bytes"},
		{"no block size", put(16, 0, 0, 0, 0), "disk0", "the block sizes 0, 4096 and 33554432"},
		{"odd block size", put(16, 3), "disk0", "the block sizes 3,"},
		{"large block size", put(16, 0, 0, 2, 0), "disk0", "the block sizes 131072,"},
		{"odd preferred size", put(20, 1), "disk0", "4097 and 33554432, which cannot be"},
		{"preferred below minimum", put(16, 0, 0x20, 0, 0), "disk0", "the block sizes 8192, 4096"},
		{"maximum below minimum", put(24, 0, 0, 0, 0), "disk0", "4096 and 0, which cannot be"},
		{"long export", put(32, 1, 0x10), "disk0", "names of 4097 and 0 bytes"},
		{"export beyond the end", put(32, 6, 0), "disk0", "names of 6 and 0 bytes"},
		{"long name", put(34, 255, 255), "disk0", "names of 5 and 65535 bytes"},
		{"name that was not told", func(s []byte) []byte { s[34] = 1; return append(s, 'x') }, "disk0", "names of 5 and 1 bytes"},
		{"export has changed", put(0), "disk1", `it leads to export "disk0", and volume.options.export is now "disk1"; a new connection is needed`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newResponder(1)
			x := connect(t, r, map[string]string{"export": "disk0"})
			state := c.change(append([]byte(nil), savedState(t, x)...))
			y := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(nil), sdktest.Options{
				Manifest: Plugin().Manifest(), Values: map[string]string{"export": c.export},
				Begins: abi.SessionResumed, State: state, Pos: x.Pos(),
			})
			y.Open()
			f := y.Failed
			if f == nil || f.Scope != abi.FailConn || f.Status != block.EINVAL || !strings.Contains(f.Text, c.text) {
				t.Fatalf("%+v\nwant …%s…", f, c.text)
			}
			if y.Sent > 0 || len(y.Violations) > 0 {
				t.Fatalf("%d bytes were sent, violations %q", y.Sent, y.Violations)
			}
		})
	}
}

// Two versions number their cookies apart; what one has sent the other never
// sees an answer to.
func TestHandoverChangesCookies(t *testing.T) {
	var cookies []uint64
	r := newResponder(1)
	r.fault = func(_ uint16, cookie []byte, _, _ uint64) []byte {
		cookies = append(cookies, native64(cookie))
		return nil
	}
	x := sdktest.NewExecutor(t, version(t, "1.0.0"), r.dial(), sdktest.Options{Manifest: Plugin().Manifest()})
	x.Open()
	for i, v := range []string{"1.0.0", "2.0.0", "1.0.0"} {
		if i > 0 {
			x = x.Resume(version(t, v), savedState(t, x), uint64(i))
		}
		q := &sdktest.Request{Op: block.OpRead, Length: 4096}
		x.Do(q)
		if len(x.Violations) > 0 || x.Failed != nil || q.Status != block.OK {
			t.Fatalf("%s: %q %+v %v", v, x.Violations, x.Failed, q.Status)
		}
		if got, want := cookies[len(cookies)-1], q.Tag()^cookieMask(v); got != want {
			t.Errorf("%s: the cookie is %#x, want %#x", v, got, want)
		}
	}
}

// A shadow numbers its requests as the version does that has saved.
func TestShadowKeepsCookies(t *testing.T) {
	x := connect(t, newResponder(1), nil)
	state := savedState(t, x)
	inst := version(t, "2.0.0")
	opened := abi.Overlay[abi.Opened](inst.Input())
	*opened = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Flags: abi.FlagShadow, Size: uint32(128 + abi.Align(len(state)))},
		Session: abi.SessionResumed, StateLen: uint32(len(state)), StreamPos: x.Pos()}
	copy(inst.Input()[128:], state)
	if _, _, err := inst.Call(int(opened.Size), 0); err != nil {
		t.Fatal(err)
	}
	const tag = 5<<32 | 9
	*abi.Overlay[abi.Request](inst.Input()) = abi.Request{Header: abi.Header{Kind: abi.EvRequest, Size: 40}, Tag: tag, Op: block.OpFlush}
	b, _, err := inst.Call(40, 0)
	if err != nil || len(b) < 16+sizeRequest {
		t.Fatalf("%d bytes of actions, %v", len(b), err)
	}
	if got := native64(b[16+8:]); got != tag^cookieMask(Version) {
		t.Errorf("the cookie is %#x, want version %s's %#x", got, Version, tag^cookieMask(Version))
	}
}

// Bytes that nobody has asked for stay in the stream: the next version finds
// them where they are, though only a part had arrived when it took over.
func TestHandoverWithLeftover(t *testing.T) {
	r := newResponder(0)
	stray := simpleReply(0, []byte("nonsense"))
	server := r.dial()
	x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), &strays{Server: server, out: &stray},
		sdktest.Options{Manifest: Plugin().Manifest(), Cut: sdktest.Single})
	x.Open()
	x.Run(func() bool { return x.Leftover() == 10 })
	y := x.Resume(version(t, "2.0.0"), savedState(t, x), 1)
	y.Run(func() bool { return false })
	if y.Failed == nil || !strings.Contains(y.Failed.Text, "that no outstanding request has") || len(y.Violations) > 0 {
		t.Fatalf("failed %+v, violations %q", y.Failed, y.Violations)
	}
}

// strays is a server that, when it has nothing to say, says something else.
type strays struct {
	sdktest.Server
	out *[]byte
}

func (s *strays) Recv(wait bool) ([]byte, error) {
	b, err := s.Server.Recv(wait)
	if len(b) == 0 && err == nil && wait {
		b, *s.out = *s.out, nil
	}
	return b, err
}

// A connection that has failed or said goodbye has no state.
func TestSaveAfterTheEnd(t *testing.T) {
	bad := faulty(1, 1, func(*responder, []byte, uint64) []byte { return make([]byte, 20) })
	x := connect(t, bad, nil)
	x.Do(&sdktest.Request{Op: block.OpWrite, Length: 512, Data: make([]byte, 512)})
	if x.Failed == nil {
		t.Fatal("the connection did not fail")
	}
	x.Failed = nil // after a failure the executor looks at nothing
	if x.Save(); x.HasSaved {
		t.Error("there is a state of a failed connection")
	}
	x = connect(t, newResponder(1), nil)
	x.Goodbye()
	if x.Save(); x.HasSaved {
		t.Error("there is a state after goodbye")
	}
}
