package e2e_test

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

// TestModelUnderUpgrades: upgrades, rollbacks, a server that cuts, stalls and
// holds writes, and restarts of the engine, mixed at random, two at a time. No
// request of a patient client fails, and the history of every block makes sense.
func TestModelUnderUpgrades(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]uint16{"several connections": nbdtest.DefaultFlags, "one connection": single} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{
				Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(8 << 20), Flags: flags}}})
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.Addr(), trusting("60s", "1s"))}})
			m := startModel(t, e, "disk", 6, loadOptions{resend: true, pause: gentle})
			c := &chaos{t: t, e: e, s: s}
			every(100*time.Millisecond, loadTime(6*time.Second), func(int) {
				if !t.Failed() {
					c.event()
				}
			})
			c.atLeast()
			m.end()
			if m.failures.Load() != 0 {
				t.Errorf("%d requests failed: %+v", m.failures.Load(), e.volume("disk"))
			}
			t.Logf("%d upgrades and rollbacks carried out, %d not, %d restarts; %+v",
				c.done.Load(), c.refused.Load(), c.restarts, *e.volume("disk").Session)
		})
	}
}

// chaos does what happens to an engine in bad times.
type chaos struct {
	t             *testing.T
	e             *engine
	s             *nbdtest.Server
	done, refused atomic.Int64 // orders that were carried out, and others
	second        atomic.Bool  // version 2 runs, as far as is known
	restarts      int
}

// event is one of what can happen, and half of the time an order that is under
// way meanwhile.
func (c *chaos) event() {
	var ordered chan struct{}
	if rand.IntN(2) == 0 {
		ordered = make(chan struct{})
		go func() {
			defer close(ordered)
			c.order()
		}()
		time.Sleep(rand.N(50 * time.Millisecond))
	}
	switch n := rand.IntN(12); {
	case n < 6:
		c.order()
	case n < 10:
		misbehave(c.s)
	default:
		c.restart()
	}
	if ordered != nil {
		<-ordered
	}
}

// atLeast makes up for what chance has left out.
func (c *chaos) atLeast() {
	if c.restarts == 0 && !c.t.Failed() {
		c.restart()
	}
	c.atLeastOnce()
}

// atLeastOnce has an order carried out, if none was.
func (c *chaos) atLeastOnce() {
	for try := 0; c.done.Load() == 0 && !c.t.Failed(); try++ {
		if try == 10 {
			c.t.Error("no upgrade comes to its end, though nothing is in its way")
		}
		c.order()
	}
}

// order is an upgrade or a rollback. It may be refused: another one is under
// way, there is no version to go back to, the server is away or too slow, the
// engine ends. What it must not do is to hang, or to misuse the command.
func (c *chaos) order() {
	args := []string{"--drain", "300ms"}
	if rand.IntN(3) == 0 {
		args = append(args, "--method", []string{"handover", "second-session", "serial"}[rand.IntN(3)])
	}
	second := c.second.Load()
	var err error
	if second && rand.IntN(2) == 0 {
		_, err = c.e.tryRollback(args...)
	} else {
		_, err = c.e.tryUpgrade(map[bool]string{true: built.nbd, false: built.nbd2}[second], args...)
	}
	switch {
	case err == nil:
		c.done.Add(1)
		c.second.Store(!second)
	case exitError(err):
		c.refused.Add(1)
		if strings.Contains(err.Error(), "run already") {
			c.second.Store(!second)
		}
		c.t.Logf("not carried out: %s", err.Error()[strings.LastIndex(err.Error(), "\nengine: ")+1:])
	default:
		c.t.Errorf("engine plugin upgrade or rollback: %v", err)
	}
}

// restart ends the engine as an operator does, and starts it again. That is when
// the volume is well and the server is done with the old connections: of writes
// that an engine could not settle before its end the next one does not know.
func (c *chaos) restart() {
	c.e.waitVolume("disk", "online and without writes of unknown outcome", func(v admin.Volume) bool {
		return v.State == "online"
	})
	p := c.e.process
	if err := p.terminate(endLimit); err != nil {
		c.t.Errorf("the engine did not end well: %v\n%s", err, lastLines(p.log.String()))
	}
	nbdtest.WaitFor(c.t, "the server to be done with the engine", func() bool { return c.s.Conns() == 0 })
	c.e.start()
	c.second.Store(false)
	c.e.waitUp("disk")
	c.restarts++
}
