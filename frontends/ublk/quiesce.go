package ublk

import (
	"context"
	"time"
)

// quiescePatience is how long the driver waits for every queue to have a tag
// without a request, which it needs to tell us by. It holds the device's lock
// meanwhile.
const quiescePatience = time.Second

// quiesce has the driver hand out no more requests, where it can (Linux 6.16), and
// answers those that we have. What users submit from then on waits in the kernel
// for the next engine, or fails, as Options.Recovery has it; without this some of
// it would have come to us and be given out a second time. From its beginning on
// the device must be left: the driver has no way back.
//
// That it fails does no harm: leaving goes the old way.
func (d *Device) quiesce(ctx context.Context) {
	if !d.quiesces {
		return
	}
	if err := d.dev.run(ctx, d.quiesceOrder()); err != nil {
		d.log.Info("device is left without being quiesced", "device", d.Path(), "err", err)
		return
	}
	at(StepQuiesced)
	if err := d.await(ctx, (*queue).drained); err != nil {
		d.log.Info("device is left with requests", "device", d.Path(), "err", err)
	}
}

// drained tells whether nothing of the queue is on its way: not in the volume,
// and not waiting to go there.
func (q *queue) drained() bool { return q.idle() && len(q.waiting) == 0 && len(q.batch) == 0 }

// quiesceOrder is the command for it.
func (d *Device) quiesceOrder() order {
	o := d.dev.order(cmdQuiesce)
	o.data, o.long = uint64(quiescePatience/time.Millisecond), quiescePatience
	return o
}

// disarmed has the driver give back all commands that it holds of a device that is
// to stay, after which the device can be let go of though its rings go on.
func (d *Device) disarmed(ctx context.Context) {
	d.disarm(ctx, d.quiesceOrder())
}

// disarm has the driver do so by the command o.
func (d *Device) disarm(ctx context.Context, o order) {
	err := d.dev.run(ctx, o)
	if err == nil {
		err = d.await(ctx, func(q *queue) bool { return q.held() == 0 })
	}
	if err != nil {
		d.warn(err)
	}
}

// holds tells whether the driver has commands that the end of a queue does not end.
func (d *Device) holds() bool {
	total := 0
	for _, q := range d.queues {
		if q.r != nil && q.copy == CopyZero {
			q.r.Do(func() { total += q.held() })
		}
	}
	return total > 0
}

func (q *queue) held() int {
	if q.ring == nil {
		return 0
	}
	return q.ring.Held()
}
