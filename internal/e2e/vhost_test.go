package e2e_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// The storage server of these tests runs in the test's process, or in one of its
// own, so it outlives the engine; so do the machine's memory, rings and in-flight
// region. What is between the two is killed.

// vhostLimit bounds what a machine waits for.
const vhostLimit = time.Minute

// failpointEngine is an engine that can be told where to kill itself, see
// engine/failpoint_on.go.
var failpointEngine = sync.OnceValues(func() (string, error) {
	file := built.engine + "-failpoint"
	return file, goTool(nil, engineBuild(file, "-tags", "failpoint")...)
})

// machineDisk is a machine's disk on the wasm plugin.
func machineDisk(addr, more string, queues int) volume {
	v := nbdVolume("disk", addr, more)
	v.vhost = queues
	return v
}

// noFence is for tests that start an engine when the server is done with the dead
// one's connections: nothing can come from those any more.
var noFence = trusting("60s", "0s")

// diskServer is a storage server in the test's own process. Half a request is
// what it gets from who is killed.
func diskServer(t *testing.T) *nbdtest.Server {
	t.Helper()
	return nbdtest.StartServer(t, nbdtest.ServerOptions{BadClients: true,
		Exports: []nbdtest.Export{{Disk: nbdtest.NewDisk(16 << 20)}}})
}

// vhost is the socket of a machine's disk.
func (e *engine) vhost(export string) string { return vhostSocket(e.socket, export) }

// machine gives the options of a front-end on export disk.
func (e *engine) machine(p *vhosttest.Personality, queues int) vhosttest.Options {
	return vhosttest.Options{Socket: e.vhost("disk"), Personality: p, Queues: queues,
		Redial: 2 * time.Millisecond, Timeout: vhostLimit}
}

// openMachine starts a machine that nothing loads.
func (e *engine) openMachine(o vhosttest.Options) *vhosttest.Frontend {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
	defer cancel()
	f, err := vhosttest.Open(ctx, o)
	if err != nil {
		e.t.Fatalf("%v\n%s", err, e.log.String())
	}
	e.t.Cleanup(f.Close)
	return f
}

// redial connects a machine to the next engine.
func redial(t *testing.T, f *vhosttest.Frontend) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
	defer cancel()
	must(t, f.Redial(ctx))
}

// vhostLoad is a load by a machine that redials.
type vhostLoad struct {
	*vhosttest.Load
	t *testing.T
	// spoke is when the first message went to the engine of the moment, on the
	// load's clock in ns; 0: none has.
	spoke atomic.Int64
	load  atomic.Pointer[vhosttest.Load]
}

// startVhostLoad loads export disk until the test ends it.
func startVhostLoad(t *testing.T, e *engine, o vhosttest.LoadOptions) *vhostLoad {
	t.Helper()
	l := &vhostLoad{t: t}
	o.Run, o.Timeout, o.Reconnect = 20*time.Minute, vhostLimit, true
	o.Options.Trace = func(string, ...any) {
		if load := l.load.Load(); load != nil {
			l.spoke.CompareAndSwap(0, int64(load.Now()))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
	defer cancel()
	load, err := vhosttest.StartLoad(ctx, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, e.log.String())
	}
	l.Load = load
	l.load.Store(load)
	t.Cleanup(func() { _, _ = load.Stop() })
	return l
}

// goesOn waits until n more requests are done.
func (l *vhostLoad) goesOn(n uint64) {
	l.t.Helper()
	n += l.Progress().Completed
	nbdtest.WaitFor(l.t, "the machine to go on", func() bool {
		select {
		case <-l.Done():
			return true
		default:
			return l.Progress().Completed > n
		}
	})
	l.ended()
}

// ended fails the test if the load has ended before its time.
func (l *vhostLoad) ended() {
	l.t.Helper()
	select {
	case <-l.Done():
		_, err := l.Stop()
		l.t.Fatalf("the load has ended: %v", err)
	default:
	}
}

// end stops the load: every request has been finished once, without an error,
// and every read gave what was there.
func (l *vhostLoad) end() *vhosttest.LoadResult {
	l.t.Helper()
	r, err := l.Stop()
	if err != nil {
		l.t.Fatalf("the load: %v", err)
	}
	if err := r.Bad(); err != nil {
		l.t.Error(err)
	}
	l.t.Logf("%d reads, %d writes, %d flushes, %d outages", r.Reads, r.Writes, r.Flushes, len(r.Outages))
	return r
}

// died checks that an engine was killed by a signal, and has said nothing before
// that must never be said.
func died(t *testing.T, p *process) {
	t.Helper()
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the engine ended by itself: %v\n%s", p.err, p.log.String())
	}
	for _, never := range neverSaid {
		if strings.Contains("\n"+p.log.String(), "\n"+never) {
			t.Errorf("the engine's log holds %q:\n%s", never, p.log.String())
		}
	}
}

