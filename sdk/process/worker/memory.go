package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"syscall"

	"blockengine/sdk/process/ring"
)

// Memory is the memory of virtual machines that the engine has shown this process,
// by number. Requests whose payload lies there name it. One serves all workers.
type Memory struct {
	mu sync.Mutex // orders changes of known
	// known is never changed in place, so that a look-up takes no lock.
	known atomic.Pointer[map[uint64]*mapped]
}

// mapped is one of them.
type mapped struct {
	b []byte
	// out is how many requests that the plugin holds lie in it, and one more until
	// it is forgotten: so it gets to 0 once.
	out  atomic.Int64
	idle chan struct{} // closed when out is 0
}

// NewMemory gives one of which nothing has been shown yet.
func NewMemory() *Memory {
	m := &Memory{}
	m.known.Store(&map[uint64]*mapped{})
	return m
}

// dontFork is MADV_DONTFORK: what the plugin forks has no part in the memory, which
// nobody may touch any more when the process has ended.
const dontFork = 10

// Map maps size bytes of a file from offset on, and requests may name it by number
// from now on. The descriptor stays the caller's.
func (m *Memory) Map(number uint64, fd int, offset, size uint64) error {
	const most = 1 << 62
	if size == 0 || size > most || offset > most {
		return fmt.Errorf("memory %d has %d bytes at %d of its file: it cannot be mapped", number, size, offset)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.known.Load()
	if known[number] != nil {
		return fmt.Errorf("memory %d has been shown already", number)
	}
	b, err := syscall.Mmap(fd, int64(offset), int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map memory %d of %d bytes: %w", number, size, err)
	}
	if err := syscall.Madvise(b, dontFork); err != nil {
		_ = syscall.Munmap(b)
		return fmt.Errorf("keep memory %d from children: %w", number, err)
	}
	a := &mapped{b: b, idle: make(chan struct{})}
	a.out.Store(1)
	next := maps.Clone(known)
	next[number] = a
	m.known.Store(&next)
	return nil
}

// Forget unmaps memory, as soon as no request lies in it, and waits for that until
// ctx ends. Memory that is not there is forgotten.
func (m *Memory) Forget(ctx context.Context, number uint64) error {
	m.mu.Lock()
	known := *m.known.Load()
	a := known[number]
	if a != nil {
		next := maps.Clone(known)
		delete(next, number)
		m.known.Store(&next)
	}
	m.mu.Unlock()
	if a == nil {
		return nil
	}
	a.leave()
	select {
	case <-a.idle:
		return syscall.Munmap(a.b)
	case <-ctx.Done():
	}
	// Nobody asks again. Whenever the last request ends it is unmapped.
	go func() {
		<-a.idle
		_ = syscall.Munmap(a.b)
	}()
	return fmt.Errorf("%d requests lie in memory %d, which has to be given back: %w", a.out.Load(), number, ctx.Err())
}

// leave counts one less.
func (a *mapped) leave() {
	if a.out.Add(-1) == 0 {
		close(a.idle)
	}
}

var errUnknown = errors.New("the engine names memory that it has not shown")

// borrow appends what pieces name to data, and the memory that each lies in to in,
// counted as in use.
func (m *Memory) borrow(pieces []ring.Piece, data [][]byte, in []*mapped) ([][]byte, []*mapped, error) {
	if m == nil {
		return data, in, errUnknown
	}
	known := *m.known.Load()
	for i := range pieces {
		p := &pieces[i]
		a := known[p.Memory]
		if a == nil {
			return data, in, fmt.Errorf("%w: number %d", errUnknown, p.Memory)
		}
		end := p.Offset + uint64(p.Length)
		if end < p.Offset || end > uint64(len(a.b)) {
			return data, in, fmt.Errorf("the engine names %d bytes at %d of memory %d, which has %d", p.Length, p.Offset, p.Memory, len(a.b))
		}
		a.out.Add(1)
		data, in = append(data, a.b[p.Offset:end:end]), append(in, a)
	}
	return data, in, nil
}

// holds tells whether addr lies in memory that has been shown.
func (m *Memory) holds(addr uintptr) bool {
	if m == nil {
		return false
	}
	for _, a := range *m.known.Load() {
		if from := addressOf(a.b); addr >= from && addr-from < uintptr(len(a.b)) {
			return true
		}
	}
	return false
}
