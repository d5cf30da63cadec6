package compare

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/reactor"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/sdktest/testplugins/tiny/server"
)

// apart is an instance that answers when the test has it answer.
type apart struct {
	guest.Instance
	n       int // of Begin, -1 if there is none
	begun   int
	actions []byte
	more    bool
	err     error
	last    uint16 // kind of the last event
}

func newApart(i guest.Instance) *apart { return &apart{Instance: i, n: -1} }

func (a *apart) Attach(*reactor.Reactor, func()) error { return nil }

func (a *apart) Begin(n int, budget int64) {
	if a.n >= 0 {
		panic("begun before the answer")
	}
	if a.n = n; n > 0 {
		a.last = abi.Overlay[abi.Header](a.Input()).Kind
	}
	a.begun++
	actions, more, err := a.Instance.Call(n, budget)
	a.actions, a.more, a.err = append(a.actions[:0], actions...), more, err
}

func (a *apart) Answer() ([]byte, bool, error) { return a.actions, a.more, a.err }

// answers lets it answer, and reports whether there was something.
func (a *apart) answers(l *Late) bool {
	if a.n < 0 {
		return false
	}
	a.n = -1
	l.Answered()
	l.Go()
	return true
}

// drain has everything followed to its end.
func (a *apart) drain(l *Late) {
	l.Closed()
	l.Go()
	for a.answers(l) && l.Err() == nil {
	}
}

// latePair is an instance that another one follows, late.
type latePair struct {
	sdktest.Instance
	next *apart
	l    *Late
	room Room
	lag  func() bool // whether the other one does not answer now
}

func (p *latePair) Call(n int, budget int64) ([]byte, bool, error) {
	in := p.Input()[:n]
	if p.l == nil {
		var err error
		if p.l, err = FollowLate(p.next, Start{Opened: append([]byte(nil), in...)}, &p.room); err != nil {
			return nil, false, err
		}
	}
	p.l.Events(in)
	actions, more, err := p.Instance.Call(n, budget)
	p.l.Actions(actions, more, err)
	for p.l.Go(); !p.lag() && p.next.answers(p.l); {
	}
	return actions, more, err
}

// lags is a lag of many calls at times, and of none at others.
func lags(seed uint64) func() bool {
	rnd := rand.New(rand.NewPCG(seed, 1))
	left := 0
	return func() bool {
		if left == 0 {
			left = rnd.IntN(60) - 20
		}
		if left > 0 {
			left--
			return true
		}
		left++
		return false
	}
}

// A version that answers later, and is handed several calls in one then, differs
// in nothing from itself either: whatever the conformance suite does with it.
func TestNothingDiffersLate(t *testing.T) {
	for _, c := range []struct {
		name, features string
		plugin         protocol.Plugin
		disk           *server.Disk
	}{
		{"plain", "", tiny.Plugin(), &server.Disk{}},
		{"all", "digest,hash,credits,keepalive,session", tiny.Plugin(), &server.Disk{Credits: 7, Pieces: true}},
		{"transforming", "credits,session", tiny.Transforming(), &server.Disk{Credits: 5, Pieces: true, Transformed: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.disk.Fill(4 << 20)
			requests, merged, seed := uint64(0), 0, uint64(0)
			t.Cleanup(func() { // the last one
				if requests < 1000 || merged < 1000 {
					t.Errorf("only %d requests were compared, and %d calls handed in together with others", requests, merged)
				}
			})
			sdktest.Run(t, sdktest.Harness{
				Manifest: c.plugin.Manifest(), Values: map[string]string{"features": c.features},
				Open: func(tb sdktest.TB) sdktest.Instance {
					seed++
					p := &latePair{Instance: sdktest.NewLinked(c.plugin), next: newApart(sdktest.NewLinked(c.plugin)), lag: lags(seed)}
					t.Cleanup(func() {
						if p.l == nil {
							return
						}
						p.next.drain(p.l)
						if err := p.l.Err(); err != nil || !p.l.Over() {
							t.Errorf("a version differs from itself: %v", err)
						}
						requests += p.l.Requests()
						merged += int(p.l.Calls()) - p.next.begun
					})
					return p
				},
				Dial: func(sdktest.TB) sdktest.Server { return sdktest.Answers(c.disk.Connect().Answer) },
			})
		})
	}
}

