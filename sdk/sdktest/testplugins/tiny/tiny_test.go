package tiny_test

import (
	"strings"
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

const diskSize = 4 << 20

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name, features string
		disk           *server.Disk
	}{
		{name: "plain", disk: &server.Disk{}},
		{name: "digest", features: "digest", disk: &server.Disk{}},
		{name: "hash", features: "hash", disk: &server.Disk{}},
		{name: "credits", features: "credits", disk: &server.Disk{Credits: 3}},
		{name: "keepalive and session", features: "keepalive,session", disk: &server.Disk{}},
		{name: "all", features: "digest,hash,credits,keepalive,session", disk: &server.Disk{Credits: 7, Pieces: true}},
	} {
		t.Run(c.name, func(t *testing.T) { conform(t, tiny.Plugin(), c.features, c.disk) })
	}
	t.Run("transforming", func(t *testing.T) {
		conform(t, tiny.Transforming(), "credits,session", &server.Disk{Credits: 5, Pieces: true, Transformed: true})
	})
}

func conform(t *testing.T, p protocol.Plugin, features string, d *server.Disk) {
	d.Fill(diskSize)
	sdktest.Run(t, sdktest.Harness{
		Manifest: p.Manifest(),
		Values:   map[string]string{"features": features, "key": "secret"},
		Open:     sdktest.Linked(p),
		Dial:     func(sdktest.TB) sdktest.Server { return sdktest.Answers(d.Connect().Answer) },
	})
}

// rig is a connection to a server that the test can reach.
func rig(t *testing.T, features string, d *server.Disk, o sdktest.Options) (*sdktest.Executor, *server.Conn) {
	t.Helper()
	d.Fill(diskSize)
	c := d.Connect()
	p := tiny.Plugin()
	if d.Transformed {
		p = tiny.Transforming()
	}
	o.Manifest, o.Values = p.Manifest(), map[string]string{"features": features}
	x := sdktest.NewExecutor(t, sdktest.NewLinked(p), sdktest.Answers(c.Answer), o)
	x.Open()
	if x.Limits == nil || x.Failed != nil {
		t.Fatalf("no login: %+v %q", x.Failed, x.Violations)
	}
	t.Cleanup(func() {
		for _, v := range x.Violations {
			t.Errorf("contract: %s", v)
		}
	})
	return x, c
}

func write(offset uint64, fill byte) *sdktest.Request {
	data := make([]byte, 4096)
	for i := range data {
		data[i] = fill
	}
	return &sdktest.Request{Op: block.OpWrite, Offset: offset, Length: 4096, Data: data}
}

// A plugin that transforms payload stores something else than it is given.
func TestTransforms(t *testing.T) {
	d := &server.Disk{Transformed: true}
	x, _ := rig(t, "", d, sdktest.Options{})
	x.Do(write(4096, 0x5a))
	if b := d.Bytes(4096, 4096); b[0] != 0xa5 || b[4095] != 0xa5 {
		t.Fatalf("the disk holds %#x", b[0])
	}
}

// Data that does not match its digest fails the connection and nothing is
// completed with it.
func TestBadDigest(t *testing.T) {
	d := &server.Disk{}
	x, _ := rig(t, "digest", d, sdktest.Options{})
	x.Do(write(0, 1))
	d.BadDigest = true
	r := &sdktest.Request{Op: block.OpRead, Length: 4096}
	x.Do(r)
	if x.Failed == nil || x.Failed.Status != block.EBADMSG || r.Done {
		t.Fatalf("failed %+v, read done %v", x.Failed, r.Done)
	}
}

// A held request comes back when it is aborted, unexecuted, and frees its
// credit.
func TestAbortReleases(t *testing.T) {
	d := &server.Disk{Credits: 1, Hold: func(op block.Op, offset uint64) bool { return offset == 8192 }}
	x, c := rig(t, "credits", d, sdktest.Options{})
	held, next := write(8192, 1), write(0, 2)
	x.Submit(held, next)
	x.Run(func() bool { return false })
	if held.Done || next.Done || x.Outstanding() != 1 {
		t.Fatalf("held %v, next %v, outstanding %d", held.Done, next.Done, x.Outstanding())
	}
	x.Abort(held)
	x.Wait(held, next)
	if !held.Released || held.Executed || next.Status != block.OK || c.Cancels != 1 {
		t.Fatalf("held %+v, next %v, cancels %d", held, next.Status, c.Cancels)
	}
}

