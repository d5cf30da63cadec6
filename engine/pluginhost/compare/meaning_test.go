package compare

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
)

// giver gives actions when it gets a message.
type giver struct {
	protocol.Base
	give func(a *protocol.Actions)
}

func (giver) Manifest() manifest.Manifest                       { return manifest.Manifest{} }
func (g giver) NewConn() protocol.Conn                          { return g }
func (giver) Opened(*protocol.Actions, *protocol.Opened)        {}
func (giver) Submit(*protocol.Actions, []protocol.Request) int  { return 0 }
func (giver) Received(*protocol.Actions, []byte) int            { return 0 }
func (g giver) Message(a *protocol.Actions, _ uint32, _ []byte) { g.give(a) }

// records gives the actions of f as a plugin gives them.
func records(t *testing.T, f func(a *protocol.Actions)) []byte {
	t.Helper()
	inst := sdktest.NewLinked(giver{give: f})
	*abi.Overlay[abi.Message](inst.Input()) = abi.Message{Header: abi.Header{Kind: abi.EvMessage, Size: 16}}
	b, more, err := inst.Call(16, 0)
	if err != nil || more {
		t.Fatal(err, more)
	}
	return b
}

// both has each version do something in a call and settles.
func both(t *testing.T, c *Comparison, old, new func(a *protocol.Actions)) error {
	t.Helper()
	c.begin()
	for who, f := range []func(a *protocol.Actions){old, new} {
		if f == nil {
			continue
		}
		if wrong := c.take(Side(who), records(t, f)); wrong != "" {
			t.Fatalf("side %d: %s", who, wrong)
		}
	}
	return c.settle(true)
}

func offered(c *Comparison, tags ...uint64) {
	for _, tag := range tags {
		c.offer(&abi.Request{Tag: tag, Op: block.OpRead, Offset: tag << 12, Length: 4096})
	}
}

// A request that ends before the server has answered is found, though it ends the
// same way.
func TestTooEarly(t *testing.T) {
	c := newComparison(100)
	offered(c, 1, 2)
	send := func(a *protocol.Actions) { a.Send([]byte("flush")) }
	if err := both(t, c, send, func(a *protocol.Actions) { send(a); a.Complete(1, block.OK) }); err != nil {
		t.Fatal(err)
	}
	reply := func(a *protocol.Actions) { count(a, abi.ActConsume, 16); a.Complete(1, block.OK) }
	err := both(t, c, reply, func(a *protocol.Actions) { count(a, abi.ActConsume, 16) })
	var d *Difference
	if !errors.As(err, &d) || d.Class != Result || d.Request.Tag != 1 || !strings.Contains(d.What, "from 100 on") {
		t.Fatalf("got %v", err)
	}
}

// count writes an action that only the machine writes.
func count(a *protocol.Actions, kind uint16, n uint64) {
	r := a.Raw()
	*abi.Overlay[abi.Count](r) = abi.Count{Header: abi.Header{Kind: kind, Size: 16}, N: n}
	a.Wrote(int(unsafe.Sizeof(abi.Count{})))
}

// A larger step of one version is no later end.
func TestStepsDoNotCount(t *testing.T) {
	c := newComparison(0)
	offered(c, 1, 2)
	err := both(t, c, func(a *protocol.Actions) {
		count(a, abi.ActConsume, 32)
		a.Complete(1, block.OK)
		a.Complete(2, block.EIO)
	}, func(a *protocol.Actions) {
		count(a, abi.ActConsume, 16)
		a.Complete(1, block.OK)
		count(a, abi.ActConsume, 16)
		a.Complete(2, block.EIO)
	})
	if err != nil || c.ended != 2 {
		t.Fatalf("%v, %d", err, c.ended)
	}
}

