package vhosttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/engine/sys"
)

// Load is a load under way. Its methods may be called from any goroutine.
type Load struct {
	o       LoadOptions
	f       *Frontend
	own     bool // f is ours to close
	workers []*worker
	epoch   int64 // sys.Nanotime at the first request after the filling
	stop    atomic.Bool
	down    atomic.Bool   // there is no back-end
	resumed atomic.Int64  // when there was one again, on the clock of sys.Nanotime
	done    chan struct{} // closed when no worker runs any more
	ended   chan struct{} // closed when nobody redials any more

	mu      sync.Mutex // guards what follows
	outages []Outage
	err     error // of redialling
	result  *LoadResult
}

// Run makes a load and gives what it saw. The error says what ended it before
// its time; see LoadResult.Bad for what it found wrong. There is no result if it
// did not begin.
func Run(ctx context.Context, o LoadOptions) (*LoadResult, error) {
	l, err := StartLoad(ctx, o)
	if err != nil {
		return nil, err
	}
	select {
	case <-l.Done():
	case <-ctx.Done():
	}
	return l.Stop()
}

// StartLoad prepares a load and begins it. ctx bounds the preparation.
func StartLoad(ctx context.Context, o LoadOptions) (*Load, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	l := &Load{o: o, f: o.Frontend, done: make(chan struct{}), ended: make(chan struct{})}
	if l.f == nil {
		if err := l.open(ctx); err != nil {
			return nil, err
		}
	}
	err := l.makeWorkers()
	if err == nil && o.Verify {
		err = l.fill(ctx)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	l.begin()
	return l, nil
}

func (l *Load) open(ctx context.Context) (err error) {
	o := l.o.Options
	if o.Memory == nil {
		o.Memory = l.o.memory()
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	l.f, err = Open(ctx, o)
	l.own = err == nil
	return err
}

func (l *Load) makeWorkers() error {
	first, each, err := l.o.share(l.f.Sectors(), l.f.Queues())
	if err != nil {
		return err
	}
	for i := range l.f.Queues() {
		w, err := newWorker(l, i, first+uint64(i)*each, each)
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		l.workers = append(l.workers, w)
	}
	return nil
}

func (l *Load) close() {
	for _, w := range l.workers {
		w.close()
	}
	if l.own {
		l.f.Close()
	}
}

// fill gives all blocks their first version.
func (l *Load) fill(ctx context.Context) error {
	unwatch := context.AfterFunc(ctx, func() { l.stop.Store(true) })
	defer unwatch()
	var wg sync.WaitGroup
	for _, w := range l.workers {
		wg.Go(w.fill)
	}
	wg.Wait()
	var errs []error
	for _, w := range l.workers {
		if w.err != nil {
			errs = append(errs, fmt.Errorf("queue %d, filling the disk: %w", w.queue, w.err))
		}
	}
	if ctx.Err() != nil {
		errs = append(errs, context.Cause(ctx))
	}
	return errors.Join(errs...)
}

// begin starts the clock and all queues.
func (l *Load) begin() {
	l.epoch = sys.Nanotime()
	var wg sync.WaitGroup
	for _, w := range l.workers {
		wg.Go(w.run)
	}
	go func() {
		wg.Wait()
		close(l.done)
	}()
	go l.watch()
}

// watch redials when the back-end is lost, or ends the load.
func (l *Load) watch() {
	defer close(l.ended)
	for {
		select {
		case <-l.done:
			return
		case <-l.f.Lost():
		}
		from := l.Now()
		l.down.Store(true)
		err := error(ErrLost)
		if l.o.Reconnect {
			err = l.redial()
		}
		l.mu.Lock()
		l.outages = append(l.outages, Outage{from, l.Now()})
		l.err = err
		l.mu.Unlock()
		if err != nil {
			l.stop.Store(true)
			return
		}
		l.resumed.Store(sys.Nanotime())
		l.down.Store(false)
	}
}

// redial tries until there is a back-end, the load ends, or it takes too long.
func (l *Load) redial() error {
	ctx, cancel := context.WithTimeout(context.Background(), l.o.Timeout)
	defer cancel()
	go func() {
		select {
		case <-l.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return l.f.Redial(ctx)
}

// Now is the time on the load's clock, which started with the first request
// after the filling. All times of LoadResult are on it.
func (l *Load) Now() time.Duration { return time.Duration(sys.Nanotime() - l.epoch) }

// Done is closed when the load has ended by itself. Stop gives the result.
func (l *Load) Done() <-chan struct{} { return l.done }

// Progress is what has happened so far.
type Progress struct{ Completed, Failed, Mismatched uint64 }

// Progress of all queues.
func (l *Load) Progress() Progress {
	var p Progress
	for _, w := range l.workers {
		p.Completed += w.progress.completed.Load()
		p.Failed += w.progress.failed.Load()
		p.Mismatched += w.progress.mismatched.Load()
	}
	return p
}

// Stop makes no more requests, waits for those that are outstanding, and ends.
// Later calls give the same.
func (l *Load) Stop() (*LoadResult, error) {
	l.stop.Store(true)
	<-l.done
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.result == nil {
		l.result = newLoadResult(l)
		l.close()
	}
	errs := []error{l.err}
	for _, w := range l.workers {
		if w.err != nil {
			errs = append(errs, fmt.Errorf("queue %d: %w", w.queue, w.err))
		}
	}
	return l.result, errors.Join(errs...)
}
