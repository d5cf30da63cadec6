package sdktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// lane stands for a reactor with a channel: all calls of the channel come from
// one goroutine. It checks how requests come back.
type lane struct {
	channel store.Channel
	work    chan func()
	over    chan struct{}
	once    sync.Once
	inside  atomic.Bool // within Submit
	cut     *rand.Rand  // cuts payload into segments, if it is set

	mu       sync.Mutex // guards what follows
	pending  map[*block.Request]*Request
	awaited  int
	findings []string
	idle     chan struct{} // told when nothing is awaited
}

// laneWait bounds how long requests may take.
const laneWait = 30 * time.Second

// lane opens a channel.
func (d *disk) lane(t TB) *lane {
	t.Helper()
	l := &lane{work: make(chan func()), over: make(chan struct{}), pending: map[*block.Request]*Request{}, idle: make(chan struct{}, 1)}
	go func() {
		defer close(l.over)
		for f := range l.work {
			f()
		}
	}()
	var err error
	l.on(func() { l.channel, err = d.Channel(l) })
	if err != nil {
		close(l.work)
		t.Fatalf("a channel: %v", err)
	}
	d.lanes = append(d.lanes, l)
	return l
}

// on runs f on the lane's goroutine and waits for it.
func (l *lane) on(f func()) {
	done := make(chan struct{})
	l.work <- func() { defer close(done); f() }
	<-done
}

func (l *lane) close() {
	l.once.Do(func() {
		l.on(l.channel.Close)
		close(l.work)
		<-l.over
	})
}

// batch is how many requests go down at once.
const batch = 64

// do submits requests and waits until all have come back.
func (l *lane) do(t TB, requests ...*Request) {
	t.Helper()
	l.submit(requests...)
	l.wait(t)
}

// submit hands requests down, in batches.
func (l *lane) submit(requests ...*Request) {
	l.mu.Lock()
	l.awaited += len(requests)
	l.mu.Unlock()
	for len(requests) > 0 {
		n := min(len(requests), batch)
		down := make([]*block.Request, n)
		for i, r := range requests[:n] {
			down[i] = l.lower(r)
		}
		requests = requests[n:]
		l.on(func() {
			l.inside.Store(true)
			l.channel.Submit(down)
			clear(down) // the slice is the caller's again
			l.inside.Store(false)
		})
	}
}

// wait waits until all have come back, and fails the test over what is wrong
// with how they did.
func (l *lane) wait(t TB) {
	t.Helper()
	timer := time.NewTimer(laneWait)
	defer timer.Stop()
	late := false
	for !late {
		l.mu.Lock()
		done := l.awaited == 0
		l.mu.Unlock()
		if done {
			break
		}
		select {
		case <-l.idle:
		case <-timer.C:
			late = true
		}
	}
	l.mu.Lock()
	findings, left := l.findings, l.awaited
	l.findings = nil
	l.mu.Unlock()
	for _, f := range findings {
		t.Errorf("the plugin broke the contract: %s%s", f, inStores.suffix())
	}
	if left > 0 {
		t.Fatalf("%d requests did not come back within %v%s", left, laneWait, inStores.suffix())
	}
}

// lower makes the request that a plugin sees.
func (l *lane) lower(r *Request) *block.Request {
	b := &block.Request{Op: r.Op, Flags: r.Mods, Offset: r.Offset, Length: r.Length, Owner: r}
	switch r.Op {
	case block.OpRead:
		r.Data = make([]byte, r.Length)
		b.Data = l.segments(r.Data)
	case block.OpWrite:
		b.Data = l.segments(r.Data)
	case block.OpBlockStatus:
		b.Extents = make([]block.Extent, 0, 16)
	}
	l.mu.Lock()
	l.pending[b] = r
	l.mu.Unlock()
	return b
}

func (l *lane) segments(b []byte) [][]byte {
	if l.cut == nil || len(b) < 2 {
		return [][]byte{b}
	}
	var parts [][]byte
	for len(b) > 0 {
		n := 1 + l.cut.IntN(len(b))
		parts = append(parts, b[:n:n])
		b = b[n:]
	}
	return parts
}

// Complete implements store.Completer.
func (l *lane) Complete(r *block.Request) {
	if !l.inside.Load() {
		l.find("Complete was called, and no Submit is running: use Post")
	}
	l.back(r)
}

// Post implements store.Completer.
func (l *lane) Post(requests []*block.Request) {
	for _, r := range requests {
		l.back(r)
	}
}

func (l *lane) find(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.findings = append(l.findings, fmt.Sprintf(format, args...))
}

// back takes a request that has ended.
func (l *lane) back(b *block.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.pending[b]
	if r == nil {
		l.findings = append(l.findings, "a request came back that is not outstanding: each is completed once")
		return
	}
	delete(l.pending, b)
	if wrong := wrongEnd(b, r); wrong != "" {
		l.findings = append(l.findings, wrong)
	}
	r.Status, r.Extents, r.Done = b.Status, b.Extents, true
	if l.awaited--; l.awaited == 0 {
		select {
		case l.idle <- struct{}{}:
		default:
		}
	}
}

// wrongEnd says what is wrong with the result of a request, "" if nothing is.
func wrongEnd(b *block.Request, r *Request) string {
	sum := uint64(0)
	for _, e := range b.Extents {
		if e.Length == 0 || e.State&^(block.Hole|block.Zero) != 0 {
			return "an extent is empty or has a state that nobody has defined"
		}
		sum += e.Length
	}
	switch {
	case b.Status > block.MaxStatus:
		return fmt.Sprintf("a %v ends with errno %d", r.Op, b.Status)
	case b.Op != r.Op || b.Offset != r.Offset || b.Length != r.Length:
		return fmt.Sprintf("a %v came back changed: only Status, Filled and Extents are the plugin's", r.Op)
	case r.Op == block.OpRead && b.Status == block.OK && b.Filled != b.Length:
		return fmt.Sprintf("a read of %d bytes ends well with %d bytes filled", b.Length, b.Filled)
	case len(b.Extents) > 16 || sum > b.Length && len(b.Extents) > 1 && sum-b.Extents[len(b.Extents)-1].Length >= b.Length:
		return "there are more extents than were asked for"
	}
	return ""
}
