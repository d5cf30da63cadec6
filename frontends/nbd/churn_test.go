package nbd

import (
	"math/rand/v2"
	"sync"
	"testing"

	"blockengine/internal/nbdtest"
)

// Clients come, ask for this and that, and go at any moment and in any way.
// What must hold is what every rig checks at its end: nothing is left.
func TestChurn(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			for range 40 {
				if err := r.visit(rnd); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	r.eventually("all are gone", func() bool { return r.connections() == 0 && r.inUse() == 0 })
}

// visit is one connection's life. Errors after the handshake are the visitor's
// own doing.
func (r *rig) visit(rnd *rand.Rand) error {
	c, err := nbdtest.Dial("unix", r.path, nbdtest.Options{Export: "disk", Structured: rnd.IntN(2) == 0})
	if err != nil {
		return err
	}
	defer c.Close()
	for range rnd.IntN(40) {
		n := uint64(1 + rnd.IntN(300<<10))
		q := nbdtest.Request{Op: nbdtest.CmdRead, Length: n}
		if rnd.IntN(2) == 0 {
			q = nbdtest.Request{Op: nbdtest.CmdWrite, Data: make([]byte, n%100000)}
		}
		if c.Outstanding() > 2 { // never so many that both sides would wait for the other to read
			if _, err := c.Recv(); err != nil {
				return err
			}
		}
		if _, err := c.Send(q); err != nil {
			return err
		}
	}
	switch rnd.IntN(4) {
	case 0: // in the middle of a request
		return c.WriteRaw(nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, 1, 0, 200<<10, make([]byte, rnd.IntN(200<<10))))
	case 1:
		return c.CloseWrite()
	case 2:
		_, err := c.Send(nbdtest.Request{Op: nbdtest.CmdDisc})
		return err
	}
	return nil
}
