package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"blockengine/frontends/vhostuser"
	"blockengine/frontends/virtqueue"
	"blockengine/internal/nbdtest"
	"blockengine/internal/vhosttest"
)

// passed is a step of a request, and how often a batch of n passes it at most.
type passed struct {
	name string
	each bool // once for each request of a batch; else once for the batch
}

// steps are those at which an engine is killed under load, in the order in which
// a batch passes them.
func steps() []passed {
	var all []passed
	for s := range vhostuser.Step(vhostuser.Steps) {
		all = append(all, passed{s.String(), false})
	}
	for s := range virtqueue.Step(virtqueue.Steps) {
		switch s {
		case virtqueue.StepPrepared, virtqueue.StepVersion: // see TestVhostKilledAtFirstStart
		case virtqueue.StepFetched, virtqueue.StepBatchHead, virtqueue.StepPublished, virtqueue.StepSettled:
			all = append(all, passed{s.String(), false})
		default:
			all = append(all, passed{s.String(), true})
		}
	}
	return all
}

// recovering are the monitors that keep an in-flight region and redial. After a
// death the one tells the used index, the other the available one.
func recovering() []*vhosttest.Personality {
	return []*vhosttest.Personality{vhosttest.QEMU(), vhosttest.CloudHypervisor()}
}

// TestVhostKilledAtEveryStep: an engine kills itself at a step, the next one goes
// on and kills itself at another, and the machine notices nothing: every request
// is finished once and without an error, every read gives what was acknowledged
// last, and the server gets requests in the order of their submission, those
// first that were in flight.
func TestVhostKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	binary, err := failpointEngine()
	must(t, err)
	for _, c := range stepRuns() {
		t.Run(fmt.Sprintf("%s/batch=%d", c.p.Name, c.batch), func(t *testing.T) {
			t.Parallel()
			s := diskServer(t)
			e := startEngine(t, config{binary: binary, engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), noFence, c.queues)}})
			e.waitUp("disk")
			depth := 2 * c.batch
			o := vhosttest.LoadOptions{Options: e.machine(c.p, c.queues), Depth: depth, Batch: c.batch, ReadPercent: 40, FlushEvery: 50,
				Sequential: true, Verify: true, Length: uint64(c.queues * 6 * depth * blockSize)}
			o.Options.QueueSize, o.Layout.Indirect = 256, c.batch == 32
			l := startVhostLoad(t, e, o)
			e.killed(t, s)
			for range c.rounds {
				killAtSteps(t, e, s, l, c.batch)
			}
			e.start()
			l.goesOn(uint64(10 * depth))
			l.end()
			inOrder(t, s.Log(), o.Length/uint64(c.queues))
		})
	}
}

// blockSize of a load's requests.
const blockSize = 4096

type stepRun struct {
	p                     *vhosttest.Personality
	batch, queues, rounds int
}

// stepRuns are all combinations, or some of them that have every step with every
// monitor and every batch.
func stepRuns() (runs []stepRun) {
	if !long {
		return []stepRun{{vhosttest.QEMU(), 8, 1, 1}, {vhosttest.QEMU(), 1, 1, 1}, {vhosttest.CloudHypervisor(), 32, 2, 1}}
	}
	for _, p := range recovering() {
		for _, batch := range []int{1, 8, 32} {
			for queues := range 2 {
				runs = append(runs, stepRun{p, batch, queues + 1, 10})
			}
		}
	}
	return runs
}

// killAtSteps starts an engine for each step, which it dies at.
func killAtSteps(t *testing.T, e *engine, s *nbdtest.Server, l *vhostLoad, batch int) {
	t.Helper()
	for _, step := range steps() {
		most := 12
		if step.each {
			most *= batch
		}
		point := fmt.Sprintf("%s:%d", step.name, 1+rand.IntN(most))
		e.startToDie(t, point)
		e.dies(t, s, point, l.Done())
		l.ended()
	}
}

// inOrder checks that what each connection brought of each queue went round that
// queue's part of the disk. A load in order that skips a block now and then does
// so; a request that is sent again behind a newer one does not. Flushes have no
// place.
func inOrder(t *testing.T, log []nbdtest.Record, part uint64) {
	t.Helper()
	type way struct {
		conn  int
		queue uint64
	}
	last := map[way]nbdtest.Record{}
	for _, r := range log {
		if r.Op != nbdtest.CmdRead && r.Op != nbdtest.CmdWrite || r.Length != blockSize {
			continue
		}
		w := way{r.Conn, r.Offset / part}
		before, ok := last[w]
		if ahead := (r.Offset + part - before.Offset) % part; ok && ahead >= part/2 {
			t.Fatalf("out of order:\n%v\n%v", before, r)
		}
		last[w] = r
	}
}

