package e2e_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/engine/admin"
	"blockengine/internal/nbdtest"
)

const (
	modelBlock  = 4096
	modelBlocks = 16 // of each client
)

// modelLoad is a load of many clients of one export whose history is judged.
// Every block is written by one client, which waits for each answer: two writes
// that are outstanding together and overlap may land in either order, again at
// a replay, and no register explains that. All clients read all blocks, unless
// own is set: a store that moves bytes under a read that is on its way, as a page
// cache does, promises no whole blocks to it.
type modelLoad struct {
	t       *testing.T
	e       *engine
	export  string
	clients int
	loadOptions
	rec *nbdtest.Recorder

	stop     atomic.Bool
	done     sync.WaitGroup
	ops      atomic.Int64
	failures atomic.Int64 // operations that ended with an errno
	resent   atomic.Int64
}

type loadOptions struct {
	resend bool // a client whose connection ends makes a new one and sends again
	own    bool // clients read only what they write

	pause time.Duration // between a client's operations, for a long load that is to be judged
}

func startModel(t *testing.T, e *engine, export string, clients int, o loadOptions) *modelLoad {
	t.Helper()
	m := &modelLoad{t: t, e: e, export: export, clients: clients, loadOptions: o,
		rec: nbdtest.NewRecorder(modelBlock, rand.Uint64())}
	for i := range clients {
		m.done.Go(func() { m.client(i) })
	}
	return m
}

// goesOn waits until n more operations are done.
func (m *modelLoad) goesOn(n int64) {
	m.t.Helper()
	n += m.ops.Load()
	nbdtest.WaitFor(m.t, "the load to go on", func() bool { return m.ops.Load() > n || m.t.Failed() })
}

// end stops the load, when enough is done to be judged, and judges it.
func (m *modelLoad) end() {
	m.t.Helper()
	nbdtest.WaitFor(m.t, "the load to do something", func() bool {
		return m.ops.Load()-m.failures.Load() >= int64(10*m.clients) || m.t.Failed()
	})
	m.stop.Store(true)
	m.done.Wait()
	m.rec.MustCheck(m.t)
	m.t.Logf("%d operations, %d of them failed, %d sent again", m.ops.Load(), m.failures.Load(), m.resent.Load())
}

func (m *modelLoad) dial() (*nbdtest.Client, error) {
	o := nbdtest.Options{Export: m.export, Timeout: time.Minute}
	return nbdtest.Dial("unix", m.e.socket, o)
}

// client is the life of one of them.
func (m *modelLoad) client(n int) {
	c, err := m.dial()
	if err != nil {
		m.t.Errorf("client %d: %v", n, err)
		return
	}
	defer func() { c.Close() }()
	for !m.stop.Load() {
		time.Sleep(m.pause)
		op, do := m.next(n)
		data, err := do(c)
		for err != nil && !isErrno(err) && m.resend {
			c.Close()
			if c = m.again(n); c == nil {
				return
			}
			data, err = do(c)
		}
		m.ops.Add(1)
		switch {
		case err == nil && data != nil:
			if err := op.Data(data); err != nil {
				m.t.Error(err)
				return
			}
		case err == nil:
			op.OK()
		case isErrno(err):
			m.failures.Add(1)
			op.Fail()
		default:
			op.Unknown()
			m.t.Errorf("client %d: %v", n, err)
			return
		}
	}
}

// again makes a new connection, as soon as there is an engine.
func (m *modelLoad) again(n int) *nbdtest.Client {
	m.resent.Add(1)
	end := time.Now().Add(time.Minute)
	for {
		c, err := m.dial()
		if err == nil {
			return c
		}
		var lied *nbdtest.ProtocolError
		if time.Now().After(end) || errors.As(err, &lied) {
			m.t.Errorf("client %d cannot come back: %v", n, err)
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// next chooses what a client does; do can be repeated.
func (m *modelLoad) next(n int) (op *nbdtest.HistoryOp, do func(c *nbdtest.Client) ([]byte, error)) {
	count := 1 + rand.IntN(4)
	own := uint64(n*modelBlocks + rand.IntN(modelBlocks-count+1))
	fua := uint16(rand.IntN(8) / 7) // FUA now and then
	switch rand.IntN(8) {
	case 0:
		op = m.rec.BeginZero(n, own, count)
		return op, func(c *nbdtest.Client) ([]byte, error) {
			return nil, c.WriteZeroes(op.Offset(), op.Length(), fua)
		}
	case 1, 2, 3:
		op = m.rec.BeginWrite(n, own, count)
		return op, func(c *nbdtest.Client) ([]byte, error) {
			return nil, c.Write(op.Offset(), op.Payload(), fua)
		}
	default:
		from := uint64(rand.IntN(m.clients*modelBlocks - count + 1))
		if m.own {
			from = own
		}
		op = m.rec.BeginRead(n, from, count)
		return op, func(c *nbdtest.Client) ([]byte, error) {
			return c.Read(op.Offset(), int(op.Length()), 0)
		}
	}
}

// every calls f again and again for a while.
func every(pause, total time.Duration, f func(n int)) {
	end := time.Now().Add(total)
	for n := 0; time.Now().Before(end); n++ {
		time.Sleep(pause/2 + rand.N(pause))
		f(n)
	}
}

// TestModelUnderFaults: a server that cuts, stalls and holds writes longer than
// their connections live, though never longer than the fence.
func TestModelUnderFaults(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]string{"patient": "30s", "impatient": "400ms"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := nbdtest.StartServer(t, nbdtest.ServerOptions{Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(8 << 20)}}})
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.Addr(), trusting(timeout, "1500ms"))}})
			m := startModel(t, e, "disk", 8, loadOptions{})
			every(200*time.Millisecond, loadTime(6*time.Second), func(int) { misbehave(s) })
			atLeastOneFence(t, e, s)
			m.end()
			// The last flush of an impatient engine would fail if its server were away.
			e.waitState("disk", "online")
			v := e.volume("disk")
			if timeout == "30s" && m.failures.Load() != 0 {
				t.Errorf("requests failed: %v", v.Errors)
			}
			if timeout != "30s" { // its last flush may be late, too, and then it says so and exits with 1
				if err := e.terminate(endLimit); err != nil && strings.Contains(err.Error(), "not ended") {
					t.Error(err)
				}
			}
		})
	}
}