// loadLate runs requests of all kinds with a version that follows late.
func loadLate(t *testing.T, next protocol.Plugin, lag func() bool) *latePair {
	t.Helper()
	d := server.NewDisk(1 << 20)
	p := &latePair{Instance: sdktest.NewLinked(tiny.Plugin()), next: newApart(sdktest.NewLinked(next)), lag: lag}
	x := sdktest.NewExecutor(t, p, sdktest.Answers(d.Connect().Answer), sdktest.Options{Manifest: tiny.Plugin().Manifest()})
	x.Open()
	for i := range uint64(60) {
		var batch []*sdktest.Request
		for j := range uint64(4) {
			switch (i + j) % 3 {
			case 0:
				batch = append(batch, &sdktest.Request{Op: block.OpRead, Offset: i << 12, Length: 4096})
			case 1:
				batch = append(batch, &sdktest.Request{Op: block.OpWrite, Offset: i << 12, Length: 4096, Data: make([]byte, 4096)})
			default:
				batch = append(batch, &sdktest.Request{Op: block.OpFlush})
			}
		}
		x.Do(batch...)
	}
	if len(x.Violations) > 0 || x.Failed != nil {
		t.Fatalf("%v, %v", x.Violations, x.Failed)
	}
	return p
}

// What differs is found, however late the answers come.
func TestPlantedDifferencesLate(t *testing.T) {
	for name, lag := range map[string]func() bool{
		"never":  func() bool { return false },
		"random": lags(7),
		"always": func() bool { return true }, // until the end
	} {
		for what, text := range map[string]string{
			"offset": "they differ from byte", "early": "they differ from byte", "silent": "read of 4096 bytes", "more": "bytes 6d6f7265", "panic": "panic: odd", "twice": "flush of 0 bytes", "timer": "timer 3",
			"fail": `"odd"`, "errno": "ENOSPC", "refuses": "fewer requests", "none": "",
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				p := loadLate(t, oddPlugin{what}, lag)
				p.next.drain(p.l)
				switch err := p.l.Err(); {
				case text == "":
					if err != nil || !p.l.Over() || p.l.Requests() != 240 || p.next.last != abi.EvClosed {
						t.Errorf("%v after %d requests, over %v", err, p.l.Requests(), p.l.Over())
					}
				case err == nil || !strings.Contains(err.Error(), text):
					t.Errorf("got %v, want: %s", err, text)
				}
			})
		}
	}
}

// A version that does not come after is let go when there is no more room, and
// not before what is kept has been looked at.
func TestNoMoreRoom(t *testing.T) {
	p := loadLate(t, tiny.Plugin(), func() bool { return true })
	calls := 0
	event := abi.Buffer(abi.InSize)
	for len(event) > 8 && p.l.shut == "" {
		*abi.Overlay[abi.Header](event) = abi.Header{Kind: abi.EvIdle, Size: 1 << 10}
		p.l.Events(event[:1<<10])
		p.l.Actions(nil, false, nil)
		calls++
	}
	if most := roomChunks * chunkSize; calls*(1<<10) > most || calls*(1<<10) < most/3 || p.room.made > roomChunks {
		t.Errorf("%d KiB in %d chunks are kept, want up to half of %d bytes", calls, p.room.made, most)
	}
	other, err := FollowLate(newApart(sdktest.NewLinked(tiny.Plugin())), Start{Opened: opened()}, &p.room)
	if err != nil {
		t.Fatal(err)
	}
	other.Events(event[:1<<10])
	if other.shut != "" {
		t.Error("one connection has left nothing to another one")
	}
	other.Drop()
	for p.next.answers(p.l) {
	}
	var limit *Limit
	if err := p.l.Err(); !errors.As(err, &limit) || limit.Text != notComing || p.l.Requests() != 240 {
		t.Errorf("%v after %d requests", err, p.l.Requests())
	}
	if p.l.Drop(); len(p.room.free) != p.room.made {
		t.Errorf("%d of %d chunks have come back", len(p.room.free), p.room.made)
	}
}

