package nbdload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Load is a load under way. Its methods may be called from any goroutine.
type Load struct {
	options Options
	conns   []*conn
	epoch   time.Time
	stop    atomic.Bool
	done    chan struct{} // closed when no connection runs any more

	mu     sync.Mutex // held by Stop
	result *Result
	err    error
}

// Start connects, writes every block of the range once, and begins. ctx bounds
// this and not the load.
func Start(ctx context.Context, o Options) (*Load, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := dialContext(ctx, o.Timeout)
	defer cancel()
	l := &Load{options: o, done: make(chan struct{})}
	err := l.connect(ctx)
	if err == nil {
		err = l.fill(ctx)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	l.begin()
	return l, nil
}

// connect dials all connections. They must agree on the disk.
func (l *Load) connect(ctx context.Context) error {
	var size uint64
	for n := range l.options.Connections {
		f, e, err := dial(ctx, &l.options)
		if err != nil {
			return fmt.Errorf("connection %d: %w", n, err)
		}
		sock := newSocket(f)
		first, each, err := l.options.share(e.size)
		if err = errors.Join(err, e.check(&l.options)); err == nil && n > 0 && e.size != size {
			err = fmt.Errorf("nbdload: connection %d shows a disk of %d bytes, the first one %d", n, e.size, size)
		}
		if err != nil {
			sock.close()
			return err
		}
		size = e.size
		c := newConn(n, sock, &l.options, first, each)
		c.stop = &l.stop
		l.conns = append(l.conns, c)
	}
	return nil
}

// fill gives all blocks their first version.
func (l *Load) fill(ctx context.Context) error {
	// Who waits in the kernel is woken by the end of his connection.
	unwatch := context.AfterFunc(ctx, l.cut)
	defer unwatch()
	errs := make([]error, len(l.conns))
	var wg sync.WaitGroup
	for i, c := range l.conns {
		wg.Go(func() {
			if err := c.fill(); err != nil {
				errs[i] = fmt.Errorf("nbdload: connection %d, filling the disk: %w", i, err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), errors.Join(errs...))
	}
	return errors.Join(errs...)
}

func (l *Load) cut() {
	for _, c := range l.conns {
		c.sock.cut()
	}
}

func (l *Load) close() {
	for _, c := range l.conns {
		c.sock.close()
	}
}

// begin starts the clock and all connections.
func (l *Load) begin() {
	for _, c := range l.conns {
		c.rec = newRecorder(l.options.Run)
	}
	l.epoch = time.Now()
	var wg sync.WaitGroup
	for _, c := range l.conns {
		c.epoch = l.epoch
		wg.Go(c.run)
	}
	go func() {
		wg.Wait()
		close(l.done)
	}()
}

// Now is the time on the load's clock, which started with the first request
// after the filling. All windows of Result are in it.
func (l *Load) Now() time.Duration { return time.Since(l.epoch) }

// Done is closed when the load has ended: its time is over, or every connection
// has failed. Stop gives the result.
func (l *Load) Done() <-chan struct{} { return l.done }

// Progress is what has happened so far.
type Progress struct{ Completed, Failed, Mismatched uint64 }

// Progress of all connections.
func (l *Load) Progress() Progress {
	var p Progress
	for _, c := range l.conns {
		p.Completed += c.progress.completed.Load()
		p.Failed += c.progress.failed.Load()
		p.Mismatched += c.progress.mismatched.Load()
	}
	return p
}

// Stop makes no more requests, waits for those that are outstanding, at most
// Options.Timeout, and closes the connections. The error says which connections
// ended before their time; there is a result either way. Failed requests and
// mismatches are no error: see Result.Bad. Later calls give the same.
func (l *Load) Stop() (*Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.result != nil {
		return l.result, l.err
	}
	l.stop.Store(true)
	late := false
	timer := time.NewTimer(l.options.Timeout)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
		late = true
		l.cut()
		<-l.done
	}
	l.close()
	l.result = newResult(l)
	var errs []error
	for _, c := range l.conns {
		if c.err != nil {
			errs = append(errs, fmt.Errorf("nbdload: connection %d ended with %d requests outstanding: %w", c.number, c.lost, c.err))
		}
	}
	if late && errs != nil {
		errs = append(errs, fmt.Errorf("nbdload: what was outstanding was not answered within %v", l.options.Timeout))
	}
	l.err = errors.Join(errs...)
	return l.result, l.err
}