// killed kills the engine and waits until the server has done all that it had
// from it.
func (e *engine) killed(t *testing.T, s *nbdtest.Server) {
	t.Helper()
	e.kill()
	died(t, e.process)
	forgotten(t, s)
}

func forgotten(t *testing.T, s *nbdtest.Server) {
	t.Helper()
	nbdtest.WaitFor(t, "the server to be done with the dead engine", func() bool { return s.Conns() == 0 })
}

// startToDie starts an engine, built with failpoints, that kills itself at a
// passage of a step, "STEP:COUNT". Nobody waits for it to be ready: it may be
// dead before.
func (e *engine) startToDie(t *testing.T, point string) {
	t.Helper()
	e.prefix = []string{"env", "ENGINE_FAILPOINT=" + point}
	p, err := spawn(e.command()[0], e.command()[1:]...)
	must(t, err)
	e.prefix, e.process = nil, p
}

// dies waits until the engine has killed itself. given is closed when nothing will
// bring it there any more; nil: never.
func (e *engine) dies(t *testing.T, s *nbdtest.Server, point string, given <-chan struct{}) {
	t.Helper()
	select {
	case <-e.done:
	case <-given:
		return // who has closed it knows why
	case <-time.After(vhostLimit):
		t.Fatalf("the engine does not come to %s:\n%s", point, e.log.String())
	}
	died(t, e.process)
	forgotten(t, s)
}

// blockHistory is a history of a machine's requests, which its Recorder judges.
type blockHistory struct {
	*nbdtest.Recorder
	pause time.Duration // before each request, so that a long load can be judged
}

type blockHistoryOp struct {
	*nbdtest.HistoryOp
	read bool
}

func (h *blockHistory) BeginRead(client int, block uint64) vhosttest.HistoryOp {
	time.Sleep(h.pause)
	return blockHistoryOp{h.Recorder.BeginRead(client, block, 1), true}
}

func (h *blockHistory) BeginWrite(client int, block uint64, payload []byte) vhosttest.HistoryOp {
	time.Sleep(h.pause)
	op := h.Recorder.BeginWrite(client, block, 1)
	copy(payload, op.Payload())
	return blockHistoryOp{op, false}
}

// End of a request. What no write can have left is in the verdict too.
func (o blockHistoryOp) End(data []byte, err error) {
	switch {
	case err != nil:
		o.Fail()
	case o.read:
		_ = o.Data(data)
	default:
		o.OK()
	}
}

// reconfigure writes another configuration for the next start.
func (e *engine) reconfigure(t *testing.T, c config) {
	t.Helper()
	must(t, os.WriteFile(e.file, []byte(c.text(e.state, e.socket)), 0o600))
}

// otherBuild is the build of the plugin that the disk does not run.
func (e *engine) otherBuild() string {
	e.t.Helper()
	if e.volume("disk").Version == version2 {
		return built.nbd
	}
	return built.nbd2
}