func opened() []byte {
	b := abi.Buffer(128)
	*abi.Overlay[abi.Opened](b) = abi.Opened{Header: abi.Header{Kind: abi.EvOpened, Size: 128}}
	return b
}

// The last event shows whether the process lives.
func TestGoodbyeLate(t *testing.T) {
	p := loadLate(t, tiny.Plugin(), func() bool { return false })
	p.next.Instance = dead{p.next.Instance}
	p.next.drain(p.l)
	var d *Difference
	if err := p.l.Err(); !errors.As(err, &d) || d.Class != Trapped || d.Of != 0 || !p.l.Over() {
		t.Errorf("got %v", err)
	}
}

type dead struct{ guest.Instance }

func (dead) Call(int, int64) ([]byte, bool, error) {
	return nil, false, &guest.Trap{Cause: "exit"}
}

// On a reactor nothing is allocated for a call that is kept, once all is warm.
func TestKeepingDoesNotAllocate(t *testing.T) {
	const depth, rounds = 16, 400
	old, next := benchInstance(t), newApart(benchInstance(t))
	o := benchOpened(t, old)
	var room Room
	l, err := FollowLate(next, Start{Opened: o, Resumed: true}, &room)
	if err != nil {
		t.Fatal(err)
	}
	var calls []recordedCall
	events := aligned(abi.InSize)
	for i := range rounds {
		requests := benchRequests(events, depth, i)
		calls = append(calls, benchCall(t, old, requests))
		calls = append(calls, benchCall(t, old, benchReplies(events, depth, calls[2*i].actions, uint64(i)*depth*(16+4096))))
	}
	i := 0
	one := func() {
		for range 2 {
			l.Events(calls[i].events)
			l.Actions(calls[i].actions, false, nil)
			i++
		}
		if l.Go(); i%8 == 0 {
			for next.answers(l) {
			}
		}
	}
	for range rounds / 2 {
		one()
	}
	if n := testing.AllocsPerRun(rounds/2-1, one); n > 0 || l.Err() != nil || l.Requests() < depth*(rounds-8) {
		t.Errorf("%v allocations for %d requests; %d were compared, %v", n, depth, l.Requests(), l.Err())
	}
}

// shallow is a version that takes two requests at a time.
type shallow struct{ protocol.Plugin }

func (s shallow) NewConn() protocol.Conn { return &shallowConn{tiny.NewConn(false)} }

type shallowConn struct{ *tiny.Conn }

func (c *shallowConn) Received(a *protocol.Actions, b []byte) int {
	out := a.Raw()
	n := c.Conn.Received(a, b)
	for rest := out[:len(out)-len(a.Raw())]; len(rest) > 0; {
		rec, more, ok := abi.Next(rest)
		if !ok {
			break
		}
		if l := abi.Overlay[abi.Limits](rec); l != nil && l.Kind == abi.ActLimits {
			l.Depth = 2
		}
		rest = more
	}
	return n
}

// A version that takes fewer requests at a time than the other one has cannot be
// compared, which is said: whatever it does with more of them follows from that.
func TestDepthIsALimit(t *testing.T) {
	f := load(t, shallow{tiny.Plugin()}, func(o []byte) Start { return Start{Opened: o, Tolerate: []Class{Limits}} })
	var limit *Limit
	if err := f.Err(); !errors.As(err, &limit) || !strings.Contains(limit.Text, "takes 2 requests at a time") || len(f.Notes()) != 1 {
		t.Errorf("%v, notes %v", err, f.Notes())
	}
}
