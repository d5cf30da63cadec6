package recording

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"blockengine/engine/pluginhost/compare"
	"blockengine/engine/pluginhost/guest"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// tapped is an instance whose calls are recorded.
type tapped struct {
	sdktest.Instance
	r   *Recorder
	tap *Tap
}

func (p *tapped) Call(n int, budget int64) ([]byte, bool, error) {
	in := p.Input()[:n]
	if p.tap == nil {
		opened := abi.Buffer(n)
		copy(opened, in)
		p.tap = p.r.Tap(Opening{Number: 7, Reactor: 1, Opened: opened})
	}
	p.tap.Events(in)
	actions, more, err := p.Instance.Call(n, budget)
	p.tap.Actions(actions, more, err)
	return actions, more, err
}

const secret = "open sesame"

// marked is a write's payload that can be recognised anywhere.
func marked(n uint64) []byte { return bytes.Repeat([]byte("PAYLOAD!"), int(n/8)) }

// record runs requests of all kinds over a plugin and gives the file.
func record(t *testing.T, p protocol.Plugin, srv sdktest.Server, payload bool, cut sdktest.Cut) []byte {
	t.Helper()
	var file bytes.Buffer
	m := p.Manifest()
	r, err := NewRecorder(&file, Options{Secrets: [][]byte{[]byte(secret)}, Header: Header{Plugin: "p", Name: m.Name, Version: m.Version,
		Copies: m.Payload == manifest.Copy, Payload: payload, Secrets: []string{"key"}, Began: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	inst := &tapped{Instance: sdktest.NewLinked(p), r: r}
	x := sdktest.NewExecutor(t, inst, srv, sdktest.Options{Manifest: m, Cut: cut,
		Values: map[string]string{"key": secret, "features": "keepalive,session"}})
	x.Open()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		var batch []*sdktest.Request
		for range 8 {
			q := &sdktest.Request{Op: block.OpRead + block.Op(rnd.IntN(3))}
			if q.Op != block.OpFlush {
				q.Offset, q.Length = rnd.Uint64N(64)<<12, 4096
				q.Data = marked(q.Length)
			}
			batch = append(batch, q)
		}
		x.Do(batch...)
	}
	x.Advance(3e9)
	x.Goodbye()
	if len(x.Violations) > 0 || x.Failed != nil {
		t.Fatalf("%v, %v", x.Violations, x.Failed)
	}
	inst.tap.Closed()
	if tr, err := r.Finish(Trailer{Reason: "test"}); err != nil || tr.Connections != 1 || tr.Lost != 0 {
		t.Fatalf("%+v, %v", tr, err)
	}
	return file.Bytes()
}

func nbdServer(t *testing.T) sdktest.Server {
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(1 << 20)}}})
	c, err := net.Dial("unix", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return sdktest.Over(c)
}

