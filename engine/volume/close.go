package volume

import (
	"context"
	"errors"
	"fmt"

	"blockengine/engine/reactor"
	"blockengine/sdk/block"
)

// Close flushes the disk, closes the channels, and then the device. Every
// queue has been closed before. It is not for a reactor's thread.
func (v *Volume) Close(ctx context.Context) error {
	d := v.device.Load()
	if d == nil {
		v.SetState(Stopped, "closed")
		return nil
	}
	err := v.finalFlush(ctx)
	v.SetState(Stopped, "closed")
	for i := range v.lanes {
		if l := v.lanes[i].Load(); l != nil {
			l.r.Do(func() { l.ch.Close() })
		}
	}
	return errors.Join(err, (*d).Close())
}

// finalFlush makes what guests have written durable, as a disk would that is
// switched off in order. A volume that is away cannot.
func (v *Volume) finalFlush(ctx context.Context) error {
	if s, _ := v.State(); s != Online {
		return nil
	}
	var r *reactor.Reactor
	for i := range v.lanes {
		if l := v.lanes[i].Load(); l != nil {
			r = l.r
		}
	}
	if r == nil {
		return nil // nobody has used it
	}
	f := &flushOnce{done: make(chan block.Status, 1)}
	r.Post(reactor.MailFunc(func() {
		q, err := v.Open(r, f, QueueOptions{})
		if err != nil {
			f.done <- block.EIO
			return
		}
		f.io.Op = block.OpFlush
		q.Submit([]*IO{&f.io})
	}))
	select {
	case st := <-f.done:
		if st != block.OK {
			return fmt.Errorf("volume %q: the last flush failed: %w", v.name, st)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("volume %q: the last flush was not answered in time: %w", v.name, ctx.Err())
	}
}

type flushOnce struct {
	io   IO
	done chan block.Status
}

func (f *flushOnce) Completed(batch []*IO) { f.done <- batch[0].Status }

// Stats gives the sum over all reactors; it is not for a reactor's thread.
func (v *Volume) Stats() Stats {
	var sum Stats
	for i := range v.lanes {
		if l := v.lanes[i].Load(); l != nil {
			l.r.Do(func() { sum.Add(&l.stats) })
		}
	}
	return sum
}
