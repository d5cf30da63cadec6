package vhostuser

import (
	"errors"
	"fmt"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/frontends/virtioblk"
	"blockengine/frontends/virtqueue"
)

// phase is where a queue stands in its life.
type phase uint8

const (
	running  phase = iota
	stopping       // takes no more; what is outstanding is finished and published
	failed         // the ring or its memory is no good; nothing is said to the guest any more
	gone           // nothing is outstanding
)

const (
	// batchSize is how many requests a turn takes from one queue, before others
	// get theirs.
	batchSize = 128
	// pollEvery is how often a ring is looked at whose front-end does not kick.
	pollEvery = time.Millisecond
)

// queue is a virtqueue that runs. All of it belongs to the reactor of its
// worker, but for what newQueue sets and, once gone is closed, base and err.
type queue struct {
	reactor.Polled
	x     *export
	w     *worker
	index int
	vq    *virtqueue.Queue
	q     *volume.Queue
	rules virtioblk.Rules
	tally *tally
	trips chan<- error // where failures are reported

	recovered int // requests of a connection before, that are submitted again
	stale     int // requests to come that an earlier engine may have sent; they are the first

	reqs   []request // by head
	chains []virtqueue.Chain
	batch  []*volume.IO // to be submitted
	taken  int          // in this look
	done   []*volume.IO // being completed
	signal bool         // the guest wants to be told
	broke  error        // what Pop has said

	// The methods that Guard calls, made into values once.
	fetching, completing, publishing, arming func()
	more                                     bool // what Arm has said

	kick   int // eventfd, -1: the front-end does not kick
	call   int // eventfd, -1: it does not want to be told
	source *reactor.Source
	timer  reactor.Timer
	ending reactor.Deferred

	phase  phase
	paused bool // the ring is disabled
	err    error
	base   uint16
	left   chan struct{} // closed when gone
}

// request is what a head needs while its chain is here.
type request struct {
	io  volume.IO
	blk virtioblk.Request
}

// newQueue makes a queue that goes on where the ring and the in-flight region
// stand, and starts it. It is called on the connection's goroutine. The
// descriptors stay the caller's, until the queue has left.
func newQueue(x *export, cfg virtqueue.Config, rules virtioblk.Rules, kick, call int, trips chan<- error) (*queue, error) {
	q := &queue{x: x, index: cfg.Index, rules: rules, trips: trips, kick: kick, call: call, left: make(chan struct{})}
	var err error
	fault := sys.Guard(func() {
		if q.vq, err = virtqueue.New(cfg); err == nil && cfg.Inflight == nil {
			// Without a region nobody knows whether an engine before this one had
			// taken what is there. It may have.
			q.stale = q.vq.Pending()
		}
	})
	if fault != nil {
		return nil, fault
	}
	if err != nil {
		return nil, err
	}
	if q.recovered = q.vq.Resubmitted(); q.recovered > 0 {
		q.stale = q.recovered
	}
	q.reqs = make([]request, cfg.Size)
	for i := range q.reqs {
		q.reqs[i].io.Tag = uint64(i)
	}
	q.chains = make([]virtqueue.Chain, min(batchSize, int(cfg.Size)))
	q.batch = make([]*volume.IO, 0, len(q.chains))
	q.fetching, q.completing, q.publishing, q.arming = q.fetch, q.complete, q.publish, q.arm
	q.Look, q.Arm = q.look, q.sleep
	q.ending.Run = q.end
	q.timer.Fire = q.tick
	return q, q.start()
}

// start puts the queue on a reactor: the volume's home if it has one.
func (q *queue) start() error {
	for range 2 {
		q.w = q.x.s.place(q.x.Volume.Home())
		if q.w == nil {
			return errors.New("the volume lives on a reactor that the server does not have")
		}
		var err error
		if !q.w.r.Do(func() { err = q.arrive() }) {
			return errors.New("the reactor has stopped")
		}
		if !errors.Is(err, volume.ErrWrongReactor) {
			return err
		}
	}
	return volume.ErrWrongReactor
}

// arrive is called on the reactor.
func (q *queue) arrive() (err error) {
	q.tally = q.w.tally(q.x)
	q.q, err = q.x.Volume.Open(q.w.r, q, volume.QueueOptions{ReadOnly: q.x.ReadOnly, Stats: &q.tally.requests})
	if err != nil {
		return err
	}
	if err := q.watch(); err != nil {
		q.q.Close()
		return err
	}
	q.tally.resubmitted += uint64(q.recovered)
	q.w.load.Add(1)
	q.w.queues[q] = struct{}{}
	q.wake() // a kick may have gone to a process that died
	return nil
}

// watch waits for kicks.
func (q *queue) watch() (err error) {
	if q.kick >= 0 {
		q.source, err = q.w.r.Add(q.kick, sys.EpollIn, q)
		return err
	}
	q.w.r.StartTimer(&q.timer, pollEvery)
	return nil
}

func (q *queue) unwatch() {
	if q.source != nil {
		q.source.Close()
		q.source = nil
	}
	q.w.r.StopTimer(&q.timer)
}

// setKick changes where kicks come from.
func (q *queue) setKick(fd int) error {
	q.unwatch()
	q.kick = fd
	if q.phase != running {
		return nil
	}
	q.wake()
	return q.watch()
}

// setCall changes where the guest is told, and tells it: what was published
// meanwhile may have gone to nobody.
func (q *queue) setCall(fd int) {
	q.call = fd
	q.tell()
}

// pause stops taking requests, or goes on. Outstanding ones are finished.
func (q *queue) pause(on bool) {
	q.paused = on
	q.wake()
}

// wake looks at the ring in this turn or the next, and publishes at the end of
// this one: New's owed notification, if nothing else.
func (q *queue) wake() {
	if q.phase == running && !q.paused {
		q.w.r.Poll(&q.Polled)
	}
	q.w.r.Defer(&q.ending)
}

// Ready is called when the front-end has kicked. The counter is not read here:
// every kick is an event though nobody reads it, and a read could be made to
// block. It is reset when the ring has stopped.
func (q *queue) Ready(uint32) {
	q.tally.kicks++
	if q.phase == running && !q.paused {
		q.w.r.Poll(&q.Polled)
	}
}

func (q *queue) tick() {
	if q.phase != running {
		return
	}
	q.w.r.StartTimer(&q.timer, pollEvery)
	if !q.paused {
		q.w.r.Poll(&q.Polled)
	}
}

// halt has the queue stop at the end of a batch. It leaves when nothing is
// outstanding and all is published.
func (q *queue) halt() {
	if q.phase != running {
		return
	}
	q.phase = stopping
	q.quit()
	q.w.r.Defer(&q.ending)
}

// quit ends all that could begin a turn.
func (q *queue) quit() {
	q.unwatch()
	q.w.r.StopPolling(&q.Polled)
}

// fail ends a queue whose ring or memory is no good. What the volume has of it
// is waited for; the guest is not told of it: the next connection that has the
// in-flight region finds it there.
func (q *queue) fail(err error) {
	if q.phase >= failed {
		return
	}
	q.phase = failed
	q.err = fmt.Errorf("queue %d: %w", q.index, err)
	q.batch = q.batch[:0]
	q.quit()
	select {
	case q.trips <- q.err:
	default: // another queue's failure is being handled already
	}
	q.leave()
}

// leave ends a queue of which nothing is outstanding.
func (q *queue) leave() {
	if q.phase == gone || q.q.InFlight() > 0 {
		return
	}
	q.phase = gone
	q.base = q.vq.Avail()
	q.q.Close()
	q.w.load.Add(-1)
	delete(q.w.queues, q)
	close(q.left)
}