func play(t *testing.T, file []byte, p protocol.Plugin, exact bool) *Result {
	t.Helper()
	res, err := Replay{Module: guest.Linked(p), Exact: exact}.Run(t.Context(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// What was recorded is what the same version does again, in every cut of the
// stream, by meaning and byte for byte; and payload and secrets are not in it.
func TestReplayGivesTheSame(t *testing.T) {
	for name, c := range map[string]struct {
		plugin  protocol.Plugin
		server  func() sdktest.Server
		payload bool
	}{
		"nbd":  {nbd.Plugin(), func() sdktest.Server { return nbdServer(t) }, false},
		"tiny": {tiny.Plugin(), func() sdktest.Server { return sdktest.Answers(server.NewDisk(1 << 20).Connect().Answer) }, false},
		"transforming": {tiny.Transforming(), func() sdktest.Server {
			d := server.NewDisk(1 << 20)
			d.Transformed = true
			return sdktest.Answers(d.Connect().Answer)
		}, true},
	} {
		for _, cut := range []sdktest.Cut{sdktest.Whole, sdktest.Random, sdktest.Guessed} {
			t.Run(name+"/"+cut.String(), func(t *testing.T) {
				file := record(t, c.plugin, c.server(), c.payload, cut)
				if !c.payload && bytes.Contains(file, []byte("PAYLOAD!")) || bytes.Contains(file, []byte(secret)) {
					t.Error("payload or a secret is in the file")
				}
				res := play(t, file, c.plugin, false)
				if res.Difference != nil || len(res.Limits) > 0 || res.Cut != nil || res.Requests != 480 {
					t.Errorf("%+v", res)
				}
				if name == "nbd" && cut == sdktest.Whole { // others may see other windows
					if res := play(t, file, c.plugin, true); res.Difference != nil {
						t.Errorf("byte for byte: %v\n%v", res.Difference.Err, res.Difference)
					}
				}
			})
		}
	}
}

// Without payload a recording of a plugin that transforms it shows no byte of
// it, turned over or not, and says that it cannot be replayed.
func TestTransformedPayloadIsLeftOut(t *testing.T) {
	d := server.NewDisk(1 << 20)
	d.Transformed = true
	file := record(t, tiny.Transforming(), sdktest.Answers(d.Connect().Answer), false, sdktest.Whole)
	turned := marked(64)
	for i := range turned {
		turned[i] ^= 0xff
	}
	if bytes.Contains(file, []byte("PAYLOAD!")) || bytes.Contains(file, turned[:16]) {
		t.Error("payload is in the file")
	}
	_, err := Replay{Module: guest.Linked(tiny.Transforming())}.Run(t.Context(), bytes.NewReader(file))
	if err == nil || !strings.Contains(err.Error(), "--payload") {
		t.Errorf("got %v", err)
	}
}

// other is a version that asks for other bytes from some request on.
type other struct{ protocol.Plugin }

func (o other) NewConn() protocol.Conn { return &otherConn{Conn: o.Plugin.NewConn()} }

type otherConn struct {
	protocol.Conn
	seen int
}

func (c *otherConn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	for i := range batch {
		if c.seen++; c.seen == 100 {
			batch[i].Offset += 512
		}
	}
	return c.Conn.Submit(a, batch)
}

func TestReplayFindsADifference(t *testing.T) {
	file := record(t, nbd.Plugin(), nbdServer(t), false, sdktest.Whole)
	for _, exact := range []bool{false, true} {
		res := play(t, file, other{nbd.Plugin()}, exact)
		var d *compare.Difference
		if f := res.Difference; f == nil || !errors.As(f.Err, &d) || !exact && d.Of == 0 || f.Number != 7 || len(f.Events) == 0 || len(f.Old) == 0 || len(f.New) == 0 {
			t.Errorf("exact %v: %+v", exact, f)
		} else if !exact && (d.Class != compare.Sent || d.Call == 0) {
			t.Errorf("got %v", d)
		}
	}
	if _, err := (Replay{Module: guest.Linked(tiny.Plugin())}).Run(t.Context(), bytes.NewReader(file)); err == nil {
		t.Error("a recording of another plugin was replayed")
	}
}

// A joined connection is replayed from its state, and the limits are compared.
func TestReplayOfAJoinedConnection(t *testing.T) {
	srv := server.NewDisk(1 << 20)
	x := sdktest.NewExecutor(t, sdktest.NewLinked(tiny.Plugin()), sdktest.Answers(srv.Connect().Answer), sdktest.Options{Manifest: tiny.Plugin().Manifest()})
	x.Open()
	x.Save()
	state := x.Saved
	opened := abi.Buffer(128 + abi.Align(len(state)))
	*abi.Overlay[abi.Opened](opened) = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Size: uint32(len(opened))},
		Session: abi.SessionResumed, StateLen: uint32(len(state)), StreamPos: x.Pos()}
	copy(opened[128:], state)
	var file bytes.Buffer
	r, err := NewRecorder(&file, Options{Header: Header{Name: "tiny"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	tap := r.Tap(Opening{Opened: opened, Resumed: true})
	p := &tapped{Instance: sdktest.NewLinked(tiny.Plugin()), r: r, tap: tap}
	y := sdktest.NewExecutor(t, p, sdktest.Answers(srv.Connect().Answer), sdktest.Options{Manifest: tiny.Plugin().Manifest()})
	y.Open()
	tap.Closed()
	if _, err := r.Finish(Trailer{}); err != nil {
		t.Fatal(err)
	}
	res := play(t, file.Bytes(), tiny.Plugin(), false)
	if res.Connections != 1 {
		t.Errorf("%+v", res)
	}
}

// A writer that does not come after costs the recording of the connections, and
// says so.
func TestALazyWriterEndsTheRecording(t *testing.T) {
	pr, pw := io.Pipe()
	r, err := NewRecorder(pw, Options{Header: Header{Name: "nbd"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	opened := abi.Buffer(128)
	*abi.Overlay[abi.Opened](opened) = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Size: 128}}
	tap := r.Tap(Opening{Opened: opened})
	event := abi.Buffer(32 << 10)
	*abi.Overlay[abi.Header](event) = abi.Header{Kind: abi.EvMessage, Size: uint32(len(event))}
	for i := 0; !tap.dead; i++ { // as fast as it goes: nobody reads
		if i > 10000 {
			t.Fatal("the tap has no end of room")
		}
		tap.Events(event)
		tap.Actions(nil, false, nil)
	}
	tap.Closed()
	go func() { _, err := r.Finish(Trailer{}); pw.CloseWithError(err) }()
	d, err := NewReader(pr)
	if err != nil {
		t.Fatal(err)
	}
	lost := false
	for {
		rec, err := d.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		lost = lost || rec.kind == kindLost
	}
	if !lost || d.Trailer.Lost != 1 {
		t.Errorf("lost %v, %+v", lost, d.Trailer)
	}
}

// The length of a file is bounded.
func TestLimit(t *testing.T) {
	var file bytes.Buffer
	r, err := NewRecorder(&file, Options{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	opened := abi.Buffer(128)
	*abi.Overlay[abi.Opened](opened) = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Size: 128}}
	tap := r.Tap(Opening{Opened: opened})
	event := abi.Buffer(32 << 10)
	*abi.Overlay[abi.Header](event) = abi.Header{Kind: abi.EvMessage, Size: uint32(len(event))}
	for !isOver(r) {
		tap.Events(event)
		tap.Actions(nil, false, nil)
		if tap.dead {
			break
		}
	}
	tap.Closed()
	tr, err := r.Finish(Trailer{Reason: "time"})
	if err != nil || tr.Reason != ErrLimit.Error() || file.Len() > 1<<20+200 {
		t.Errorf("%+v, %v, %d bytes", tr, err, file.Len())
	}
}

func isOver(r *Recorder) bool {
	select {
	case <-r.Over():
		return true
	default:
		return false
	}
}

// A file that is cut short is replayed as far as it goes, and one that is
// damaged is refused with the place.
func TestDamagedFiles(t *testing.T) {
	file := record(t, tiny.Plugin(), sdktest.Answers(server.NewDisk(1<<20).Connect().Answer), false, sdktest.Whole)
	if res := play(t, file[:len(file)*2/3], tiny.Plugin(), false); res.Cut == nil || res.Requests == 0 || res.Difference != nil {
		t.Errorf("%+v", res)
	}
	bad := bytes.Clone(file)
	bad[len(bad)/2] ^= 1
	if _, err := (Replay{Module: guest.Linked(tiny.Plugin())}).Run(t.Context(), bytes.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	for text, want := range map[string]string{"": "no recording", "hello world, this is text": "does not begin as one", magic + "\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": "format is 9"} {
		if _, err := NewReader(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever a file holds, a replay comes to an end with an error or a result.
func FuzzReplay(f *testing.F) {
	head, _ := appendHead(nil, &Header{Name: "tiny"})
	opened := make([]byte, 128)
	opened[0], opened[4] = abi.EvOpened, 128
	begin := appendRecord(nil, kindBegin, 0, 1, 0, make([]byte, 8), []byte{128, 0, 0, 0, 0, 0, 0, 0}, opened)
	events := appendRecord(nil, kindEvents, 0, 1, 0, opened)
	actions := appendRecord(nil, kindActions, 0, 1, 0, []byte{1, 0, 0, 0, 24, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0})
	f.Add(bytes.Join([][]byte{begin, events, actions}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		fixed := bytes.Clone(b)
		for at := 0; len(fixed)-at >= recordHead; { // with checksums that fit
			n := int(le.Uint32(fixed[at:]))
			if n < 16 || n > len(fixed)-at-8 {
				break
			}
			seal(fixed[at : at+8+n])
			at += 8 + n
		}
		for _, exact := range []bool{false, true} {
			_, _ = Replay{Module: guest.Linked(tiny.Plugin()), Exact: exact}.Run(t.Context(), bytes.NewReader(append(bytes.Clone(head), fixed...)))
		}
	})
}