// TestVhostKilledAtFirstStart: the engine dies while it prepares a new in-flight
// region, or starts the ring that goes with it, and the machine's first requests
// are carried out by the next one.
func TestVhostKilledAtFirstStart(t *testing.T) {
	t.Parallel()
	binary, err := failpointEngine()
	must(t, err)
	for _, p := range recovering() {
		s := diskServer(t)
		e := startEngine(t, config{binary: binary, volumes: []volume{machineDisk(s.Addr(), noFence, 1)}})
		for _, step := range []fmt.Stringer{virtqueue.StepPrepared, virtqueue.StepVersion, vhostuser.StepFetch} {
			t.Run(p.Name+"/"+step.String(), func(t *testing.T) {
				e.killed(t, s)
				firstStart(t, e, s, p, step.String()+":1")
			})
		}
	}
}

func firstStart(t *testing.T, e *engine, s *nbdtest.Server, p *vhosttest.Personality, point string) {
	t.Helper()
	f, err := vhosttest.Make(e.machine(p, 1))
	must(t, err)
	defer f.Close()
	e.startToDie(t, point)
	ctx, cancel := context.WithTimeout(context.Background(), vhostLimit)
	defer cancel()
	must(t, f.Connect(ctx))
	if err := f.Start(); err != nil && !errors.Is(err, vhosttest.ErrLost) {
		t.Fatal(err)
	}
	d := f.Driver(0)
	defer d.Close()
	want := random(2*blockSize, 1)
	write := &vhosttest.IO{Op: vhosttest.OpOut, Sector: 8, Data: want}
	must(t, d.Submit(write))
	e.dies(t, s, point, nil)
	e.start()
	redial(t, f)
	must(t, d.Wait(write))
	must(t, write.Err())
	got, err := d.Read(8, len(want))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("what was written is not there")
	}
}

// TestVhostResubmissionOrder: requests that were in flight over two deaths come
// to the server again in the order of their submission, before those that were
// made meanwhile, and each is finished once.
func TestVhostResubmissionOrder(t *testing.T) {
	t.Parallel()
	for _, p := range recovering() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			s := diskServer(t)
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{machineDisk(s.Addr(), noFence, 1)}})
			e.waitUp("disk")
			f := e.openMachine(e.machine(p, 1))
			d := f.Driver(0)
			defer d.Close()
			d.Timeout = vhostLimit

			places := rand.Perm(40)
			var ios []*vhosttest.IO
			submit := func(n int) {
				t.Helper()
				var batch []*vhosttest.IO
				for range n {
					at := places[len(ios)+len(batch)]
					batch = append(batch, &vhosttest.IO{Op: vhosttest.OpOut, Sector: uint64(at) * 8, Data: random(blockSize, uint64(at))})
				}
				must(t, d.Submit(batch...))
				ios = append(ios, batch...)
			}
			for life, batches := range [][]int{{1, 8, 3}, {10, 2}, {8, 8}} {
				from := len(s.Log())
				release := s.StallReplies()
				if life > 0 {
					submit(batches[0]) // while there is no engine
					e.start()
					redial(t, f)
					batches = batches[1:]
				}
				for _, n := range batches {
					submit(n)
				}
				writes := func() (at []int) {
					for _, r := range s.Log()[from:] {
						if r.Op == nbdtest.CmdWrite {
							at = append(at, int(r.Offset)/blockSize)
						}
					}
					return at
				}
				nbdtest.WaitFor(t, "all writes to come", func() bool { return len(writes()) >= len(ios) })
				if got, want := writes(), places[:len(ios)]; !slices.Equal(got, want) {
					t.Errorf("life %d: the server got blocks %v, submitted were %v", life, got, want)
				}
				if life < 2 {
					e.kill()
					died(t, e.process)
				}
				release()
				if life < 2 {
					forgotten(t, s)
				}
			}
			must(t, d.Wait(ios...))
			for _, io := range ios {
				must(t, io.Err())
				got, err := d.Read(io.Sector, blockSize)
				must(t, err)
				if !bytes.Equal(got, random(blockSize, io.Sector/8)) {
					t.Errorf("sector %d does not hold what was written", io.Sector)
				}
			}
		})
	}
}
