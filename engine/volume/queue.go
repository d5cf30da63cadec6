package volume

import (
	"fmt"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// Handler is a frontend's side of a Queue.
type Handler interface {
	// Completed hands finished requests back, on the queue's reactor, at the
	// end of a turn; the slice is valid during the call only. It may submit.
	Completed(batch []*IO)
}

// Queue is a frontend's way into a volume on one reactor: a virtqueue, a
// client's connection. Its methods are for that reactor.
type Queue struct {
	lane     *lane
	handler  Handler
	readOnly bool
	seen     uint64 // flush failures that its guest has been told of
	inFlight int
	done     []*IO
	spare    []*IO
	deferred reactor.Deferred
	stats    [2]*Stats // the lane's and the export's
	closed   bool
}

// QueueOptions refine a queue.
type QueueOptions struct {
	ReadOnly bool
	Stats    *Stats // also counted here; belongs to the queue's reactor
}

// Open makes a queue on r; it is called on r. It fails with ErrNotOpen as long
// as the disk has not been seen and with ErrWrongReactor on any reactor but
// Home, if there is one.
func (v *Volume) Open(r *reactor.Reactor, h Handler, o QueueOptions) (*Queue, error) {
	l, err := v.lane(r)
	if err != nil {
		return nil, err
	}
	q := &Queue{lane: l, handler: h, readOnly: o.ReadOnly || v.readOnly, seen: v.flush.join()}
	q.stats = [2]*Stats{&l.stats, o.Stats}
	q.deferred.Run = q.deliver
	return q, nil
}

// Submit takes a batch; the slice is the caller's again on return. Every
// request comes back through Completed, also those that are refused.
func (q *Queue) Submit(batch []*IO) {
	if q.closed {
		panic("volume: submit to a closed queue")
	}
	l := q.lane
	now := l.r.Now()
	q.count(len(batch))
	for _, io := range batch {
		io.queue, io.lane, io.parent, io.plan = q, l, nil, nil
		io.start, io.stage, io.errs = now, stageWhole, block.OK
		io.Status, io.Filled, io.Owner = block.OK, 0, io
		l.begin(io)
	}
	l.push()
}

// count notes that n requests have begun, or that -n have ended.
func (q *Queue) count(n int) {
	q.inFlight += n
	for _, s := range q.stats {
		if s != nil {
			s.InFlight += int64(n)
		}
	}
}

// InFlight is the number of requests that have not come back.
func (q *Queue) InFlight() int { return q.inFlight }

// Volume is the volume that the queue leads to.
func (q *Queue) Volume() *Volume { return q.lane.v }

// Close ends the queue. Nothing may be in flight.
func (q *Queue) Close() {
	if q.inFlight != 0 {
		panic(fmt.Sprintf("volume: queue closed with %d requests in flight", q.inFlight))
	}
	q.closed = true
}

// finish is called once for each request of a guest.
func (q *Queue) finish(io *IO) {
	q.done = append(q.done, io)
	q.lane.r.Defer(&q.deferred)
}

// deliver hands over what has finished in this turn.
func (q *Queue) deliver() {
	now := q.lane.r.Now()
	batch := q.done
	q.done = q.spare[:0]
	q.count(-len(batch))
	for _, io := range batch {
		for _, s := range q.stats {
			if s != nil {
				s.count(&io.Request, now-io.start)
			}
		}
	}
	q.handler.Completed(batch)
	clear(batch)
	q.spare = batch[:0]
}