func TestResultsThatDiffer(t *testing.T) {
	for name, f := range map[string]func(a *protocol.Actions){
		"status":  func(a *protocol.Actions) { a.Zero(1, 0, 4096); a.Complete(1, block.EIO) },
		"zeroes":  func(a *protocol.Actions) { a.Zero(1, 0, 4095); a.Complete(1, block.OK) },
		"partial": func(a *protocol.Actions) { a.Zero(1, 0, 4096); a.CompletePartial(1, block.OK, 1) },
		"extents": func(a *protocol.Actions) { a.Zero(1, 0, 4096); a.Extent(1, 512, 0); a.Complete(1, block.OK) },
		"data":    func(a *protocol.Actions) { a.Zero(1, 0, 4096); a.Data(1, 0, []byte("x")); a.Complete(1, block.OK) },
		"none":    func(a *protocol.Actions) { a.Zero(1, 0, 4096) },
	} {
		c := newComparison(0)
		offered(c, 1)
		err := both(t, c, func(a *protocol.Actions) {
			a.Zero(1, 100, 4096)
			a.Zero(1, 0, 100)
			a.Complete(1, block.OK)
		}, f)
		var d *Difference
		if !errors.As(err, &d) || d.Class != Result || d.Request.Offset != 4096 || d.Of != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of a run of requests of one length the byte tells which one it is.
func TestTheRequestIsNamed(t *testing.T) {
	c := newComparison(0)
	c.begin()
	offered(c, 10, 11, 12, 13)
	head := make([]byte, 28)
	bad := make([]byte, 28)
	bad[7] = 1
	for who, list := range [][][]byte{{head, head, head, head}, {head, head, bad, head}} {
		c.take(Side(who), records(t, func(a *protocol.Actions) {
			for _, b := range list {
				a.Send(b)
			}
		}))
	}
	var d *Difference
	if err := c.settle(true); !errors.As(err, &d) || d.Request.Tag != 12 || d.Of != 1 || !strings.Contains(d.What, "byte 63") {
		t.Fatalf("got %v", err)
	}
}

// Whatever order and pieces: the same ranges and the same bytes in them give the
// same sums, and others give others.
func FuzzCutsDoNotCount(f *testing.F) {
	f.Add([]byte("0123456789abcdefghij"), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		base := rnd.Uint64N(1 << 40)
		var whole, cut ranges
		whole.add(base, base+uint64(len(b)), 3)
		sum := words(base, b)
		var at []int
		for i := 0; i < len(b); i += 1 + rnd.IntN(9) {
			at = append(at, i)
		}
		var pieces uint64
		for _, i := range rnd.Perm(len(at)) {
			end := len(b)
			if i+1 < len(at) {
				end = at[i+1]
			}
			cut.add(base+uint64(at[i]), base+uint64(end), 3)
			pieces += words(base+uint64(at[i]), b[at[i]:end])
		}
		if cut != whole || pieces != sum {
			t.Fatalf("%v and %v, %x and %x", cut, whole, pieces, sum)
		}
		if len(b) > 0 {
			i := rnd.IntN(len(b))
			b[i]++
			if words(base, b) == sum {
				t.Fatalf("byte %d is another one, and the sum is the same", i)
			}
		}
	})
}

// Two lanes with the same stream, cut in any way, match; with another byte in one
// they do not, and the place is told.
func FuzzLanes(f *testing.F) {
	f.Add([]byte("a stream of bytes"), uint64(7), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64, spoil uint16) {
		if len(b) == 0 {
			return
		}
		rnd := rand.New(rand.NewPCG(seed, 2))
		other := append([]byte(nil), b...)
		bad := -1
		if spoil%2 == 1 {
			bad = int(spoil) % len(b)
			other[bad] ^= 1
		}
		var x, y lane
		i, j := 0, 0
		for i < len(b) || j < len(b) {
			i = feedLane(rnd, &x, b, i)
			j = feedLane(rnd, &y, other, j)
			if m := match(&x, &y); m != nil {
				if bad < 0 || m.at != uint64(bad) {
					t.Fatalf("they part at %d, want %d", m.at, bad)
				}
				return
			}
		}
		if bad >= 0 || !x.empty() || !y.empty() || x.passed != uint64(len(b)) {
			t.Fatalf("bad %d, empty %v %v, passed %d of %d", bad, x.empty(), y.empty(), x.passed, len(b))
		}
	})
}

func feedLane(rnd *rand.Rand, l *lane, b []byte, i int) int {
	n := min(rnd.IntN(5), len(b)-i)
	if n > 0 {
		l.push(token{kind: abi.ActSend, n: uint64(n), inline: n}, b[i:i+n])
	}
	return i + n
}

// Whatever the versions give as actions, nothing worse than an error comes of it.
func FuzzActions(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 24, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, old, new []byte) {
		c := newComparison(0)
		for range 3 {
			c.begin()
			offered(c, 1, 2, 3)
			for who, b := range [][]byte{old, new} {
				w := make([]uint64, (len(b)+7)/8+1)
				in := unsafe.Slice((*byte)(unsafe.Pointer(&w[0])), len(b))
				copy(in, b)
				c.take(Side(who), in)
			}
			if c.settle(true) != nil {
				return
			}
		}
	})
}