// atLeastOneFence makes up for what chance has left out: a write that was under
// way on a connection that ended.
func atLeastOneFence(t *testing.T, e *engine, s *nbdtest.Server) {
	t.Helper()
	for n := e.volume("disk").Session; n.Losses == 0 || n.Fences == 0; n = e.volume("disk").Session {
		holdWrites(s, 100*time.Millisecond)
		e.waitVolume("disk", "back", func(v admin.Volume) bool { return v.State == "online" && v.Session.Losses > 0 })
	}
}

// misbehave does one thing to all connections of a server, for a short while.
func misbehave(s *nbdtest.Server) {
	short := 10*time.Millisecond + rand.N(150*time.Millisecond)
	switch rand.IntN(6) {
	case 0:
		s.KillAll(nbdtest.FIN)
	case 1:
		s.KillAll(nbdtest.RST)
	case 2:
		release := s.StallReplies()
		time.Sleep(4 * short)
		release()
	case 3:
		release := s.StallReads()
		time.Sleep(4 * short)
		release()
	case 4:
		s.AddRule(nbdtest.Rule{Match: nbdtest.Op(nbdtest.CmdRead), Skip: rand.IntN(20), Times: 1,
			Fault: nbdtest.Fault{Cut: true, CutAfter: rand.IntN(2000), CutHow: nbdtest.FIN}})
	case 5:
		holdWrites(s, short)
	}
}

// holdWrites has held writes outlive their connection.
func holdWrites(s *nbdtest.Server, short time.Duration) {
	held := s.HoldWrites(nbdtest.Match{Ops: []uint16{nbdtest.CmdWrite, nbdtest.CmdWriteZeroes}}, 2, rand.IntN(2) == 0, nbdtest.FIN)
	time.Sleep(short)
	s.KillAll(nbdtest.FIN)
	time.Sleep(short)
	held.Release()
}

// TestModelNbdkitKilled: the same against a stock server on a file, which is
// killed. A process that is gone holds nothing, hence no fence time.
func TestModelNbdkitKilled(t *testing.T) {
	t.Parallel()
	server := nbdtest.StartNbdkit(t, "file", nbdtest.Image(t, 8<<20, nil))
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", server.Addr(), trusting("30s", "0s"))}})
	m := startModel(t, e, "disk", 8, loadOptions{own: true})
	every(500*time.Millisecond, loadTime(4*time.Second), func(int) {
		server.Kill()
		server.Restart()
	})
	m.end()
	if v := e.volume("disk"); m.failures.Load() != 0 || v.Session.Losses == 0 {
		t.Errorf("%d failures; %+v", m.failures.Load(), *v.Session)
	}
}

// TestModelEngineKilled: the engine is killed with SIGKILL and started again;
// clients connect anew and send again what was not answered. The record of what
// is in flight is theirs.
//
// The old engine's writes may still be on their way in the server's sockets. The
// next engine cannot know of them, so it is started when the server is done with
// the old connections, as ARCHITECTURE.md asks.
func TestModelEngineKilled(t *testing.T) {
	t.Parallel()
	s := nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true, // half a request is sent by who is killed
		Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(8 << 20)}}})
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.Addr(), trusting("30s", "1s"))}})
	m := startModel(t, e, "disk", 8, loadOptions{resend: true})
	every(700*time.Millisecond, loadTime(3*time.Second), func(int) {
		e.kill()
		nbdtest.WaitFor(t, "the server to be done with the dead engine", func() bool { return s.Conns() == 0 })
		e.start()
		e.waitUp("disk")
	})
	m.end()
	if m.resent.Load() == 0 || m.failures.Load() != 0 {
		t.Errorf("%d sent again, %d failures", m.resent.Load(), m.failures.Load())
	}
}