// A write whose hash is awaited has not been sent and comes back at once.
func TestAbortBeforeHash(t *testing.T) {
	x, _ := rig(t, "hash", &server.Disk{}, sdktest.Options{})
	var all []*sdktest.Request
	for i := range uint64(8) {
		all = append(all, write(i*4096, byte(i)))
	}
	x.Do(all...)
	for _, r := range all {
		if r.Status != block.OK {
			t.Fatal(r.Status)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	x, c := rig(t, "keepalive", &server.Disk{}, sdktest.Options{})
	x.Advance(3500e6)
	x.Run(func() bool { return false })
	if c.Pings != 3 || x.Timers() != 1 {
		t.Fatalf("%d pings, %d timers", c.Pings, x.Timers())
	}
	x.Goodbye()
	if x.Timers() != 0 {
		t.Fatal("a timer is left after goodbye")
	}
}

// News of the server reach the engine.
func TestNews(t *testing.T) {
	x, c := rig(t, "", &server.Disk{}, sdktest.Options{})
	c.News = append(c.News, server.Reply(0, tiny.ReplySize, 0, []byte{0, 0, 32, 0, 0, 0, 0, 0})...)
	c.News = append(c.News, server.Reply(0, tiny.ReplyPath, 0, []byte{abi.PathInaccessible, 0, 0, 0, 0, 0, 0, 0})...)
	c.News = append(c.News, server.Reply(0, tiny.ReplyRedirect, 0, []byte("tcp:other:1"))...)
	x.Do(&sdktest.Request{Op: block.OpFlush})
	x.Run(func() bool { return len(x.Redirects) > 0 })
	if len(x.News) != 2 || x.Limits.Size != 2<<20 || len(x.Paths) != 1 || x.Paths[0] != abi.PathInaccessible ||
		len(x.Redirects) != 1 || x.Redirects[0].Address != "tcp:other:1" {
		t.Fatalf("limits %+v, paths %v, redirects %v", x.News, x.Paths, x.Redirects)
	}
}

// Messages go from a data connection to the control connection and back.
func TestMessages(t *testing.T) {
	d := &server.Disk{Hold: func(block.Op, uint64) bool { return true }}
	var y *sdktest.Executor
	x, c := rig(t, "session", d, sdktest.Options{Deliver: func(to uint32, data []byte) { y.Message(0, data) }})
	if len(x.Published) != 8 {
		t.Fatalf("published %q", x.Published)
	}
	y, _ = rig(t, "session", d, sdktest.Options{Conn: 1, Session: x.Published,
		Deliver: func(to uint32, data []byte) { x.Message(1, data) }})
	r := write(0, 1)
	y.Submit(r)
	y.Abort(r)
	y.Wait(r)
	if !r.Released || c.Pings != 1 || len(x.Messages) != 1 || x.Messages[0].Data != "seen: an abort" {
		t.Fatalf("released %v, pings %d, messages %v", r.Released, c.Pings, x.Messages)
	}
}

// What the server has begun to say by itself is finished to the instance that
// takes over, and timers go on.
func TestHandoverWithLeftover(t *testing.T) {
	x, c := rig(t, "keepalive,session", &server.Disk{}, sdktest.Options{Cut: sdktest.Single})
	c.News = server.Reply(0, tiny.ReplySize, 0, []byte{0, 0, 32, 0, 0, 0, 0, 0})
	x.Advance(1e9)
	x.Run(func() bool { return x.Leftover() == 5 }) // of the answer to the ping
	x.Save()
	if !x.HasSaved {
		t.Fatal("there is no state")
	}
	y := x.Resume(sdktest.NewLinked(tiny.Plugin()), x.Saved, 1)
	y.Run(func() bool { return len(y.News) > 1 })
	y.Advance(1e9)
	if len(y.Published) == 0 || string(y.Published) != string(x.Published) {
		t.Errorf("it publishes %x, the version before %x", y.Published, x.Published)
	}
	if y.Limits.Size != 2<<20 || len(y.Violations) > 0 || y.Failed != nil || c.Pings != 2 || y.Timers() != 1 {
		t.Fatalf("limits %+v, violations %q, failed %+v, %d pings, %d timers",
			y.Limits, y.Violations, y.Failed, c.Pings, y.Timers())
	}
}

// There is no state while a request is outstanding, and none that is of another
// format, of other features, or impossible is resumed from.
func TestStateRefusals(t *testing.T) {
	d := &server.Disk{Hold: func(op block.Op, _ uint64) bool { return op == block.OpFlush }}
	x, _ := rig(t, "credits", d, sdktest.Options{})
	x.Save()
	good := x.Saved
	x.Submit(&sdktest.Request{Op: block.OpFlush})
	if x.Save(); x.HasSaved {
		t.Error("there is a state, though a request is outstanding")
	}
	for at, text := range map[int]string{0: "not this protocol's", 4: "another format", 8: "other features",
		12: "a block size that cannot be", 16: "a size that cannot be", 32: "no credits"} {
		state := append([]byte(nil), good...)
		if state[at]++; at == 32 {
			state[at] = 0
		}
		y := sdktest.NewExecutor(t, sdktest.NewLinked(tiny.Plugin()), sdktest.Answers(nil), sdktest.Options{
			Manifest: tiny.Plugin().Manifest(), Values: map[string]string{"features": "credits"},
			Begins: abi.SessionResumed, State: state,
		})
		y.Open()
		if y.Failed == nil || !strings.Contains(y.Failed.Text, text) || y.Sent > 0 {
			t.Errorf("%d: failed %+v, want …%s…; %d bytes sent", at, y.Failed, text, y.Sent)
		}
	}
}

// A data connection with a token of another session fails the session.
func TestStaleSession(t *testing.T) {
	d := &server.Disk{}
	d.Fill(diskSize)
	d.Connect().Answer(hello(0))
	x := sdktest.NewExecutor(t, sdktest.NewLinked(tiny.Plugin()), sdktest.Answers(d.Connect().Answer), sdktest.Options{
		Manifest: tiny.Plugin().Manifest(), Values: map[string]string{"features": "session"},
		Conn: 1, Session: []byte("stale   "),
	})
	x.Open()
	if x.Failed == nil || x.Failed.Scope != abi.FailSession || !strings.Contains(x.Failed.Text, "session") {
		t.Fatalf("%+v", x.Failed)
	}
}

func hello(token byte) []byte {
	b := make([]byte, tiny.SizeRequest)
	b[0], b[4], b[16] = tiny.OpHello, tiny.FeatureSession, token
	return b
}
