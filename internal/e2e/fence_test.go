package e2e_test

import (
	"bytes"
	"testing"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// pendingCall is a request whose answer is waited for elsewhere.
type pendingCall struct {
	done chan struct{}
	err  error
}

func goDo(c *nbdtest.Client, r nbdtest.Request) *pendingCall {
	p := &pendingCall{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_, p.err = c.Do(r)
	}()
	return p
}

func (p *pendingCall) wait() error {
	<-p.done
	return p.err
}

func (p *pendingCall) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// TestHeldWriteNeverComesBack is rule 1 through the whole engine: the server
// holds write A, its connection ends, B is written over it and read back. A
// must not come back, whichever way the connection ended.
func TestHeldWriteNeverComesBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		more        string
		closeAtOnce bool // the server ends the connection itself
		cut         bool // something between does
		fails       bool // A is answered with an error
	}{
		"the server closes":     {more: trusting("30s", "4s"), closeAtOnce: true},
		"the connection is cut": {more: trusting("30s", "4s"), cut: true},
		// Nothing ends it but the deadline. The fence time is out of reach: the
		// server's end of stream after ours has to do.
		"the server stalls": {more: trusting("500ms", "1h"), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{})
			p := nbdtest.StartProxy(t, "unix", s.Network(), s.Addr())
			held := s.HoldWrites(nbdtest.Op(nbdtest.CmdWrite), 1, c.closeAtOnce, nbdtest.FIN)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", p.Addr(), c.more)}})
			one, other := e.dial("disk", nbdtest.Options{}), e.dial("disk", nbdtest.Options{})
			bystander := e.dial("disk", nbdtest.Options{})

			dataA, dataB := bytes.Repeat([]byte{'A'}, 8192), bytes.Repeat([]byte{'B'}, 4096)
			a := goDo(one, nbdtest.Request{Op: nbdtest.CmdWrite, Data: dataA})
			held.Wait(t, 1)
			if c.cut {
				p.Cut(nbdtest.BothSides, nbdtest.FIN)
			}
			e.waitVolume("disk", "a lost connection", func(v admin.Volume) bool { return v.Session.Losses > 0 })
			b := goDo(other, nbdtest.Request{Op: nbdtest.CmdWrite, Offset: 2048, Data: dataB})
			// What does not overlap goes on meanwhile.
			if !c.fails {
				must(t, bystander.Write(1<<20, dataB, 0))
				mustRead(t, bystander, 1<<20, dataB)
				answered := a.answered() || b.answered()
				if answered && e.volume("disk").Session.Fences == 0 {
					t.Error("A or B was answered before the fence")
				}
			}
			held.Release()
			if err := a.wait(); (err != nil) != c.fails || err != nil && !isErrno(err) {
				t.Errorf("write A: %v", err)
			}
			if err := b.wait(); err != nil && !c.fails {
				t.Errorf("write B: %v", err)
			} else if err != nil {
				// It may have waited for longer than its own timeout.
				must(t, other.Write(2048, dataB, 0))
			}
			want := append(append(bytes.Repeat([]byte{'A'}, 2048), dataB...), bytes.Repeat([]byte{'A'}, 2048)...)
			mustRead(t, bystander, 0, want)
			if n := e.volume("disk").Session.Fences; n == 0 {
				t.Error("nothing was fenced")
			}
		})
	}
}
