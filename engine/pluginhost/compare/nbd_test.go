package compare

import (
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"blockengine/engine/pluginhost/guest"
	"blockengine/internal/nbdtest"
	"blockengine/plugins/nbd"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
	"blockengine/sdk/sdktest"
)

// lazy is a version that handles one reply in each other call, and wants the
// bytes in other pieces.
type lazy struct {
	protocol.Conn
	turn  int
	extra uint32
	ready bool
}

type lazyNBD struct{ extra uint32 }

func (lazyNBD) Manifest() manifest.Manifest { return nbd.Plugin().Manifest() }
func (l lazyNBD) NewConn() protocol.Conn {
	return &lazy{Conn: nbd.Plugin().NewConn(), extra: l.extra}
}

func (c *lazy) Received(a *protocol.Actions, b []byte) int {
	if c.turn++; c.ready && c.turn%2 == 0 {
		a.Want(16+c.extra+uint32(c.turn/2%2), 4096) // not now, and a little more
		return 0
	}
	return c.Conn.Received(a, b)
}

func (c *lazy) Submit(a *protocol.Actions, batch []protocol.Request) int {
	c.ready = true
	for i := range batch {
		if c.Conn.Submit(a, batch[i:i+1]) == 0 {
			return i
		}
	}
	return len(batch)
}

// How the actions are cut, and in which call they come, does not count.
func TestBatchingDoesNotCount(t *testing.T) {
	f := follow(t, lazyNBD{}, block.OpWrite, block.OpFlush)
	if err := f.Err(); err != nil || f.Requests() < 1980 { // the last may wait for a call that does not come
		t.Fatalf("%v after %d requests", err, f.Requests())
	}
}

// A version that wants to see what the other one has had put elsewhere cannot be
// compared: that is said.
func TestUnseenBytesAreALimit(t *testing.T) {
	f := follow(t, lazyNBD{extra: 64}, block.OpRead)
	var l *Limit
	if err := f.Err(); !errors.As(err, &l) || !strings.Contains(l.Text, "directed elsewhere without looking") {
		t.Fatalf("got %v", err)
	}
}

// follow runs 2000 requests with a version that follows the nbd plugin.
func follow(t *testing.T, next protocol.Plugin, ops ...block.Op) *Follower {
	t.Helper()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Name: "", Disk: nbdtest.NewDisk(1 << 20)}}})
	conn, err := net.Dial("unix", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &pair{Instance: sdktest.NewLinked(nbd.Plugin()), next: instance(t, next), start: plain}
	x := sdktest.NewExecutor(t, p, sdktest.Over(conn), sdktest.Options{Manifest: nbd.Plugin().Manifest(), Cut: sdktest.Random})
	x.Open()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var batch []*sdktest.Request
		for range 20 {
			r := &sdktest.Request{Op: ops[rnd.IntN(len(ops))]}
			if r.Op != block.OpFlush {
				r.Offset, r.Length = rnd.Uint64N(128)<<12, (1+rnd.Uint64N(4))<<10
				r.Data = make([]byte, r.Length)
			}
			batch = append(batch, r)
		}
		x.Do(batch...)
	}
	if len(x.Violations) > 0 || x.Failed != nil {
		t.Fatalf("%v, %v", x.Violations, x.Failed)
	}
	return p.f
}

func instance(t *testing.T, p protocol.Plugin) guest.Instance {
	inst, err := guest.Linked(p).NewInstance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inst.Close)
	return inst
}
